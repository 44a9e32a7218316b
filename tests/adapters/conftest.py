from __future__ import annotations

from tests.workbench import bench, hands

__all__ = ["bench", "hands"]
