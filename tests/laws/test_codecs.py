"""The wire format: pinned bytes of every codec, the same by numpy, and what comes back from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from signa import compressors
from signa.codec import Block, Codec, Dense, Field, ScaledSigns, ScaledTernary, Signs, Sparse, Ternary, codec_for
from signa.compressors import Identity, RandomK, Rank, ScaledSign, Sign, StochasticSign, TopK
from signa.signal import SQRT_MN, Signal
from signa.testing import check_component, context, sample

quick = settings(max_examples=30, derandomize=True, deadline=None, database=None)

#: 3 x 7: subnormals, zeros of both signs, powers of two, what no float32 holds, the largest.
VALUES = [
    *(2.0**-149, -(2.0**-140), 0.0, -0.0, 1.0, -1.0, 2.0**-126),
    *(-0.5, 2.0, 1024.0, -(2.0**127), 0.1, -1 / 3, 3.4e38),
    *(-2.0, 7.0, -0.0, 0.0, 1e-30, -1e30, 65.0),
]
#: Every group of entries that shares a scale has one of these sizes.
SIZES = [0.5, 2.0**-149, 3.0, 0.0, 1024.0]


def values(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([VALUES], dtype=torch.float64).to(dtype)


def pattern(m: int, n: int) -> Tensor:
    """Signs (1, m n) without a period."""
    e = torch.arange(m * n)
    return 1.0 - 2.0 * ((e * e + 3 * e // 4) % 5 % 2).to(torch.float32).view(1, -1)


def scaled(per: str, m: int, n: int, block: int = 8) -> Tensor:
    e = torch.arange(m * n)
    group = {"matrix": 0 * e, "row": e // n, "column": e % n, "block": e // block}[per]
    return pattern(m, n) * torch.tensor(SIZES)[group % len(SIZES)]


def ternary(m: int, n: int) -> Tensor:
    return torch.where(torch.arange(m * n) % 7 % 3 == 1, torch.tensor(0.0), pattern(m, n))


def sparse() -> Tensor:
    return torch.where(torch.arange(21) % 5 == 1, values() + 0.0, 0.0)


M, N = 5, 13  # 65 entries: a second word with one bit
CASES: dict[str, tuple[Codec, Tensor]] = {
    "sign": (Signs(M, N, torch.float32), pattern(M, N)),
    "ternary": (Ternary(M, N, torch.float32), ternary(M, N)),
    **{
        f"scaled_sign per {per}": (ScaledSigns(M, N, torch.float32, per, 8), scaled(per, M, N))
        for per in ("matrix", "row", "column", "block")
    },
    "scaled_sign of float64": (ScaledSigns(M, N, torch.float64, "row", 1), scaled("row", M, N).double()),
    "scaled ternary": (ScaledTernary(M, N, torch.float32), ternary(M, N) * 3.0 + 0.0),
    "top_k": (Sparse(3, 7, torch.float32, 6), sparse()),
    "dense": (Dense(3, 7, torch.float32), values()),
    "dense of float64": (Dense(3, 7, torch.float64), values(torch.float64)),
}

GOLDEN = {
    "sign": ("d50f5cfdc0d50f5c0100000000000000"),
    "ternary": ("c50618dd40950b4c0000000000000000 ed76bbdd6eb7dbed0000000000000000"),
    "scaled_sign per matrix": ("d50f5cfdc0d50f5c0100000000000000 0000003f"),
    "scaled_sign per row": ("d50f5cfdc0d50f5c0100000000000000 0000003f01000000000040400000000000008044"),
    "scaled_sign per column": (
        "d50f5cfdc0d50f5c0100000000000000 0000003f010000000000404000000000000080440000003f010000000000404"
        "000000000000080440000003f0100000000004040"
    ),
    "scaled_sign per block": (
        "d50f5cfdc0d50f5c0100000000000000 0000003f010000000000404000000000000080440000003f010000000000404000000000"
    ),
    "scaled_sign of float64": (
        "d50f5cfdc0d50f5c0100000000000000 000000000000e03f000000000000a0360000000000000840000000000000000"
        "00000000000009040"
    ),
    "scaled ternary": ("c50618dd40950b4c0000000000000000 ed76bbdd6eb7dbed0000000000000000 00004040"),
    "top_k": ("0000000000020080000000000000000000008000cdcccc3d 2088611600000000"),
    "dense": (
        "010000000002008000000000000000800000803f000080bf00008000000000bf0000004000008044000000ffcdcccc3d"
        "abaaaabe9ec97f7f000000c00000e04000000080000000006042a20dcaf249f100008242"
    ),
    "dense of float64": (
        "000000000000a03600000000000030b700000000000000000000000000000080000000000000f03f000000000000f0bf"
        "0000000000001038000000000000e0bf00000000000000400000000000009040000000000000e0c79a9999999999b93f"
        "555555555555d5bfaddf8cc733f9ef4700000000000000c00000000000001c4000000000000000800000000000000000"
        "a0c2ebfe4b48b439ea8ca039593e29c60000000000405040"
    ),
}


def hexadecimal(codec: Codec, x: Tensor) -> str:
    return " ".join(part.contiguous().numpy().tobytes().hex() for part in codec.pack(x))


def bits(of: np.ndarray) -> bytes:
    """LSB first, zeros to the end of the word."""
    packed = np.packbits(of, bitorder="little").tobytes()
    return packed + bytes(-len(packed) % 8)


def by_numpy(name: str, codec: Codec, x: Tensor) -> list[bytes]:
    """The same from the documentation: packbits in words, and floats as memory has them."""
    y = x.numpy()[0]
    if name.startswith("dense"):
        return [y.tobytes()]
    if name == "top_k":
        at = np.flatnonzero(y)
        zeros = [e for e in range(len(y)) if not y[e]]
        at = np.sort(np.concatenate([at, zeros[: codec.kept - len(at)]])).astype(int)
        return [y[at].tobytes(), bits(np.concatenate([[e >> b & 1 for b in range(5)] for e in at]))]
    if name == "ternary":
        return [bits(y > 0), bits(y != 0)]
    if name == "scaled ternary":
        return [bits(y > 0), bits(y != 0), np.abs(y).max().tobytes()]
    sign = bits(~np.signbit(y))
    if name == "sign":
        return [sign]
    grid = np.abs(y).reshape(codec.m, codec.n)
    size = {"matrix": grid[:1, 0], "row": grid[:, 0], "column": grid[0], "block": grid.ravel()[::8]}[codec.per]
    return [sign, size.tobytes()]


@pytest.mark.parametrize("name", CASES)
def test_the_wire_format_is_pinned(name: str) -> None:
    codec, x = CASES[name]
    assert hexadecimal(codec, x) == GOLDEN[name]
    assert hexadecimal(codec, x).split() == [part.hex() for part in by_numpy(name, codec, x)]
    read = [bytearray.fromhex(part) for part in GOLDEN[name].split()]
    parts = [torch.frombuffer(part, dtype=f.dtype).view(1, -1) for part, f in zip(read, codec.fields, strict=True)]
    assert same_bits(codec.unpack(parts, 0, x.numel()), x)
    assert codec.nbytes(Block(0, 1, 0, x.numel())) == len(GOLDEN[name].replace(" ", "")) // 2


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def test_the_fixed_matrices_hold_what_they_should() -> None:
    sizes = values().abs()
    normal = torch.finfo(torch.float32).smallest_normal
    assert ((sizes > 0) & (sizes < normal)).sum() == 2 and (values() == 0).sum() == 4
    assert torch.signbit(values()[values() == 0]).sum() == 2
    assert set(ternary(M, N).unique().tolist()) == {-1, 0, 1} and M * N % 8 == 1 and 3 * 7 % 8 == 5
    for per in ("row", "column", "block"):
        x = scaled(per, M, N)
        assert torch.signbit(x[x == 0]).any() and not torch.signbit(x[x == 0]).all()


def test_zeros_of_either_sign_are_one_ternary_symbol() -> None:
    codec, x = CASES["ternary"]
    assert hexadecimal(codec, torch.where(x == 0, -0.0, x)) == GOLDEN["ternary"]


def test_few_values_and_many_zeros_have_one_packing() -> None:
    """Where less than k entries differ from 0, the first zeros fill up: no device has a choice."""
    codec = Sparse(3, 7, torch.float32, 4)
    x = torch.zeros(1, 21)
    at = bits(np.array([[e >> b & 1 for b in range(5)] for e in range(4)]).ravel())
    assert hexadecimal(codec, x) == f"{bytes(16).hex()} {at.hex()}"
    x[0, 20] = -(2.0**-149)
    values_, places = codec.pack(x)
    assert same_bits(values_, torch.tensor([[0.0, 0.0, 0.0, -(2.0**-149)]]))
    assert places.numpy().tobytes() == bits(np.array([[e >> b & 1 for b in range(5)] for e in (0, 1, 2, 20)]).ravel())


PARTS = [Sign(), Sign(zeros="keep"), Identity(), *(TopK(fraction=share) for share in (0.01, 0.4, 1.0))]
PARTS += [ScaledSign(per=per, block=64) for per in ("matrix", "row", "column", "block")]
PARTS += [ScaledSign(per="block", block=block) for block in (1, 13, 100)]
PARTS += [StochasticSign(), compressors.Ternary(), RandomK(fraction=0.4), Rank(rank=3)]


@pytest.mark.parametrize("rule", PARTS, ids=str)
@settings(quick, max_examples=8)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_length_and_dtype_travels(rule: Any, shape: tuple[int, int], seed: int, dtype: torch.dtype) -> None:
    """Entries mod 8 and mod 64 by chance; pieces, silence and sizes by the laws."""
    check_component(rule, shapes=[shape], seeds=[seed], dtypes=[dtype], only=["travels", "silence", "bytes"])


@quick
@given(length=st.integers(1, 200), rows=st.integers(0, 4), kind=st.sampled_from([Signs, Ternary, Dense]))
def test_messages_of_any_layout(length: int, rows: int, kind: Any) -> None:
    codec = kind(1, length, torch.float32)
    x = sample(rows, 2 * length)
    alphabets = {Signs: x.sign(), Ternary: x.round().clamp(-1, 1) + 0.0}
    wide = alphabets.get(kind, x)
    for y in (wide[:, ::2], wide[:, length:], wide.T[:length].contiguous().T):
        came = codec.unpack(codec.pack(y), 0, length)
        assert came.shape == (rows, length) and torch.equal(came, y)
        assert codec.silent(y).shape == (rows,)


@pytest.mark.parametrize("name", CASES)
def test_no_message_and_many(name: str) -> None:
    codec, x = CASES[name]
    nothing = codec.pack(x[:0])
    assert [part.shape for part in nothing] == [(0, field.columns) for field in codec.fields]
    assert codec.unpack(nothing, 0, x.numel()).shape == x[:0].shape
    assert codec.unpack([part[:, f.part(0, 1)] for part, f in zip(nothing, codec.fields)], 0, 1).shape == (0, 1)
    many = torch.cat([x, -x, x.flip(1) if name in ("sign", "ternary", "dense") else x])
    assert same_bits(codec.unpack(codec.pack(many), 0, x.numel())[:1], x)


def test_which_codec_an_alphabet_has() -> None:
    kinds = {a: type(codec_for(a, 2, 3, torch.float32)) for a in ("sign", "ternary", "dense", "sparse", "else")}
    assert kinds == {"sign": Signs, "ternary": Ternary, "dense": Dense, "sparse": Dense, "else": Dense}
    told = Signal("direction", "sign", SQRT_MN)
    assert type(Identity().codec(told, 2, 3, torch.float32)) is Signs
    follows, belongs = Field(3, 64, torch.int64), Field(3, 0, torch.int64)
    assert follows.part(64, 129) == slice(1, 3) and belongs.part(64, 129) == slice(0, 3)


def test_the_coins_of_a_sign_travel() -> None:
    x = sample(1, 9, 21)
    x[0, ::2] = 0
    y = Sign()(x, context()).flatten(-2)
    codec = Sign().codec(Signal(), 9, 21, torch.float32)
    assert torch.equal(codec.unpack(codec.pack(y), 0, 189), y) and not codec.silent(y).any()
