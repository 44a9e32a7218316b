"""Files of the Hugging Face hub: `hf://datasets/OWNER/NAME[@REVISION]/PATH`, with wildcards.

They are downloaded into the scratch folder and read from there, by the hub's own HTTP interface: DuckDB's extension for it has
to be downloaded first, which many machines may not do. `HF_ENDPOINT` names a mirror, `HF_TOKEN` the token for
private data; both are the variables that the hub's own tools read. The token goes to the hub and to nobody that it redirects to.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from batchling import limits
from batchling.errors import DataError, ProviderError
from batchling.source.bounds import most_bytes, too_many_bytes
from batchling.source.faults import nearest
from batchling.trust import is_loopback

SCHEME = "hf://"
_PATH = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
_WILD = re.compile(r"[*?\[]")
_SECONDS = 60.0
_LARGEST = 20_000_000_000
_PAGES = 1_000
_BLOCK = 1 << 20


def fetched(path: str, folder: Path, bound: int | None = None) -> list[str]:
    """The files that a path names, as copies below `folder`.

    Args:
        bound: bytes that one file may have; None: 20 GB.

    Raises:
        DataError: it names none, or the hub refuses or cannot be reached.
        TooLarge: a file is larger than the disk has room for.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise DataError(
            f"data.path: {path} is no file of a data set; expected hf://datasets/OWNER/NAME/FILE", key="data.path"
        )
    repository, revision, name = found[1], found[2] or "main", found[3]
    if not (_inside(repository) and _inside(name)):
        raise DataError(f"data.path: {path} leaves its data set: a part of it is empty, . or ..", key="data.path")
    names = [name]
    if _WILD.search(name):
        try:
            pattern = re.compile(_translated(name))
        except re.error as error:
            raise DataError(f"data.path: {path} is no pattern for files: {error}", key="data.path") from None
        every = sorted(set(_listed(repository, revision, path)))
        names = [one for one in every if pattern.fullmatch(one)]
        if not names:
            raise DataError(f"data.path: no file matches {path}{nearest(name, every)}", key="data.path")
    copies = []
    for one in names:
        copy = folder / "hf:" / "datasets" / repository / one
        copy.parent.mkdir(parents=True, exist_ok=True)
        _download(f"/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(one)}", copy, path, bound)
        copies.append(str(copy))
    return copies


def _inside(name: str) -> bool:
    """Whether a name below a folder stays there: a list of files comes from a server, which may say anything."""
    return "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def _translated(pattern: str) -> str:
    """A glob as a regular expression: `*` stays in its folder, `**` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|[^*?\[]+|\[", pattern)
    return "".join(words.get(p) or (_set(p) if p.startswith("[") and len(p) > 1 else re.escape(p)) for p in parts)


def _set(written: str) -> str:
    """`[ab]`, `[a-z]` and `[!a]` of a glob as a regular expression."""
    inside = written[1:-1].replace("\\", r"\\").replace("[", r"\[")
    return f"[^/{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"


def _listed(repository: str, revision: str, path: str) -> Iterator[str]:
    """Every file of a data set."""
    url: str | None = f"/api/datasets/{repository}/tree/{quote(revision, safe='')}?recursive=true"
    for _ in range(_PAGES):
        if url is None:
            return
        with _opened(url, path) as response:
            page = response.read(limits.CONTROL_BYTES + 1)
            following = re.search(r'<([^>]+)>;\s*rel="next"', response.headers.get("link") or "")
        yield from _files(page, path)
        url = None
        if following is not None:
            parts = urlsplit(following[1])
            url = f"{parts.path}?{parts.query}"  # the next page is asked of the hub we know
    if url is not None:
        raise DataError(
            f"the hub's list of files for {path} has more than {_PAGES:,} pages",
            where=path,
            next_command="name a file without * in data.path",
        )


def _files(page: bytes, path: str) -> Iterator[str]:
    """The files in a page of a list."""
    try:
        if len(page) > limits.CONTROL_BYTES:
            raise limits.BeyondLimit(f"more than {limits.CONTROL_BYTES:,} bytes")
        found = [(entry["type"], entry["path"]) for entry in limits.loads(page)]
    except (ValueError, TypeError, KeyError) as error:
        words = f": {error}" if isinstance(error, limits.BeyondLimit) else ""
        raise DataError(f"the hub's reply to {path} is not a list of files{words}", where=path) from None
    for kind, name in found:
        if kind == "file":
            if not (isinstance(name, str) and _inside(name)):
                raise DataError(f"the hub lists a file outside its data set: {name!r:.200}", where=path)
            yield name


def _download(url: str, to: Path, path: str, bound: int | None) -> None:
    most, key = most_bytes(to.parent, _LARGEST if bound is None else bound)
    size = 0
    with _opened(url, path) as response, to.open("wb") as out:
        while block := response.read(_BLOCK):
            size += out.write(block)
            if size > most:
                raise too_many_bytes(most, key)
        told = response.headers.get("content-length")
    if told is not None and told.isdigit() and int(told) != size:
        raise DataError(
            f"the download of {path} ended early: {size:,} of {int(told):,} bytes; run it again", where=path
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows the hub to its storage, and from https to nothing but https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise urllib.error.URLError(f"it redirects to an address of {scheme or 'no scheme'}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)  # it reads the system's certificates: once is enough


def _endpoint() -> tuple[str, SplitResult]:
    """The hub's address."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").strip().rstrip("/")
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if (
        not sound
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not endpoint.isprintable()
        or " " in endpoint
    ):
        raise DataError(
            "the variable HF_ENDPOINT does not hold a plain http(s) address, such as https://huggingface.co"
        )
    return endpoint, parts


@contextmanager
def _opened(url: str, path: str) -> Iterator[Any]:
    """A reply of the hub. What goes wrong with it, also while it is read, is an error about the data."""
    endpoint, parts = _endpoint()
    request = urllib.request.Request(endpoint + url, headers={"user-agent": "batchling"})
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and (parts.scheme == "https" or is_loopback(parts.hostname)):
        if not (token.isascii() and token.isprintable()):
            raise ProviderError("the variable HF_TOKEN is not one line of printable ASCII characters; nothing was sent")
        request.add_unredirected_header("authorization", f"Bearer {token}")
    try:
        response = _opener().open(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            hint = (
                "ask for access on its page, and export HF_TOKEN=…" if not token else "HF_TOKEN gives no access to it"
            )
            raise DataError(f"the hub refuses {path} ({error.code})", where=path, next_command=hint) from None
        if error.code == 404:
            raise DataError(
                f"data.path: there is no {path} on the hub (private data needs HF_TOKEN)", where=path, key="data.path"
            ) from None
        raise DataError(f"the hub answers {error.code} to {path}; run it again later", where=path) from None
    except (urllib.error.URLError, http.client.HTTPException, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DataError(
            f"the hub cannot be reached at {parts.hostname}: {reason}",
            where=path,
            next_command="download the file on a machine with a network and name it in data.path, or set HF_ENDPOINT to a mirror",
        ) from None
    with response:
        try:
            yield _Reply(response)
        except _Broken as error:
            raise DataError(
                f"the download of {path} broke off: {error}", where=path, next_command="run the same command again"
            ) from None


class _Broken(Exception):
    """A reply that ended in the middle."""


class _Reply:
    """A reply whose reads fail in one way: an error of the network is none of the disk that it is written to."""

    def __init__(self, response: Any):
        self._response = response
        self.headers = response.headers

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._response.read(size)
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(str(error) or type(error).__name__) from None
        return data
