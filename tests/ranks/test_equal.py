"""signa.Group is signa.Loopback, bit for bit: parameters after every step, and all of the state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch

import signa
from signa import presets
from tests.ranks.cases import (
    Run,
    admits,
    build,
    fingerprint,
    loopback,
    outcome,
    parameters,
    plain,
    ranks,
    same,
    spec,
    step,
    train,
)
from tests.ranks.methods import METHODS, plugged
from tests.ranks.worlds import every, processes, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
WORLDS = ([1], [1, 1], [2, 2], [1, 1, 1], [2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1, 1])
CHOICES: tuple[dict[str, str], ...] = (
    {},
    {"exchange": "alltoall", "server": "replicated"},
    {"exchange": "alltoall", "server": "sharded"},
    {"exchange": "allgather"},
    {"server": "sharded"},
)
BUCKETS = (1e-5, 1e-3, 4.0)
DTYPES = (torch.float32, torch.float64)
NAMES = [*presets.names(), *METHODS]
#: 7, 5, 3 and 2 have no common factor: 35 cases in a row hold every pair of a world and a choice, and 210 everything.
EVERYTHING = [(WORLDS[i % 7], CHOICES[i % 5], BUCKETS[i % 3], DTYPES[i % 2]) for i in range(210)]
assert len(NAMES) >= 35


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


@lru_cache(None)
def simulated(name: str, workers: int, steps: int, dtype: torch.dtype, decays: bool) -> Run:
    return loopback(spec(METHODS.get(name, name), decays=decays), workers, steps=steps, dtype=dtype)


def check(name: str, place: tuple[Any, ...], steps: int, decays: bool) -> None:
    held, choice, bucket, dtype = place
    method = spec(METHODS.get(name, name), decays=decays)
    held = held if admits(method, sum(held)) else [2, 1, 1]
    found = ranks(method, held, {**choice, "bucket_mb": bucket}, steps=steps, dtype=dtype)
    same(simulated(name, sum(held), steps, dtype, decays), found)


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_group_is_loopback(at: int) -> None:
    check(NAMES[at], EVERYTHING[at], steps=6, decays=at % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_group_is_loopback_everywhere(at: int) -> None:
    for place in EVERYTHING[at % 11 :: 11]:  # nor has 11 a factor of 210
        check(NAMES[at], place, steps=20, decays=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("choice", CHOICES[1:4])
def test_half_precision_parameters(dtype: torch.dtype, choice: dict[str, str]) -> None:
    options: dict[str, Any] = {"steps": 6, "dtype": dtype}
    same(loopback(spec("ef21muonsign"), 3, **options), ranks(spec("ef21muonsign"), [1, 1, 1], choice, **options))


@pytest.mark.parametrize("held", [[2, 2], [1, 1, 1, 1]])
@pytest.mark.parametrize("name", ["signmuon", "ties zero", "muonsign"])
def test_ties_of_an_even_number(name: str, held: list[int]) -> None:
    """Workers 0 and 2 contradict 1 and 3 in every entry, so every entry is a tie."""

    def opposed(n: str, p: torch.Tensor, t: int, j: int) -> torch.Tensor:
        return plain(n, p, t, j // 2 * 0) * (1 if j % 2 else -1)

    method = spec(METHODS.get(name, name))
    reference = loopback(method, 4, steps=3, grad=opposed)
    same(reference, ranks(method, held, {"exchange": "alltoall"}, steps=3, grad=opposed))
    if name == "ties zero":  # nothing but decay
        assert torch.allclose(reference.values["qkv"], loopback(method, 4, steps=0).values["qkv"])


def test_the_seed_matters_and_travels() -> None:
    """Coins are the same on every rank, and others with another seed."""
    one, two = (loopback(spec("signsgd"), 2, steps=3, seed=seed) for seed in (1, 2))
    assert one.digests != two.digests
    same(two, ranks(spec("signsgd"), [1, 1], {"exchange": "alltoall"}, steps=3, seed=2))


def test_nobody_ever_has_a_gradient() -> None:
    """Nothing moves, decay included, and the collectives keep their order."""
    options: dict[str, Any] = {"steps": 3, "grad": lambda *_: None}
    reference = loopback(spec("ef21muonsign"), 3, **options)
    assert len(set(reference.digests)) == 1
    same(reference, ranks(spec("ef21muonsign"), [1, 1, 1], **options))


def test_one_matrix_for_five_ranks() -> None:
    """Most ranks own nothing, and a matrix of fewer words than ranks is cut."""
    for name, choice in (("signmuon", CHOICES[1]), ("muonsign", CHOICES[2]), ("top-k, ef21", CHOICES[2])):
        one = {"groups": [{"lr": 0.1, **(METHODS.get(name) or {"method": name})}]}
        for shapes in ({"w": (3, 5)}, {"w": (1, 1), "v": (0, 3)}, {"w": (11, 13)}):
            options: dict[str, Any] = {"steps": 2, "shapes": shapes, "grad": plain}
            same(loopback(one, 5, **options), ranks(one, [1] * 5, choice, **options))


def _digests(rank: int, arguments: dict[str, Any], say: Any, name: str) -> list[str]:
    torch.set_num_threads(1 + rank % 2)
    return train(spec(name), signa.Group(**arguments), steps=5).digests


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signmuon", "ef21muonsign", "adamw", "nsgd"])
def test_threads_do_not_matter(name: str) -> None:
    """One rank computes with one thread, the other with two; both are real processes."""
    ended = processes(2, _digests, name, timeout=20.0)
    reference = loopback(spec(name), 2, steps=5).digests
    assert [rank.result for rank in ended] == [reference, reference]


@pytest.mark.parametrize("name", ["signmuon", "ef21muonsign", "adamw"])
def test_memory_formats(name: str) -> None:
    """Transposed, strided and channels_last parameters, and gradients that lie otherwise again."""

    def made() -> dict[str, torch.nn.Parameter]:
        ps = parameters(shapes={"t": (21, 9), "s": (8, 22), "conv": (4, 3, 2, 2)})
        with torch.no_grad():
            ps["t"] = torch.nn.Parameter(ps["t"].t())
            ps["s"] = torch.nn.Parameter(ps["s"][:, ::2])
            ps["conv"] = torch.nn.Parameter(ps["conv"].to(memory_format=torch.channels_last))
        return ps

    def grad(n: str, p: torch.Tensor, t: int, j: int) -> torch.Tensor:
        g = plain(n, p, t, j)
        return g.transpose(0, -1).contiguous().transpose(0, -1) if j else g

    def script(transport: Any) -> Run:
        ps = made()
        opt = build({"groups": [{"method": name, "lr": 0.05}]}, ps, transport)
        digests = []
        for t in range(3):
            step(opt, ps, t, grad)
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    same(script(signa.Loopback(3)), every(world(3, lambda r, a: script(signa.Group(**a, check_replicas_every=1)))))
