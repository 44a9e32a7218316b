"""What a plan was made with: Python, packages, and the state of the git checkout."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "batchling",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "openai",
    "duckdb",
    "tiktoken",
    "orjson",
    "jinja2",
    "genai-prices",
    "jsonschema-rs",
)


def provenance(folder: Path) -> dict[str, Any]:
    """`python`, `packages` (name → version) and `git` (commit, dirty) for plan.json."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": packages, "git": _git(folder)}


def _git(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; nulls outside a checkout or without git."""
    nothing = {"commit": None, "dirty": None}
    program = shutil.which("git")
    if program is None:
        return nothing
    try:
        commit = _ask(program, folder, "rev-parse", "HEAD")
        changes = _ask(program, folder, "status", "--porcelain", "--untracked-files=no")
    except (subprocess.SubprocessError, OSError):
        return nothing
    return {"commit": commit, "dirty": bool(changes)}


def _ask(program: str, folder: Path, *words: str) -> str:
    done = subprocess.run([program, "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
