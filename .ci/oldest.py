"""Prints pip constraints that pin every dependency in pyproject.toml to the oldest line it allows.

`openai>=2.20,<4` becomes `openai==2.20.*`. What has no lower bound is left alone.
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["frames"]]:
    found = re.match(r"([A-Za-z0-9._-]+)[^>]*>=([0-9.]+)", requirement)
    if found:
        sys.stdout.write(f"{found[1]}=={found[2]}.*\n")
