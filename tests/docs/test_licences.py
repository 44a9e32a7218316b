"""The page of licences: the terms of what an install brings along."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from types import ModuleType

from .test_committed import ROOT


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_licences", ROOT / "docs/generate_licences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_library_that_the_project_names_has_its_licence_on_the_page() -> None:
    page = (ROOT / "docs/reference/licences.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| (\S.*) \|$", page, flags=re.MULTILINE))
    plain, frames = generator().named()
    missing = {*plain, *frames} - rows.keys()
    assert not missing, f"run: python docs/generate_licences.py; without a licence: {missing}"
    assert len(rows) > len(plain) + len(frames), "what those need is listed too"
    assert not [name for name, licence in rows.items() if "GPL" in licence or "UNKNOWN" in licence.upper()]


def test_a_library_s_own_word_is_taken() -> None:
    assert generator().licence("pydantic") == "MIT"
    assert generator().licence("omegaconf").startswith("BSD")
