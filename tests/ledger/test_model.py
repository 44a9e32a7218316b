"""The protocol, explored completely: no order of crashes, faults and delays makes two batches of one shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledger.model import PROTOCOL, VARIANTS, Protocol, explore, table

DOCS = Path(__file__).parents[2] / "docs" / "ledger.md"


def test_no_state_has_two_batches_of_one_shard() -> None:
    found = explore(PROTOCOL)
    assert found.states > 500
    assert found.twice == 0


def test_every_state_goes_on_until_the_batch_is_recorded_or_a_person_is_asked() -> None:
    found = explore(PROTOCOL)
    assert found.stuck == 0
    assert found.never_recorded == 0


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_each_safety_is_needed(variant: Protocol) -> None:
    assert explore(variant).twice > 0


def test_the_documentation_shows_these_figures() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")
