"""Nothing that is committed names a machine's folders or a package registry."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

# In pieces, so that this file does not hold what it looks for.
REGISTRIES = ("pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.", "ana" + r"conda\.(?:org|com)", "index" + "-url")
FOLDERS = r"(?<![\w.:/~$}-])/(?:work|root|home|Users|opt|tmp|mnt|private)/\w"
FORBIDDEN = re.compile("|".join((*REGISTRIES, FOLDERS)), re.I)

OF_OTHERS = re.compile(r"^(experiments/.*\.(csv|jsonl)|tests/contract/.*\.json|.*LICENSE)$")
"""Data and licences of others, kept as they are."""


def committed() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    return [ROOT / name for name in done.stdout.split("\0") if name and not OF_OTHERS.match(name)]


def test_no_committed_text_names_a_folder_of_a_machine_or_a_registry() -> None:
    found = []
    for path in committed():
        if not path.is_file() or path == Path(__file__):
            continue
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {match[0]}"
            for number, line in enumerate(lines, 1)
            if (match := FORBIDDEN.search(line))
        ]
    assert found == []


@pytest.mark.parametrize("text", ["see /" + "root/cache", "'/" + "tmp/x'", "https://pypi" + ".org/simple"])
def test_the_pattern_sees_what_it_looks_for(text: str) -> None:
    assert FORBIDDEN.search(text)
