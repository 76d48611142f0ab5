"""Many workers in one process: memory as documented, and no bit depends on how many are computed at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from signa import presets
from signa.transport import loopback as here
from signa.transport import pool
from tests.ranks.cases import loopback, ranks, same, spec
from tests.ranks.methods import METHODS, plugged

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
ROOT = Path(__file__).parents[2]
NAMES = [*presets.names(), *METHODS]


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


def few_at_a_time(patch: pytest.MonkeyPatch, entries: int) -> None:
    from signa import stack

    for module in (stack, here, pool):
        patch.setattr(module, "WORKING", entries)


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_how_many_are_computed_at_once_changes_no_bit(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one parameter of one worker on, and words of 64 entries at the server; workers come and go."""
    method = spec(METHODS.get(NAMES[at], NAMES[at]), decays=at % 4 == 0)
    reference = loopback(method, 4, steps=4)
    few_at_a_time(monkeypatch, (1, 500, 2500)[at % 3])
    same(reference, [loopback(method, 4, steps=4)])


@pytest.mark.parametrize("choice", [{"exchange": "allgather"}, {"server": "sharded"}], ids=str)
def test_ranks_with_many_workers(choice: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reference = loopback(spec("ef21muonsign"), 5, steps=3)
    few_at_a_time(monkeypatch, 300)
    same(reference, ranks(spec("ef21muonsign"), [3, 2], choice, steps=3))
