"""Many workers in one process: memory as documented, and no bit depends on how many are computed at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from signa import presets, stack
from signa.transport import loopback as here
from signa.transport import pool
from tests.ranks.cases import loopback, parameters, plain, ranks, same, spec
from tests.ranks.methods import METHODS, plugged
from tests.ranks.worlds import within

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
ROOT = Path(__file__).parents[2]
NAMES = [*presets.names(), *METHODS]


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


def few_at_a_time(patch: pytest.MonkeyPatch, entries: int) -> None:
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


THOUSAND = """
import json, torch
torch.set_num_threads(1)
from benchmarks.simulate import grown
print(json.dumps(grown(1024, 160, 4, {state!r})))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("state", "bytes_"), [("full", 4 + 4), ("bfloat16", 4 + 2), ("int8", 4 + 1.02)])
def test_a_thousand_workers_of_a_hundred_thousand_parameters(state: str, bytes_: float) -> None:
    """As documented: gradients, state, a bit for the message, and 400 MiB besides, however many workers there are."""
    code = THOUSAND.format(state=state)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    entries = 1024 * 4 * 160**2
    assert 0.9 * bytes_ * entries < found["bytes"] < (bytes_ + 1 / 8) * entries + 400 * 2**20, found
    assert found["seconds"] < within(60), found


def test_a_thousand_workers_of_a_small_model() -> None:
    """In the quick tests a thousand workers vote as five do."""
    source = {"groups": [{"match": "*", "method": "signmuon", "lr": 0.5, "state": "bfloat16"}]}
    run = loopback(source, 1001, steps=1, shapes={"w": (12, 9)}, grad=lambda name, p, t, j: plain(name, p, t, j) + 1)
    begun = parameters(shapes={"w": (12, 9)})["w"]
    moved = run.values["w"] - begun.detach()
    assert bool((moved.abs() > 0).all()) and moved.abs().std() < 1e-5  # +-1 everywhere, no ties among 1,001
    assert run.states["w worker.momentum.m"].shape == (1001, 12, 9)
