from __future__ import annotations

from tests.local.conftest import lab, upstream

__all__ = ["lab", "upstream"]
