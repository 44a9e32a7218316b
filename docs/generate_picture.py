"""Writes docs/assets/result.svg: what `batchling run sweep-intent` prints, as a picture of a terminal.

Run it as `python docs/generate_picture.py`. The embedded server makes the answers up, always the same ones, so the picture
changes only when the output does; the plan's id, which has a date in it, is a fixed one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "assets" / "result.svg"
COMMAND = ("batchling", "run", "sweep-intent", "--yes")
PLAN, SHOWN = re.compile(r"\d{8}-\d{6}-sweep-intent-([0-9a-f]{6})"), "20261125-091500-sweep-intent-3f9ac1"


def printed() -> str:
    """What the command writes to stdout, in a fresh copy of the experiments."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sweep-intent", "intent"):
            shutil.copytree(ROOT / "experiments" / name, Path(folder) / "experiments" / name)
        environ = {k: v for k, v in os.environ.items() if k not in ("BATCHLING_RUNS", "NO_COLOR")}
        environ |= {"XDG_CONFIG_HOME": f"{folder}/home", "COLUMNS": "120"}
        done = subprocess.run(
            [sys.executable, "-c", "from batchling.cli import main; main()", *COMMAND[1:]],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    short = {found[1] for found in PLAN.finditer(done.stdout)}
    text = PLAN.sub(SHOWN, done.stdout)
    for old in short:
        text = text.replace(old, SHOWN[-6:])
    return text.rstrip("\n")


def page() -> str:
    """The picture. It has a background of its own, so it reads the same on a light and on a dark page."""
    text = printed()
    lines = [f"$ {' '.join(COMMAND[:3])}", *text.splitlines()]
    console = Console(
        width=max(map(len, lines)) + 1, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text(lines[0], style="bold green"))
    for line in lines[1:]:
        heading = line.startswith(("run ", "sweep-intent:"))
        quiet = re.match(r"(folder|export|query|note):", line)
        console.print(Text(line, style="bold" if heading else "dim" if quiet else ""), soft_wrap=True)
    without_fonts = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.S)
    svg = console.export_svg(
        title="batchling", theme=DIMMED_MONOKAI, code_format=without_fonts, unique_id="result", font_aspect_ratio=0.61
    )
    return re.sub(r"[ \t]+\n", "\n", svg).replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
