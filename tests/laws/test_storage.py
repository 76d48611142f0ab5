"""Forms of states: what they keep, what they lose, and that rounding is fair and the same wherever it is done."""

import pytest
import torch
from torch import Tensor

from signa.coins import Coins, name_key
from signa.storage import BLOCK, FORMS, Form, Storage

NAMES: tuple[Form, ...] = ("bfloat16", "int8")
SHAPES = [(1, 2), (3, 5), (16, 16), (7, 37), (40, 33)]


def rows(count: int) -> Coins:
    return Coins(7, 3, [name_key(f"w{r // 2}") for r in range(count)], [0] * count, [r % 2 for r in range(count)])


def sample(*shape: int, seed: int = 0) -> Tensor:
    """Entries of many sizes, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 10 ** torch.empty(shape).uniform_(-3, 0, generator=generator)
    return x.where(torch.rand(shape, generator=generator) > 0.05, 0)


def back(form: Storage, x: Tensor, coins: Coins | None = None) -> Tensor:
    return form.read(form.write(x, coins), x.dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept(name: Form, shape: tuple[int, int]) -> None:
    form, x = FORMS[name], sample(6, *shape)
    for coins in (None, rows(6)):
        y = back(form, x, coins)
        assert y.shape == x.shape and y.dtype == x.dtype
        assert torch.equal(y.sign(), x.sign())  # zeros stay zeros, and nothing else becomes one
        assert torch.equal(back(form, y, coins), y)  # what is stored is stored again without loss
        step = 1.0 if coins else 0.5
        if name == "bfloat16":
            assert bool(((y - x).abs() <= step * 2**-7 * x.abs()).all())
        else:
            for row, was in zip(y.flatten(1), x.flatten(1), strict=True):
                for a in range(0, len(was), BLOCK):
                    most = was[a : a + BLOCK].abs().max()
                    error = (row - was)[a : a + BLOCK].abs() / most
                    assert bool((error <= step * (1 - (126 / 127) ** 4) * 1.001).all())
                    assert row[a : a + BLOCK].abs().max() == most


@pytest.mark.parametrize("name", NAMES)
def test_bits_and_names(name: Form) -> None:
    stored = FORMS[name].write(torch.zeros(4, 32, 64), None)
    assert len(FORMS[name].names("worker.momentum.m")) == len(stored)
    assert sum(t.numel() * t.itemsize for t in stored) == 4 * 32 * 64 * {"bfloat16": 2, "int8": 1 + 4 / BLOCK}[name]
    assert not back(FORMS[name], torch.zeros(4, 32, 64), rows(4)).any()


@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_fair(name: Form) -> None:
    """E[stored] = value, where to the nearest 0.3 of a step would always be lost."""
    x = sample(1, 8, 40)
    mean = sum(back(FORMS[name], x, Coins(1, step, [5], [0], [0])).double() for step in range(1000)) / 1000
    nearest = (back(FORMS[name], x) - x).abs().max()
    assert (mean - x).abs().max() < 0.2 * nearest


@pytest.mark.parametrize("name", NAMES)
def test_rows_round_alike_wherever_they_are(name: Form) -> None:
    x, coins = sample(6, 7, 37), rows(6)
    whole = FORMS[name].write(x, coins)
    for row in range(6):
        own = Coins(7, 3, [coins.parameters[row]], [0], [coins.actors[row]])
        for part, all_ in zip(FORMS[name].write(x[row : row + 1], own), whole, strict=True):
            assert torch.equal(part[0], all_[row])
    assert not torch.equal(whole[0], FORMS[name].write(x, Coins(7, 4, coins.parameters, [0] * 6, coins.actors))[0])
    matrices = Coins(7, 3, [1, 1], [0, 5], [0, 0])  # of one parameter, 7 x 37 entries are 5 words of coins
    assert not torch.equal(*matrices.shorts(x[:2]))
    tail = Coins(7, 3, [1], [1], [0]).shorts(x[:1]).flatten()
    assert torch.equal(matrices.shorts(x[:2])[0].flatten()[64:], tail[: 7 * 37 - 64])


def test_what_is_not_finite() -> None:
    x = torch.tensor([[[torch.inf, -torch.inf, torch.nan, 1.0, torch.finfo(torch.float32).max]]])
    y = back(FORMS["bfloat16"], x, rows(1))
    assert y[0, 0, :2].tolist() == [torch.inf, -torch.inf] and y[0, 0, 2].isnan() and y[0, 0, 3] == 1
    assert not back(FORMS["int8"], x, rows(1)).isfinite().any()


def test_double_precision() -> None:
    x = sample(2, 9, 30).double()
    for name in NAMES:
        assert back(FORMS[name], x, rows(2)).dtype == torch.float64


def test_coins_have_sixteen_even_bits() -> None:
    drawn = Coins(0, 0, [1], [0], [0]).shorts(torch.empty(1, 100, 1000))
    assert drawn.dtype == torch.int32 and drawn.min() >= 0 and drawn.max() < 1 << 16
    ones = torch.stack([(drawn >> bit & 1).double().mean() for bit in range(16)])
    assert (ones - 0.5).abs().max() < 0.01
