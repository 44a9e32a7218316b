"""Imports the pydantic model that a config names, without letting experiments see each other's modules.

An experiment folder is trusted like code. Its `schema.py` runs from its bytes, under a module name made of
its content: two experiments with a `schema.py` each don't collide, an edited file is a new module, and
nothing is written beside it (no `__pycache__`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from batchling.config.files import FileMissing, Sources

_LOCK = threading.Lock()
_LOADED: dict[str, tuple[ModuleType, tuple[Path, ...]]] = {}
MODULES = "modules"


class ImportFailed(Exception):
    """The model can't be had: no such module or class, or its code raised. The message has file and line."""


def load_model(
    reference: str, sources: Sources, beside: Path | None, import_path: Path | None = None
) -> tuple[str, type[Any]]:
    """The model class of `schema.py:Model` or `package.module:Model`.

    Args:
        reference: as the config has it.
        sources: records the files the class was made from.
        beside: folder of the config that names it.
        import_path: folder to import packages from, besides the installed ones (the project's root).

    Returns:
        (reference with the copy's name, class).

    Raises:
        ImportFailed: see there.
        FileMissing: the file is not there.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name.isidentifier():
        raise ImportFailed(f"expected schema.py:Model or package.module:Model, got {reference!r}")
    if where.endswith(".py"):
        path = sources.find(where, beside)
        copy, content = sources.read(path)
        module, siblings = _from_file(path, content)
        for sibling in siblings:
            sources.read(sibling)
        return f"{copy}:{name}", _model(module, name, str(path))
    return reference, _from_package(where, name, sources, import_path)


def _model(module: ModuleType, name: str, shown: str) -> type[Any]:
    found = getattr(module, name, None)
    if found is None:
        models = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, BaseModel) and v is not BaseModel
        ]
        there = f"; it has: {', '.join(models)}" if models else ""
        raise ImportFailed(f"{shown} has no {name}{there}")
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ImportFailed(f"{name} in {shown} is not a pydantic model (a class derived from pydantic.BaseModel)")
    return found


def _from_file(path: Path, content: bytes) -> tuple[ModuleType, tuple[Path, ...]]:
    name = "batchling_experiment_" + hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    with _LOCK:
        known = _LOADED.get(name)
        if known is not None and not any(_changed(p) for p in known[1]):
            return known
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # pydantic looks annotations up there
        try:
            with _importable(path.parent) as imported:
                exec(compile(content, str(path), "exec"), module.__dict__)
                _complete(module)
        except BaseException as e:
            del sys.modules[name]
            if not isinstance(e, Exception | SystemExit):
                raise
            raise ImportFailed(f"{_where(e, path)}: {type(e).__name__}: {e}") from e
        siblings = tuple(imported)
        for sibling in siblings:
            _STAMPS[sibling] = _stamp(sibling)
        _LOADED[name] = (module, siblings)
        return _LOADED[name]


_STAMPS: dict[Path, tuple[int, int]] = {}


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _changed(path: Path) -> bool:
    try:
        return _STAMPS.get(path) != _stamp(path)
    except OSError:
        return True


def _complete(module: ModuleType) -> None:
    """Resolves annotations now, while the modules they name can be found."""
    for value in list(vars(module).values()):
        own = isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel
        if own and not value.__pydantic_complete__:
            value.model_rebuild(raise_errors=False)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[list[Path]]:
    """Lets the code import modules of its own folder, and takes them out of `sys.modules` afterwards."""
    before = set(sys.modules)
    # A module of that name that another experiment left would be taken for ours.
    hidden = {
        n: sys.modules.pop(n)
        for n in list(sys.modules)
        if (folder / f"{n}.py").is_file() and n not in sys.builtin_module_names
    }
    bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    imported: list[Path] = []
    try:
        yield imported
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        for name in [n for n in sys.modules if n not in before or n in hidden]:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder) and not name.startswith("batchling_experiment_"):
                imported.append(Path(file))
                del sys.modules[name]
        sys.modules.update(hidden)


def _from_package(where: str, name: str, sources: Sources, import_path: Path | None) -> type[Any]:
    copy = f"{MODULES}/{where.replace('.', '/')}.py"
    recorded = sources.root / copy
    if recorded.is_file():  # rebuilding from a plan: the code as it was then, even if the package changed
        _, content = sources.read(recorded)
        module, _ = _from_file(recorded, content)
        return _model(module, name, copy)
    added = import_path is not None and str(import_path) not in sys.path
    if added:
        sys.path.append(str(import_path))
    try:
        module = importlib.import_module(where)
    except Exception as e:
        raise ImportFailed(f"cannot import {where}: {type(e).__name__}: {e}") from e
    finally:
        if added:
            sys.path.remove(str(import_path))
    model = _model(module, name, where)
    file = getattr(module, "__file__", None)
    if file and Path(file).suffix == ".py":
        with contextlib.suppress(OSError):
            sources.add(copy, Path(file).read_bytes())
    return model


def _where(error: BaseException, path: Path) -> str:
    """File and line of the experiment's own code where it went wrong."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(path.parent):
            return f"{frame.filename}:{frame.lineno}"
    return str(path)


__all__ = ["FileMissing", "ImportFailed", "load_model"]
