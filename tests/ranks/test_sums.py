"""Exchanges that only add up: the bits of Loopback in bytes and in lanes, what they cost, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import signa
from signa import errors
from signa.transport.costs import PACKED, Choice, best, choices
from signa.transport.sums import Int8, Lanes
from tests.ranks.cases import awkward, build, loopback, parameters, plain, ranks, same, spec, step
from tests.ranks.methods import METHODS, plugged
from tests.ranks.test_faults import damage
from tests.ranks.worlds import every, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
WORLDS = ([1, 1], [2, 2], [1, 1, 1], [2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1, 1], [3, 2])
VOTES = ("signsgd", "dlion_vote", "muonsign", "muonusign_1bit", "stochastic sign", "projected", "zeros positive")
OPTIONS = ("ties zero", "ties zero, served", "dlion_mean", "stochastic sign, mean", "eighths down")
TERNARY = ("zeros kept", "zeros kept, ties zero", "zeros kept, mean, kept", "linf up", "l1")
OTHERS = ("ef21muonsign", "weighted vote", "median of signs", "top-k, ef14", "ternary", "smallest", "adamw")
NAMES = [*VOTES, *OPTIONS, *TERNARY, *OTHERS]


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


def line(group: Any, name: str) -> str:
    """What the plan says of the bucket that begins with this parameter."""
    lines = str(group).splitlines()
    at = next(i for i, text in enumerate(lines) if re.search(rf"bucket \d+ \({name}\b", text))
    return lines[at + 1].strip()


def one(method: Any, **more: Any) -> dict[str, Any]:
    return {"groups": [{"lr": 0.01, **(method if isinstance(method, dict) else {"method": method}), **more}]}


# Equal to the simulation ---------------------------------------------------------------------------------------------


RAGGED = {"a": (9, 21), "b": (9, 21), "big": (33, 17), "row": (1, 7), "flat": (70,), "bias": (5,)}


def two(name: str) -> dict[str, Any]:
    """A method on matrices and vectors, and AdamW on the rest."""
    method = METHODS.get(name) or {"method": name}
    dense = {"match": "bias", "method": "adamw", "lr": 0.01}
    return {"groups": [dense, {"match": "*", "lr": 0.02, "weight_decay": 0.1, **method}]}


@pytest.mark.parametrize("exchange", ["int8", "lanes"])
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_a_sum_is_loopback(at: int, exchange: str) -> None:
    """Absent and silent workers, exact zeros, ties, 1-D parameters; a bucket that is not summable goes otherwise."""
    name, held = NAMES[at], WORLDS[(at + 3 * (exchange == "lanes")) % len(WORLDS)]
    options: dict[str, Any] = {"steps": 4, "shapes": RAGGED, "dtype": (torch.float32, torch.float64)[at % 2]}
    found = ranks(two(name), held, {"exchange": exchange, "bucket_mb": (1e-4, 4.0)[at % 2]}, **options)
    same(loopback(two(name), sum(held), **options), found)
    sums = name in (*VOTES, *OPTIONS) or (name in TERNARY and exchange == "int8")
    taken = {lane.label: bucket.exchange for bucket in found[0].opt._engine.buckets for lane in bucket.lanes}
    assert (taken["big"] == exchange) == sums


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["int8", "lanes"])
@pytest.mark.parametrize("name", NAMES)
def test_a_sum_is_loopback_everywhere(name: str, exchange: str) -> None:
    """On every world, with every kind of parameter, decay and convolution."""
    method = spec(METHODS.get(name, name))
    for held in WORLDS:
        same(loopback(method, sum(held)), ranks(method, held, {"exchange": exchange, "bucket_mb": 1e-3}))


def opposed(name: str, p: Tensor, t: int, j: int) -> Tensor:
    """Workers 0, 2, ... contradict 1, 3, ... in every entry."""
    return plain(name, p, t, 0) * (1 if j % 2 else -1)


@pytest.mark.parametrize("exchange", ["int8", "lanes"])
@pytest.mark.parametrize("name", ["signsgd", "ties zero", "muonsign"])
@pytest.mark.parametrize("held", [[2, 2], [1, 1, 1, 1]])
def test_every_entry_is_a_tie(name: str, exchange: str, held: list[int]) -> None:
    options: dict[str, Any] = {"steps": 2, "grad": opposed, "shapes": RAGGED}
    same(loopback(two(name), 4, **options), ranks(two(name), held, {"exchange": exchange}, **options))


@pytest.mark.parametrize("exchange", ["int8", "lanes"])
def test_nobody_has_a_gradient(exchange: str) -> None:
    """Nothing moves; then all are silent, and only what decays does."""

    def quiet(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
        return None if t < 2 else torch.zeros_like(p)

    options: dict[str, Any] = {"steps": 3, "grad": quiet, "shapes": RAGGED}
    reference = loopback(two("signsgd"), 3, **options)
    assert reference.digests[0] == reference.digests[1] != reference.digests[2]
    same(reference, ranks(two("signsgd"), [1, 1, 1], {"exchange": exchange}, **options))


@pytest.mark.parametrize("exchange", ["int8", "lanes"])
def test_a_sum_may_overlap(exchange: str) -> None:
    """Several buckets under way at once, summed and not."""
    options: dict[str, Any] = {"steps": 4, "shapes": RAGGED}
    group = {"exchange": exchange, "overlap": True, "bucket_mb": 1e-4}
    same(loopback(two("signsgd"), 3, **options), ranks(two("signsgd"), [1, 1, 1], group, **options))


def agreed(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
    """In step 0 everybody agrees, so counts are 0 and N; later only a few dissent or are away."""
    return plain(name, p, 0, 0) if t == 0 or j > 5 else awkward(name, p, t, j)


@pytest.mark.parametrize(("exchange", "held"), [("int8", [64, 63]), ("lanes", [64, 63]), ("lanes", [100, 28])])
def test_many_workers(exchange: str, held: list[int]) -> None:
    """127 are the most for a byte; a lane of eight bits, 128 of them up, touches the sign of its word."""
    options: dict[str, Any] = {"steps": 2, "grad": agreed, "shapes": {"w": (9, 21), "bias": (5,)}}
    found = ranks(one("signsgd"), held, {"exchange": exchange}, **options)
    same(loopback(one("signsgd"), sum(held), **options), found)
    assert line(found[0].opt.transport, "bias").startswith(f"{exchange}: ")


def test_a_byte_counts_127_workers() -> None:
    """Refused on every rank before anything is built, and for the group alone that would have to count so."""
    text = (
        "exchange='int8' counts 127 workers at the most, and here are 128: a sum of int8 wraps silently at 128, where "
        "a unanimous vote turns round; write exchange='lanes' or 'alltoall', which count any number"
    )

    def rank(r: int, arguments: dict[str, Any]) -> signa.Group:
        more = {"workers_per_rank": 64}
        with pytest.raises(ValueError, match=re.escape(text)):
            signa.Group(**arguments, **more, exchange="int8")
        group = signa.Group(**arguments, **more)
        build(one("signsgd"), parameters(shapes={"w": (64, 64)}), group)
        return group

    for group in every(world(2, rank)):
        assert "lanes: " in str(group) and "int8" not in str(group)


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 1000, 65535, 65536])
def test_lanes_are_exact(workers: int) -> None:
    """Every sum of folded counts unfolds to the sum of the counts, in as few bits as hold N; where lanes fill a word,
    the top one reaches its sign."""
    lanes = Lanes(workers)
    assert 2 ** (lanes.bits - 1) < workers + 1 <= 2**lanes.bits and lanes.width == 32 // lanes.bits
    entries = 6 * lanes.width - 1
    generator = torch.Generator().manual_seed(workers)
    votes = torch.randint(0, workers + 1, (entries,), generator=generator, dtype=torch.int32)
    votes[:2], votes[-2:] = torch.tensor([0, workers]), torch.tensor([workers, workers])
    votes[-(-entries // lanes.width) * (lanes.width - 1)] = workers  # in the top lane
    first = (votes * 2) // 3
    summed = lanes.fold(first) + lanes.fold(votes - first)
    assert torch.equal(lanes.unfold(summed, entries), votes)
    assert bool((summed < 0).any()) == (lanes.bits * lanes.width == 32)


def test_int8_adds_a_rank_s_own_workers_first() -> None:
    rows = torch.tensor([1.0, 1, -1]).view(3, 1, 1, 1).expand(3, 2, 4, 5)
    counts = Int8(3).counts(rows)
    assert counts.dtype == torch.int8 and counts.shape == (2, 4, 5) and bool((counts == 1).all())
    assert torch.equal(Lanes(3).counts(rows), torch.full((2, 4, 5), 2, dtype=torch.int32))


# Bytes ---------------------------------------------------------------------------------------------------------------

SHAPES = {"a": (64, 100), "b": (64, 100), "c": (7,)}
ENTRIES = 2 * 6400 + 7


def traffic(size: int, method: Any = "signsgd", shapes: Any = SHAPES, **group: Any) -> list[tuple[int, int]]:
    """Bytes (sent, received) of one step that is not the first, by rank."""

    def rank(r: int, arguments: dict[str, Any]) -> tuple[int, int]:
        transport = signa.Group(**arguments, check_replicas_every=0, **group)
        ps = parameters(shapes=shapes)
        opt = build(one(method), ps, transport)
        step(opt, ps, 0, plain)
        before = transport.traffic
        step(opt, ps, 1, plain)
        return transport.traffic[0] - before[0], transport.traffic[1] - before[1]

    return every(world(size, rank))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("exchange", ["int8", "lanes"])
def test_bytes_of_a_sum(exchange: str, size: int, k: int) -> None:
    """Header and a status byte per matrix and worker to all others; 2 (W - 1) / W times the summed tensor."""
    bits = 8 if exchange == "int8" else 32 / (32 // (size * k).bit_length())
    for sent, received in traffic(size, exchange=exchange, workers_per_rank=k):
        assert sent == received
        summed = sent - (size - 1) * (32 + 3 * k)
        formula = 2 * (size - 1) / size * bits / 8 * ENTRIES
        assert formula - 1 <= summed <= formula + 2 * 4  # a word that is not full, and a byte that is not whole


def test_all_that_stands_in_front_is_a_header_and_a_status() -> None:
    """The words of three lanes: one bucket."""
    assert traffic(2, exchange="lanes", shapes={"a": (4, 4), "b": (4, 4)}) == [(32 + 2 + 8, 32 + 2 + 8)] * 2


# Plans ---------------------------------------------------------------------------------------------------------------


def planned(method: Any, shapes: Any = None, size: int = 2, **group: Any) -> signa.Group:
    def rank(r: int, arguments: dict[str, Any]) -> signa.Group:
        transport = signa.Group(**arguments, **group)
        build(one(method), parameters(shapes=shapes or {"w": (64, 128)}), transport)
        return transport

    return every(world(size, rank))[0]


@pytest.mark.parametrize(
    ("exchange", "method", "said"),
    [
        ("int8", "signsgd", "int8: 0.00819 MB, "),
        ("lanes", "signsgd", "lanes: 0.00205 MB, "),
        ("ring", "adamw", "ring: 0.0328 MB, "),
        ("int8", "adamw", ", instead of int8: it adds up signs alone (not "),
        ("lanes", METHODS["zeros kept"], ", instead of lanes: it adds up signs without zeros alone (not "),
        ("ring", "signsgd", ", instead of ring: it adds up floats alone (not "),
        ("lanes", METHODS["median of signs"], ", instead of lanes: a sum does not tell the median (not "),
    ],
)
def test_the_plan_says_what_was_chosen_and_why(exchange: str, method: Any, said: str) -> None:
    text = line(planned(method, exchange=exchange), "w")
    assert text.startswith(said) if ": 0.0" in said else said in text, text
    assert text.startswith(tuple(f"{name}" for name in PACKED)) != (": 0.0" in said)


def test_a_split_server_needs_owners() -> None:
    """Where a server was asked to be split, a bucket that has one goes otherwise, and equally."""
    text = line(planned("muonsign", exchange="lanes", server="sharded"), "w")
    assert text.startswith("alltoall, server sharded") and "instead of lanes: every rank serves behind a sum" in text
    assert line(planned("muonsign", exchange="lanes"), "w").startswith("lanes: ")
    assert line(planned("signsgd", exchange="lanes", server="sharded"), "w").startswith("lanes: ")
    found = ranks(two("muonsign"), [1, 1], {"exchange": "lanes", "server": "sharded"}, steps=3, shapes=RAGGED)
    same(loopback(two("muonsign"), 2, steps=3, shapes=RAGGED), found)


def test_the_other_exchanges_are_shown_beside_the_chosen_one() -> None:
    text = line(planned("signsgd"), "w")
    assert text.startswith("allgather: ") and text.count(" ms") == 4
    assert all(f"{name}: " in text for name in ("alltoall", "int8", "lanes")) and "instead of" not in text


def found(method: Any, size: int, held: int = 1, entries: int = 1 << 18) -> dict[str, Choice]:
    opt = build(one(method), parameters(shapes={"w": (entries // 64, 64)}), signa.Loopback())
    (bucket,) = opt._engine.buckets  # type: ignore[attr-defined]
    return {choice.exchange: choice for choice in choices(bucket.lanes, size, held, "gloo")}


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16, 64, 127, 128, 1000])
def test_a_sum_of_one_vote_a_rank_is_never_cheaper(size: int) -> None:
    """Against all-to-all, in bytes and in rounds, so in time, however many entries there are."""
    for entries in (1 << 8, 1 << 20):
        every = found("signsgd", size, entries=entries)
        assert ("int8" in every) == (size <= 127)
        for name in {"int8", "lanes"} & every.keys():
            assert every[name].nbytes > 1.9 * every["alltoall"].nbytes
            assert every[name].seconds > every["alltoall"].seconds
            assert best(list(every.values()), serves=False).exchange in PACKED


def test_bits_of_the_model() -> None:
    """16 (N - 1) / N for a byte, and (2 (N - 1) / N) (32 / floor(32 / k)) for lanes."""
    for size, bits in ((2, 2), (3, 2), (8, 4), (16, 32 / 6), (100, 8), (500, 32 / 3)):
        every = found("signsgd", size)
        assert 8 * every["lanes"].nbytes / (1 << 18) == pytest.approx(2 * (size - 1) / size * bits, rel=1e-4)
        if size <= 127:
            assert 8 * every["int8"].nbytes / (1 << 18) == pytest.approx(16 * (size - 1) / size)


def test_auto_is_packed_where_a_sum_would_be_cheaper() -> None:
    """A rank with many workers sends their sum once and their messages one by one; a mean of signs comes back dense."""
    every = found("signsgd", 2, held=32, entries=1 << 20)
    assert best(list(every.values()), serves=False).exchange not in PACKED
    assert every["lanes"].nbytes < every["alltoall"].nbytes / 2
    assert line(planned("signsgd", {"w": (1 << 14, 64)}, workers_per_rank=32), "w").startswith(PACKED)
    mean = found("dlion_mean", 16)
    assert 1.4 * mean["lanes"].nbytes < min(mean[name].nbytes for name in PACKED)


# Faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", ["int8", "lanes"])
@pytest.mark.parametrize(
    ("place", "kind", "text"),
    [
        (-1, "CorruptMessage", "the checksum of what rank 1 sent in step 1, bucket 0, {}"),
        (0, "CorruptMessage", "what rank 1 sent in step 1, bucket 0, {} is no message of SignA"),
        (8, "LayoutMismatch", "rank 1 is at step 17"),
        (14, "LayoutMismatch", "layout"),
    ],
)
def test_a_damaged_payload(place: int, kind: str, text: str, exchange: str) -> None:
    """One bit of the header or the status is flipped: every rank raises the same, and no step is taken after it."""

    def rank(r: int, arguments: dict[str, Any]) -> None:
        ps = parameters(shapes={"w": (9, 21)})
        opt = build(one("signsgd"), ps, signa.Group(**arguments, exchange=exchange))
        step(opt, ps, 0, plain)
        if r == 1:
            damage(opt.transport.ranks, lambda payload: payload[place].bitwise_xor_(16))  # type: ignore[attr-defined]
        before = ps["w"].detach().clone()
        with pytest.raises(errors.WireError) as met:
            step(opt, ps, 1, plain)
        assert type(met.value).__name__ == kind and re.search(text.format(exchange), str(met.value)), met.value
        assert torch.equal(ps["w"], before)
        with pytest.raises(errors.Poisoned):
            opt.step()

    every(world(3, rank, timeout=1.5))


def test_an_exchange_is_agreed_upon() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        group = signa.Group(**arguments, exchange="lanes" if r else "int8")
        with pytest.raises(errors.LayoutMismatch, match=r"exchange: int8 on rank 0 \| lanes on rank 1"):
            build(one("signsgd"), parameters(shapes={"w": (9, 21)}), group)

    every(world(2, rank))


def test_a_worker_that_is_not_finite_abstains() -> None:
    """Its culprit is told behind the header of the statuses."""

    def bad(name: str, p: Tensor, t: int, j: int) -> Tensor:
        return plain(name, p, t, j) * (float("nan") if (t, j) == (1, 2) else 1)

    options: dict[str, Any] = {"steps": 3, "grad": bad, "shapes": {"w": (9, 21)}}
    found = ranks(one("signsgd"), [1, 1, 1], {"exchange": "lanes"}, **options)
    same(loopback(one("signsgd"), 3, **options), found)
    assert [run.opt.nonfinite_counts for run in found] == [{(2, "w"): 1}] * 3
