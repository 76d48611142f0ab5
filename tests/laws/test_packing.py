"""Words of bits: numpy's packbits in 64-bit words, and sums of bits as Python counts them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from signa import packing
from signa.kernels import use
from signa.packing import fair_words, majority, ones, present, signs, unpacked, words, words_for
from signa.testing import sample

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
#: Every remainder of a byte and of a word, none to three words long; and what a piece of 128 entries does not hold.
LENGTHS = st.one_of(st.integers(0, 200), st.sampled_from([255, 256, 257, 319, 320, 321, 700]))
SHAPES = st.tuples(st.integers(0, 5), LENGTHS)
quick = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=["numpy", "torch", "native"])
def library(request: Any, monkeypatch: Any) -> Iterator[str]:
    """Every way of doing it on a CPU, in pieces so small that many lengths have several."""
    monkeypatch.setattr(packing, "_CHUNK", {"cpu": 128})
    monkeypatch.setattr(packing, "_WORDS", {"cpu": 4})
    if request.param == "torch":
        monkeypatch.setattr(packing, "_seen", lambda tensor: tensor)
        monkeypatch.setattr(packing.np, "packbits", None)
        monkeypatch.setattr(packing.np, "take", None)
    if request.param == "native" and not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    with use("native" if request.param == "native" else "eager"):
        yield request.param


def floats(rows: int, length: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Gaussians with zeros of both signs, infinities and subnormals among them."""
    x = sample(rows, length, seed=seed, dtype=dtype)
    rare = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 2.0, -0.5], dtype=dtype)
    rare = torch.cat([rare, torch.tensor([1, -1], dtype=dtype) * torch.finfo(dtype).smallest_normal / 4])
    x.view(-1)[::3] = rare.repeat(x.numel() // 24 + 1)[: len(x.view(-1)[::3])]
    return x


packbits = np.packbits  # as it is before a test takes it away


def by_numpy(bits: np.ndarray) -> Tensor:
    """Bits (R, L) as words, row by row."""
    whole = np.zeros((bits.shape[0], 64 * words_for(bits.shape[1])), bool)
    whole[:, : bits.shape[1]] = bits
    return torch.from_numpy(packbits(whole, bitorder="little").view("<i8").reshape(len(bits), words_for(bits.shape[1])))


@quick
@given(shape=SHAPES, dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_words_are_packbits(library: str, shape: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    x = floats(*shape, dtype, seed)
    expected = by_numpy(~np.signbit(x.double().numpy()))
    assert words(x).shape == (shape[0], words_for(shape[1])) and torch.equal(words(x), expected)
    assert torch.equal(present(x), by_numpy(x.double().numpy() != 0))
    target = torch.full_like(expected, -1)
    assert words(x, out=target) is target and torch.equal(target, expected)
    assert present(x, out=target) is target and torch.equal(target, by_numpy(x.double().numpy() != 0))


@quick
@given(shape=SHAPES, dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_signs_are_the_inverse(library: str, shape: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    x, (rows, length) = floats(*shape, dtype, seed), shape
    expected = torch.where(torch.signbit(x), -1, 1).to(dtype)
    packed = words(x)
    came = signs(packed, length, dtype)
    assert came.dtype == dtype and torch.equal(came, expected)
    target = torch.full((rows, 64 * packed.shape[1]), 7, dtype=dtype)
    assert torch.equal(signs(packed, length, dtype, out=target), expected)
    assert (target[:, length:] == -1).all()
    assert torch.equal(signs(packed.repeat(1, 2)[:, : packed.shape[1]], length, dtype), expected)
    whole = torch.full((64 * packed.numel(),), 7, dtype=dtype)
    for a, d in unpacked(packed, dtype):
        whole[a : a + len(d)] = d
    assert torch.equal(whole.view(rows, -1)[:, :length] if rows and length else whole.view(shape), expected)


@pytest.mark.parametrize("shape", [(3, 700), (1, 5), (4, 64), (2, 1000), (0, 5), (3, 0)], ids=str)
@pytest.mark.parametrize(
    "special", [(), (0.0,), (-0.0,), (torch.nan,), (-torch.nan,), (torch.inf, -torch.inf)], ids=str
)
def test_fair_words_of_every_float_are_alike(library: str, shape: tuple[int, int], special: tuple[float, ...]) -> None:
    """What is rare stands in the last row alone, so behind pieces in which every sign is certain."""
    x = sample(*shape, dtype=torch.bfloat16)
    x[x == 0] = 1
    x[-1:, ::3] = torch.tensor((*special, 2.0)[0], dtype=x.dtype)
    x[-1:, 1::3] = torch.tensor((*special, 2.0)[-1], dtype=x.dtype)
    tossed = torch.full((shape[0], words_for(shape[1])), 0x5555555555555555)
    expected = fair_words(x.double(), lambda: tossed)
    for dtype in (torch.float32, torch.bfloat16):
        for found, right in zip(fair_words(x.to(dtype), lambda: tossed), expected, strict=True):
            assert found.dtype == right.dtype and torch.equal(found, right)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("length", [8, 63, 64, 65, 130, 200])
def test_any_memory_layout_packs_alike(library: str, length: int, dtype: torch.dtype) -> None:
    x = floats(6, 2 * length, dtype)
    for part in (x[:, :length], x[:, ::2], x[::2, 3 : 3 + length], x[:3, 1::2], x.T[:length, :3], x[:1].expand(4, -1)):
        before = part.clone()
        assert torch.equal(words(part), words(before.contiguous()))
        assert torch.equal(present(part), present(before.contiguous()))
        assert torch.equal(part.contiguous().view(torch.uint8), before.contiguous().view(torch.uint8))


def test_words_of_what_has_a_gradient() -> None:
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    assert words(x).item() == 1 and present(x).item() == 3


def test_long_rows_are_packed_in_pieces() -> None:
    """Longer than a real chunk: the seam, and the rest behind it."""
    for rows, length in ((1, (1 << 18) + 65), (2, (1 << 18) - 1), (700, 777)):
        x = floats(rows, length, torch.float32)
        assert torch.equal(words(x), by_numpy(~np.signbit(x.numpy())))
        assert torch.equal(signs(words(x), length, x.dtype), torch.where(torch.signbit(x), -1.0, 1.0))
    planes = torch.randint(-(2**63), 2**63 - 1, (5, (1 << 13) + 3))
    bits = np.unpackbits(planes.numpy().view(np.uint8), axis=-1).sum(0) > 2
    assert np.array_equal(np.unpackbits(majority(planes)[0].numpy().view(np.uint8)), bits)


VOTERS = [*range(1, 18), 31, 32, 33, 63, 64, 127, 128, 255, 256, 257]


def planes_of(voters: int, count: int = 11) -> Tensor:
    """Words (V, count), by chance, and with every number of ones among the columns of bits."""
    chance = torch.randint(-(2**63), 2**63 - 1, (voters, count), generator=torch.Generator().manual_seed(voters))
    stairs = torch.where(torch.arange(voters)[:, None] < torch.arange(voters + 1), 1.0, -1.0)
    return torch.cat([chance, words(stairs)], 1)


def bits_of(w: Tensor) -> np.ndarray:
    return np.unpackbits(w.contiguous().numpy().view(np.uint8), axis=-1, bitorder="little")


@pytest.mark.parametrize("voters", VOTERS)
def test_the_majority_is_the_count(library: str, voters: int) -> None:
    planes = planes_of(voters)
    before, count = planes.clone(), bits_of(planes).sum(0, dtype=np.int64)
    more, tie = majority(planes)
    assert np.array_equal(bits_of(more) == 1, 2 * count > voters)
    assert np.array_equal(bits_of(tie) == 1, 2 * count == voters)
    digits = ones(planes)
    assert len(digits) == voters.bit_length()
    assert np.array_equal(sum(bits_of(digit).astype(np.int64) << at for at, digit in enumerate(digits)), count)
    assert torch.equal(planes, before)
    target = torch.full_like(more, 7), torch.full_like(tie, 7)
    assert majority(planes, out=target) is not None
    assert torch.equal(target[0], more) and torch.equal(target[1], tie)


@pytest.mark.parametrize("voters", [1, 2, 5])
def test_planes_of_any_shape(library: str, voters: int) -> None:
    planes = planes_of(voters, 24)[:, :24]
    flat = majority(planes)
    for shape in ((24,), (4, 6), (2, 3, 4), (24, 1)):
        for found, one in zip(majority(planes.view(voters, *shape)), flat, strict=True):
            assert found.shape == shape and torch.equal(found.flatten(), one)
        digits = ones(planes.view(voters, *shape))
        assert all(d.shape == shape and torch.equal(d.flatten(), o) for d, o in zip(digits, ones(planes)))
    for found, one in zip(majority(planes.T.contiguous().T), flat, strict=True):
        assert torch.equal(found, one)
    for found in majority(planes[:, :0]):
        assert found.shape == (0,)
    for digit in ones(planes):  # results are nobody's scratch
        digit.zero_()
    assert torch.equal(planes, planes_of(voters, 24)[:, :24])
