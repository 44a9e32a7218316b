"""The files of a new project. What `batchling init` writes lies beside this module as it will be written."""

from __future__ import annotations

from pathlib import Path

from batchling.errors import ConfigError, DiskError

_HERE = Path(__file__).resolve().parent
_RENAMED = {"gitignore": ".gitignore"}  # build tools treat a real .gitignore as theirs


def write(folder: Path) -> list[Path]:
    """See `batchling.config.init_project`."""
    targets = {}
    for source in sorted(_HERE.rglob("*")):
        if source.is_file() and source.suffix not in (".py", ".pyc"):
            relative = source.relative_to(_HERE)
            targets[folder / relative.with_name(_RENAMED.get(relative.name, relative.name))] = source
    if there := [path for path in targets if path.exists() or path.is_symlink()]:
        shown = ", ".join(str(path) for path in there)
        raise ConfigError(
            f"there is already a project; nothing was written: {shown}", next_command="batchling init ANOTHER_FOLDER"
        )
    try:
        for target, source in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    except OSError as e:
        raise DiskError(f"cannot write {e.filename}: {e.strerror}") from e
    return list(targets)
