"""Writes requirements.txt: every library that batchling needs, each in one version, with the hashes of its files.

    python .ci/requirements.py

For `pip install --require-hashes -r requirements.txt`. pip says what it would install here, newest versions first, and then which
wheel of the same versions it would take on each platform; what there is no wheel of is installed from its source archive.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINUX = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_12",
    "manylinux1",
)
PLATFORMS = {
    "Linux, x86-64": [f"{tag}_x86_64" for tag in LINUX],
    "Linux, ARM": [f"{tag}_aarch64" for tag in LINUX],
    "macOS, ARM": ["macosx_14_0_arm64"],
}
PYTHONS = ("3.11", "3.12", "3.13")
HEAD = """\
# What batchling was last checked with, for an install that is the same everywhere (CPython 3.11 to 3.13 on Linux, x86-64 and ARM, and on macOS, ARM):
#   python3 -m venv .venv && .venv/bin/pip install --require-hashes -r requirements.txt && .venv/bin/pip install --no-deps -e .
# Made by .ci/requirements.py.
"""


def report(*words: str) -> list[dict[str, Any]]:
    """What pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(out), *words], check=True, cwd=folder)
        installed: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["install"]
        return installed


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    versions: dict[str, str] = {}
    hashes: dict[str, set[str]] = defaultdict(set)
    sources = set()

    def take(found: list[dict[str, Any]]) -> None:
        for each in found:
            archive = each["download_info"].get("archive_info")
            if archive is None:  # batchling itself
                continue
            name = normal(each["metadata"]["name"])
            assert versions.setdefault(name, each["metadata"]["version"]) == each["metadata"]["version"]
            hashes[name].add(archive["hashes"]["sha256"])
            if not each["download_info"]["url"].endswith(".whl"):
                sources.add(name)

    take(report(str(ROOT)))
    pinned = [f"{name}=={version}" for name, version in versions.items() if name not in sources]
    for python in PYTHONS:
        for platform in PLATFORMS:
            sys.stderr.write(f"{python} {platform}\n")
            tags = [f"--platform={tag}" for tag in PLATFORMS[platform]]
            where = ("--only-binary=:all:", "--target=nowhere", f"--python-version={python}", *tags)
            try:
                take(report("--no-deps", *where, *pinned))
            except subprocess.CalledProcessError:  # one that has no wheel there: the others are still wanted
                sys.stderr.write("  not complete, left out\n")
    lines = []
    for name in sorted(versions):
        lines.append(
            " \\\n    ".join([f"{name}=={versions[name]}", *(f"--hash=sha256:{h}" for h in sorted(hashes[name]))])
        )
    (ROOT / "requirements.txt").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
