"""The facts that ship, read as a config that chooses them would."""

from __future__ import annotations

from pathlib import Path

import yaml

from batchling.spec import ProviderConfig

CONF = Path(__file__).parent.parent.parent / "conf"


def facts_of(name: str) -> ProviderConfig:
    return ProviderConfig.model_validate(yaml.safe_load((CONF / "provider" / f"{name}.yaml").read_text()))
