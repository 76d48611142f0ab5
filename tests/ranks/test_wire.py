"""What stands on the wire: how many bytes, which ones, and which exchange carries them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor

import signa
from tests.ranks.cases import build, loopback, parameters, plain, ranks, spec, step, train
from tests.ranks.worlds import every, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")


def words(entries: int) -> int:
    return -(-entries // 64)


def pad(size: int) -> int:
    return -(-size // 8) * 8


def measured(method: Any, size: int, shapes: Any, **group: Any) -> list[tuple[tuple[int, int], signa.Group]]:
    """Bytes (sent, received) of one step that is not the first, and the group, by rank."""
    source = {"groups": [{"lr": 0.01, **(method if isinstance(method, dict) else {"method": method})}]}

    def rank(r: int, arguments: dict[str, Any]) -> tuple[tuple[int, int], signa.Group]:
        transport = signa.Group(**arguments, check_replicas_every=0, **group)
        ps = parameters(shapes=shapes)
        opt = build(source, ps, transport)
        step(opt, ps, 0, plain)
        before = transport.traffic
        step(opt, ps, 1, plain)
        sent, received = (now - then for now, then in zip(transport.traffic, before, strict=True))
        return (sent, received), transport

    return every(world(size, rank))


MATRICES = {f"w{i:02}": (64, 256) for i in range(64)}
ENTRIES = 64 * 64 * 256  # 1,048,576
CHEAP = {"kind": "spectral", "dtype": "float32", "schedule": "jordan5"}
SIGNMUON = {"worker": ["momentum", CHEAP], "up": "sign", "aggregate": "majority_vote"}


@pytest.mark.parametrize(("size", "most"), [(4, 1.6), (8, 1.85)])
def test_a_vote_costs_two_bits_less_an_nth(size: int, most: float) -> None:
    for (sent, received), _ in measured(SIGNMUON, size, MATRICES, exchange="alltoall"):
        bits = 8 * sent / ENTRIES
        assert 2 * (size - 1) / size <= bits <= most
        assert 8 * received / ENTRIES <= most


def test_ef21_both_ways_with_a_sharded_server() -> None:
    method = {"method": "ef21muonsign", "server": [CHEAP, "step"]}
    for (sent, _), group in measured(method, 4, MATRICES, server="sharded"):
        assert "server sharded" in str(group)
        assert 1.5 <= 8 * sent / ENTRIES <= 1.7


def test_bytes_of_the_all_to_all() -> None:
    """32 for the header, a status byte per matrix, words: cut into four, there and back."""
    for (sent, received), _ in measured("signsgd", 4, {"a": (64, 64), "b": (64, 64)}, exchange="alltoall"):
        there = 32 + pad(2) + 8 * 2 * words(64 * 64) // 4
        back = 32 + 8 * 2 * words(64 * 64) // 4
        assert sent == received == 3 * (there + back)


def test_bytes_of_the_all_gather() -> None:
    found = measured("signsgd", 3, {"a": (9, 21), "b": (9, 21), "c": (5,)}, exchange="allgather")
    for (sent, received), _ in found:  # one bucket of two stacks
        payload = 32 + pad(3) + 8 * 2 * words(9 * 21) + 8 * words(5)
        assert sent == received == 2 * payload


def test_bytes_of_a_sharded_server() -> None:
    """Scaled signs up and down; rank 0 serves one of the three matrices, and so do the others."""
    shapes = {"a": (10, 20), "b": (10, 20), "c": (10, 20)}
    for (sent, received), _ in measured("ef21muonsign", 3, shapes, server="sharded"):
        there = 32 + pad(3) + pad(8 * words(200)) + pad(4)
        back = 32 + pad(1) + pad(8 * words(200)) + pad(4)
        assert sent == received == 2 * (there + back)


def test_bytes_of_floats() -> None:
    for (sent, received), _ in measured("adamw", 2, {"a": (16, 16)}, exchange="alltoall"):
        assert sent == received == (32 + pad(1) + 4 * 128) + (32 + 4 * 128)


def test_bytes_with_several_workers_a_rank() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> int:
        group = signa.Group(**arguments, workers_per_rank=3, exchange="allgather", check_replicas_every=0)
        ps = parameters(shapes={"a": (9, 21)})
        opt = build({"groups": [{"method": "signsgd", "lr": 0.1}]}, ps, group)
        step(opt, ps, 0, plain)
        before = group.traffic[0]
        step(opt, ps, 1, plain)
        return group.traffic[0] - before

    assert every(world(2, rank)) == [32 + pad(3) + 3 * 8 * words(189)] * 2


# Golden bytes --------------------------------------------------------------------------------------------------------

LAYOUT = slice(12, 20)  # a hash of the start's facts, torch's version among them


def captured(kind: str) -> list[bytes]:
    """The payloads that rank 1 of two hands over in the first step of a 3 x 5 signsgd."""
    found: list[bytes] = []
    source = {"groups": [{"method": "signsgd", "lr": 0.1}]}

    def rank(r: int, arguments: dict[str, Any]) -> None:
        group = signa.Group(**arguments, exchange=kind, check_replicas_every=0)
        ps = parameters(shapes={"w": (3, 5)})
        opt = build(source, ps, group)
        values = torch.tensor([1.0, -2, 3, 4, -5, 6, -7, 8, -9, 10, 11, 12, 13, -14, 15]).view(3, 5)
        opt.zero_grad()
        ps["w"].grad = values if r else -values
        opt.transport.first({})
        opt._fresh = False
        for name in ("swap", "gather"):
            if r == 1:
                setattr(group.ranks, name, spy(getattr(group.ranks, name)))
        opt.step()

    def spy(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(payload: Tensor, *rest: Any) -> Any:
            found.append(payload.numpy().tobytes())
            return original(payload, *rest)

        return call

    every(world(2, rank))
    return found


def test_golden_payload() -> None:
    """Little-endian; the lowest bit of the first byte is the first entry; what fills up is zero."""
    (payload,) = captured("allgather")
    magic, version, flags, number, _, worker, parameter, crc = struct.unpack("<4sHHIQiiI", payload[:32])
    assert (magic, version, flags, number, worker, parameter) == (b"SGNA", 1, 1, 0, -1, -1)
    status, signs = payload[32:40], payload[40:]
    assert status.hex() == "0200000000000000"
    assert signs.hex() == "ad5e000000000000"  # + - + + - + - + | - + + + + - +
    assert crc == zlib.crc32(payload[32:])
    assert payload[:12].hex() == "53474e410100010000000000"
    assert payload[20:].hex() == "ffffffffffffffff" + struct.pack("<I", crc).hex() + status.hex() + signs.hex()


def test_golden_payloads_of_the_all_to_all() -> None:
    """To the owner of the only word everything, to the other (here: itself) a status; back come header and nothing."""
    there, back, *_ = captured("alltoall")
    assert len(there) == (32 + 8 + 8) + (32 + 8) and there[32:48].hex() == "0200000000000000" + "ad5e000000000000"
    assert there[48:52] == b"SGNA" and there[80:].hex() == "0200000000000000"
    assert back[:4] == b"SGNA" and there[LAYOUT] == there[60:68]


# Choices -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        ("signsgd", "alltoall: "),
        ("muonsign", "alltoall, server sharded"),
        ("ef21muonsign", "alltoall, server sharded"),
        ("ef21muonusign", "allgather"),  # an EF21 mean with a dense downlink
        ("adamw", "alltoall: "),
    ],
)
def test_what_auto_chooses(method: str, chosen: str) -> None:
    many = (1600, 1600) if method == "signsgd" else (300, 400)  # few bits in few bytes are not worth another round
    shapes = {"a": (100, 200), "b": (100, 200)} if "muon" in method else {"a": many}
    group = measured(method, 4, shapes)[0][1]
    line = str(group).splitlines()[2].strip()
    assert line.startswith(chosen) and "(not " in line and " MB, " in line, str(group)


def test_str_says_what_was_chosen() -> None:
    lines = str(measured("signsgd", 2, {"a": (64, 64)}, exchange="alltoall", server="replicated")[1][1]).splitlines()
    asked = "exchange='alltoall', server='replicated', overlap=False, bucket_mb=4"
    assert lines[0] == f"Group(rank 1 of 2, workers_per_rank=1, {asked})"
    assert lines[1].strip().startswith("bucket 0 (a): 4,096 entries, signs -> signs -> signs, majority_vote")
    assert lines[2].strip().startswith("alltoall: 0.000512 MB, ")


def test_small_messages_take_one_round() -> None:
    """Latency decides: one all-gather of a few bytes is faster than there and back."""
    assert "allgather: " in str(measured("signsgd", 4, {"a": (8, 8)})[0][1]).splitlines()[2]


def test_ring_is_close_and_equal_on_all_ranks() -> None:
    options: dict[str, Any] = {"steps": 6, "dtype": torch.float64}
    reference = loopback(spec("muon"), 3, **options)
    found = ranks(spec("muon"), [1, 1, 1], {"exchange": "ring"}, **options)
    assert "ring: " in str(found[0].opt.transport)
    assert len({tuple(run.digests) for run in found}) == 1
    for name, value in reference.values.items():
        assert torch.allclose(found[0].values[name], value, rtol=0, atol=1e-12), name


def test_arguments_that_make_no_sense() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        for wrong, text in (
            ({"exchange": "all"}, "exchange must be one of auto, alltoall, allgather, int8, lanes, ring, got 'all'"),
            ({"server": "me"}, "server must be one of auto, replicated, sharded, got 'me'"),
            ({"workers_per_rank": 0}, "workers_per_rank must be an integer from 1 on, got 0"),
            ({"bucket_mb": 0.0}, "bucket_mb must be a positive number, got 0.0"),
            ({"bucket_mb": "4"}, "bucket_mb must be a positive number, got '4'"),
            ({"timeout": None}, "timeout must be a positive number, got None"),
            ({"timeout": float("inf")}, "timeout must be a positive number, got inf"),
            ({"check_replicas_every": 1.5}, "check_replicas_every must be an integer from 0 on, got 1.5"),
            ({"exchange": "allgather", "server": "sharded"}, "in an all-gather everybody serves"),
        ):
            with pytest.raises(ValueError, match=text):
                signa.Group(**{**arguments, **wrong})
        with pytest.raises(TypeError, match="3 is no process group: pass one of"):
            signa.Group(3)
        arguments["timeout"] = timedelta(seconds=arguments["timeout"])
        train("signsgd", signa.Group(**arguments), steps=1, shapes={"w": (3, 4)})

    every(world(2, rank))
