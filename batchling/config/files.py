"""Reads every file a config refers to and names each copy, so that a run can be rebuilt from its plan's `source/`.

A reference is relative to the config that names it. In the recorded config it is rewritten, where needed, to the
name of the copy, relative to the experiment: `file:few.md` in `prompt/few_shot.yaml` becomes `file:prompt/few.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from batchling.spec import SourceFile

PREFIX = "file:"


class FileMissing(Exception):
    """A referenced file is not there or can't be read; the message says where it was looked for."""


class Sources:
    """The files of one run.

    Args:
        root: the experiment's folder (or a plan's `source/`).
        search_path: folders with config groups, for references from configs outside `root`.
        contents: files read already, shared between the points of a sweep.
        confined: only files below `root` are read, whatever a reference says: a plan needs no others, and its config may
            be anybody's.
    """

    def __init__(
        self,
        root: Path,
        search_path: Sequence[Path] = (),
        contents: dict[Path, bytes] | None = None,
        *,
        confined: bool = False,
    ) -> None:
        self._confined = confined
        self.root = root.absolute()
        self.search_path = [folder.absolute() for folder in search_path]
        self._files: dict[str, bytes] = {}
        self._contents = contents if contents is not None else {}

    @property
    def files(self) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(name, content) for name, content in sorted(self._files.items()))

    def find(self, reference: str, beside: Path | None) -> Path:
        """The file a reference means: beside the config that names it, else in the experiment, else on the search path.

        Raises:
            FileMissing: it is in none of them.
        """
        tried = []
        for folder in [*([beside] if beside else []), self.root, *self.search_path]:
            path = (folder / Path(reference).expanduser()).absolute()
            if path.is_file() and not (self._confined and not path.resolve().is_relative_to(self.root.resolve())):
                return path
            if path not in tried:
                tried.append(path)
        raise FileMissing(f"no file {reference!r} (looked for {', '.join(str(p) for p in tried[:3])})")

    def read(self, path: Path, *, rewrite: Callable[[bytes], bytes] | None = None) -> tuple[str, bytes]:
        """(name of the copy, content) of a file, which is recorded; `rewrite` says as what."""
        path = path.absolute()
        content = self._contents.get(path)
        if content is None:
            try:
                content = self._contents[path] = path.read_bytes()
            except OSError as e:
                raise FileMissing(f"cannot read {path}: {e.strerror}") from e
        name = self._name(path, content)
        return self.add(name, content if rewrite is None else rewrite(content)), content

    def add(self, name: str, content: bytes) -> str:
        """Records a copy; another file of that name gets a name of its own."""
        if self._files.get(name, content) != content:
            name = f"files/{hashlib.sha256(content).hexdigest()[:8]}-{PurePosixPath(name).name}"
        self._files[name] = content
        return name

    def _name(self, path: Path, content: bytes) -> str:
        path = Path(*_normal(path))
        if path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        for folder in self.search_path:
            if path.is_relative_to(folder):
                return f"conf/{path.relative_to(folder).as_posix()}"
        return f"files/{hashlib.sha256(content).hexdigest()[:8]}-{path.name}"

    def text(self, path: Path) -> tuple[str, str]:
        """(name of the copy, text): UTF-8, line ends as `\\n`, without the newline that editors put at the end."""
        name, content = self.read(path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            line = content[: e.start].count(b"\n") + 1
            raise FileMissing(f"{path}:{line} is not UTF-8") from e
        return name, text.replace("\r\n", "\n").removesuffix("\n")


def _normal(path: Path) -> list[str]:
    """`a/b/../c` as `a/c`, without following links."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        else:
            parts.append(part)
    return parts
