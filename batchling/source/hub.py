"""Files of the Hugging Face hub: `hf://datasets/OWNER/NAME[@REVISION]/PATH`, with wildcards.

They are downloaded into the scratch folder and read from there, by the hub's own HTTP interface: DuckDB's extension for it has
to be downloaded first, which many machines may not do. `HF_ENDPOINT` names a mirror, `HF_TOKEN` the token for
private data; both are the variables that the hub's own tools read. The token goes to the hub and to nobody that it redirects to.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from batchling import limits
from batchling.errors import DataError
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


def fetched(path: str, folder: Path) -> list[str]:
    """The files that a path names, as copies below `folder`.

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
    names = [name]
    if _WILD.search(name):
        every = sorted(_listed(repository, revision, path))
        pattern = re.compile(_translated(name))
        names = [one for one in every if pattern.fullmatch(one)]
        if not names:
            raise DataError(f"data.path: no file matches {path}{nearest(name, every)}", key="data.path")
    copies = []
    for one in names:
        copy = folder / "hf:" / "datasets" / repository / one
        copy.parent.mkdir(parents=True, exist_ok=True)
        _download(f"/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(one)}", copy, path)
        copies.append(str(copy))
    return copies


def _translated(pattern: str) -> str:
    """A glob as a regular expression: `*` stays in its folder, `**` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|[^*?\[]+|\[", pattern)
    return "".join(words.get(p) or (p if p.startswith("[") and len(p) > 1 else re.escape(p)) for p in parts)


def _listed(repository: str, revision: str, path: str) -> Iterator[str]:
    """Every file of a data set."""
    url: str | None = f"/api/datasets/{repository}/tree/{quote(revision, safe='')}?recursive=true"
    for _ in range(_PAGES):
        if url is None:
            return
        with _opened(url, path) as response:
            for entry in limits.loads(response.read(limits.CONTROL_BYTES)):
                if entry.get("type") == "file":
                    yield str(entry["path"])
            following = re.search(r'<([^>]+)>;\s*rel="next"', response.headers.get("link") or "")
        url = None
        if following is not None:
            parts = urlsplit(following[1])
            url = f"{parts.path}?{parts.query}"  # the next page is asked of the hub we know


def _download(url: str, to: Path, path: str) -> None:
    most, key = most_bytes(to.parent, _LARGEST)
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


def _opened(url: str, path: str) -> Any:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError("the variable HF_ENDPOINT holds no http(s) address")
    request = urllib.request.Request(endpoint + url, headers={"user-agent": "batchling"})
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and (parts.scheme == "https" or is_loopback(parts.hostname)):
        request.add_unredirected_header("authorization", f"Bearer {token}")
    try:
        return urllib.request.urlopen(request, timeout=_SECONDS)
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
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"the hub cannot be reached at {parts.hostname}: {reason}",
            where=path,
            next_command="download the file on a machine with a network and name it in data.path, or set HF_ENDPOINT to a mirror",
        ) from None
