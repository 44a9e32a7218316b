"""Specs as the config layer hands them over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchling.spec import Config, Spec

SYSTEM = ("system", "You sort tickets.")
USER = ("user", "Ticket: {text}")

MakeSpec = Callable[..., Spec]


@pytest.fixture
def make_spec() -> MakeSpec:
    """A spec for `gpt-5-mini` on OpenAI; keyword arguments change sections."""

    def make(
        messages: tuple[tuple[str, str], ...] = (SYSTEM, USER),
        text_input: str | None = None,
        **sections: Any,
    ) -> Spec:
        document: dict[str, Any] = {
            "name": "test",
            "data": {"path": "rows.csv"},
            "model": {"id": "gpt-5-mini"},
            "provider": {"name": "openai", "base_url": "https://api.openai.com/v1"},
        }
        for name, section in sections.items():
            document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
        config = Config.model_validate(document)
        return Spec(config, (), Path(), messages, text_input, None, (), document)

    return make
