"""Fails when the wheel or the source archive lacks something that must ship, or holds what must not.

python .ci/archives.py dist/batchling-0.1.0-py3-none-any.whl dist/batchling-0.1.0.tar.gz
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tracked(folder: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return listed.stdout.split()
    return [
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


for archive in map(Path, sys.argv[1:]):
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = set(wheel.namelist())
        wanted = set(tracked("batchling")) | {f"batchling/{name}" for name in tracked("conf")}
        unwanted = {n for n in names if not n.startswith(("batchling/", "batchling-"))}
    else:
        with tarfile.open(archive) as source:
            names = {name.partition("/")[2] for name in source.getnames()}
        wanted = {name for folder in ("batchling", "conf", "docs", "experiments", "tests") for name in tracked(folder)}
        wanted |= {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml", "pyproject.toml"}
        unwanted = {n for n in names if n.startswith(("runs/", ".venv/"))}
    unwanted |= {n for n in names if "__pycache__" in n}
    for name in sorted(wanted - names):
        sys.stdout.write(f"{archive.name} lacks {name}\n")
    for name in sorted(unwanted):
        sys.stdout.write(f"{archive.name} holds {name}\n")
    if wanted - names or unwanted:
        sys.exit(1)
    sys.stdout.write(f"{archive.name}: {len(names)} entries, {archive.stat().st_size / 1e6:.2f} MB, complete\n")
