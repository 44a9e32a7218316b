"""Pages that are followed from top to bottom: each file on them is written, each command and Python block is run, in order.

On these pages a block whose first line is a comment with a path is that file. A command ends with exit code 0, with the one that `# exit N`
behind it names, or with 5 where it says `# needs a key`: there is none here, and nothing may be sent.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, WALKTHROUGHS

FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.M | re.S)
FILE = re.compile(r"(?:#|--) ([\w./-]+\.(?:yaml|py|csv|jsonl|md|json))(?:[ \t].*)?\n")


class Step:
    """One thing that a reader does: write a file, type a line, run some Python."""

    def __init__(self, where: str, kind: str, text: str, name: str = "", code: int = 0) -> None:
        self.where, self.kind, self.text, self.name, self.code = where, kind, text, name, code


def steps(page: str) -> Iterator[Step]:
    """What a page asks for, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        where = f"{page}:{text.count(chr(10), 0, found.start()) + 1}"
        language, body = found[2], textwrap.dedent(found[3])
        if language == "console":
            for line in body.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    code = re.search(r"# exit (\d+)", line.replace("# needs a key", "# exit 5"))
                    yield Step(where, "command", line[2:], code=int(code[1]) if code else 0)
        elif named := FILE.match(body):
            kept = body if language in ("yaml", "python") else body[named.end() :]
            yield Step(where, "file", kept, named[1])
        elif language == "python":
            yield Step(where, "python", body)


def follow(page: str, folder: Path) -> None:
    """Does what a page says in a new project; fails at the first step that does not do what it says."""
    environ = {k: v for k, v in os.environ.items() if k != "BATCHLING_RUNS" and not k.endswith("_API_KEY")}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}",
        "XDG_CONFIG_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
    }
    project = folder / "project"
    project.mkdir()
    for step in steps(page):
        if step.kind == "file":
            path = project / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            continue
        command = ["bash", "-c", step.text] if step.kind == "command" else [sys.executable, "-c", step.text]
        done = subprocess.run(
            command, cwd=project, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        said = f"{step.where}: {step.text}\n{done.stdout}{done.stderr}"
        assert done.returncode == step.code, said
        assert "Traceback" not in done.stderr, said


@pytest.mark.parametrize("page", WALKTHROUGHS)
def test_a_page_can_be_followed_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    follow(page, tmp_path)


@pytest.mark.parametrize("page", WALKTHROUGHS)
def test_a_page_has_steps(page: str) -> None:
    assert sum(step.kind != "file" for step in steps(page)) >= 2


def test_a_step_that_does_something_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("```console\n$ batchling run nothing\n```\n", encoding="utf-8")
    monkeypatch.setattr("tests.docs.test_walkthroughs.DOCS", tmp_path)
    with pytest.raises(AssertionError, match="no experiment"):
        follow("page.md", tmp_path)
