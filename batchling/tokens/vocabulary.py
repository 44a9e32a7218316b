"""Where a tiktoken vocabulary comes from, so that its absence neither stops nor delays a plan.

tiktoken ships no vocabulary and fetches it at first use, without a timeout. Here it is looked for first in
tiktoken's own cache and ours, then in an installed package that carries the same file (checked by its sha256:
the bytes are the same, so nothing has to be fetched), and only then fetched, once in a process, in bounded time.
"""

from __future__ import annotations

import atexit
import gzip
import hashlib
import importlib.util
import os
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.scratch import scratch

if TYPE_CHECKING:
    import tiktoken

FETCH_SECONDS = 6.0
"""The most that fetching may take, name look-up included."""

_LARGEST = 64 << 20  # bytes; the largest real file has 4 MB


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One vocabulary file: where OpenAI publishes it and what its bytes must hash to (source: tiktoken 0.14's tables)."""

    url: str
    sha256: str

    @property
    def filename(self) -> str:
        """The name under which tiktoken caches it."""
        return hashlib.sha1(self.url.encode()).hexdigest()


_PUBLISHED = "https://openaipublic.blob.core.windows.net/encodings/"
_O200K = Vocabulary(
    _PUBLISHED + "o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
)
_P50K = Vocabulary(
    _PUBLISHED + "p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
)

VOCABULARIES: Mapping[str, Vocabulary] = {
    "o200k_base": _O200K,
    "o200k_harmony": _O200K,
    "cl100k_base": Vocabulary(
        _PUBLISHED + "cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    ),
    "p50k_base": _P50K,
    "p50k_edit": _P50K,
    "r50k_base": Vocabulary(
        _PUBLISHED + "r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    ),
}

_lock = threading.Lock()
_failed: dict[str, str] = {}  # url -> why; a fetch that failed is not tried again in this process


def cache_folder() -> Path:
    """Where a vocabulary is kept: TIKTOKEN_CACHE_DIR when it is set, else a folder of the user's cache."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "batchling" / "tiktoken"
    except RuntimeError:  # no home folder
        return Path(tempfile.gettempdir()) / "batchling-tiktoken"


def folders() -> list[Path]:
    """Folders that may hold it already: the one tiktoken would use, then ours."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    theirs = Path(tempfile.gettempdir()) / "data-gym-cache" if named is None else Path(named) if named else None
    return [folder for folder in (theirs, cache_folder()) if folder is not None]


def carried(vocabulary: Vocabulary, package: str, inside: str) -> bytes | None:
    """The file as an installed package carries it (unpacked when its name ends in .gz), or None. Imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or []) if spec else []:
        file = Path(location) / inside
        try:
            content = file.read_bytes()
            data = gzip.decompress(content) if file.suffix == ".gz" else content
        except (OSError, EOFError):
            continue
        if hashlib.sha256(data).hexdigest() == vocabulary.sha256:
            return data
    return None


def carriers(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Packages known to carry a vocabulary, and the file's place inside them."""
    stem = vocabulary.url.rsplit("/", 1)[-1]
    return [("litellm", f"litellm_core_utils/tokenizers/{vocabulary.filename}"), ("bpe_openai", f"data/{stem}.gz")]


def bounded(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns, or TimeoutError after this many seconds. Runs in a thread that cannot keep the process alive."""
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["value"] = work()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="batchling-vocabulary")
    thread.start()
    thread.join(seconds)
    if "error" in box:
        raise box["error"]
    if "value" not in box:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return box["value"]


def fetch(vocabulary: Vocabulary, seconds: float = FETCH_SECONDS) -> bytes | None:
    """The file from its publisher, or None. A failure is remembered for the life of the process."""
    if vocabulary.url in _failed:
        return None

    def download() -> bytes:
        with urllib.request.urlopen(vocabulary.url, timeout=seconds) as response:
            return bytes(response.read(_LARGEST))

    try:
        data: bytes = bounded(download, seconds)
    except Exception as error:
        _failed[vocabulary.url] = f"{type(error).__name__}: {error}"
        return None
    if hashlib.sha256(data).hexdigest() != vocabulary.sha256:
        _failed[vocabulary.url] = "what was fetched is not the published file"
        return None
    return data


def locate(
    vocabulary: Vocabulary,
    *,
    kept: Sequence[Path] | None = None,
    packages: Sequence[tuple[str, str]] | None = None,
    seconds: float = FETCH_SECONDS,
) -> Path | None:
    """A folder that holds the file under tiktoken's name for it, its bytes checked; None when it cannot be had.

    Args:
        vocabulary: the file.
        kept: folders to look in first; None: `folders()`.
        packages: installed packages to look in next; None: `carriers(vocabulary)`.
        seconds: how long fetching may take; 0: do not fetch.
    """
    for folder in folders() if kept is None else kept:
        try:
            content = (folder / vocabulary.filename).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == vocabulary.sha256:
            return folder
    for package, inside in carriers(vocabulary) if packages is None else packages:
        data = carried(vocabulary, package, inside)
        if data is not None:
            return _keep(vocabulary, data)
    data = fetch(vocabulary, seconds) if seconds > 0 else None
    return _keep(vocabulary, data) if data is not None else None


@cache
def _temporary() -> Path:
    """A folder that lasts as long as the process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch("tiktoken"))


def _keep(vocabulary: Vocabulary, data: bytes) -> Path:
    """Write the file into the cache, or into a temporary folder when the cache cannot be written."""
    for make in (cache_folder, _temporary):
        folder = make()
        partial = folder / f"{vocabulary.filename}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(folder / vocabulary.filename)
        except OSError:
            continue
        return folder
    raise OSError("neither the cache nor the temporary folder can be written")


def encoding(name: str) -> tuple[tiktoken.Encoding | None, str]:
    """The encoding, or None and why it cannot be had. Takes FETCH_SECONDS at most."""
    import tiktoken
    import tiktoken.registry

    with _lock:
        if name in tiktoken.registry.ENCODINGS:
            return tiktoken.get_encoding(name), ""
        vocabulary = VOCABULARIES.get(name)
        if vocabulary is None:  # one of a tiktoken plug-in, or gpt2: it knows its files
            try:
                found: tiktoken.Encoding = bounded(lambda: tiktoken.get_encoding(name), FETCH_SECONDS)
            except Exception as error:
                return None, f"{type(error).__name__}: {error}"
            return found, ""
        try:
            folder = locate(vocabulary)
        except OSError as error:
            return None, str(error)
        if folder is None:
            return None, _failed.get(vocabulary.url, "not available")
        return _from(folder, name), ""


def _from(folder: Path, name: str) -> tiktoken.Encoding:
    """tiktoken has no argument for the folder, only this variable; it is put back at once."""
    import tiktoken

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
