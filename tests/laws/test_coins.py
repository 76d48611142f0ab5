"""Coins are a function of seed, step, parameter, actor and entry, and of nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from signa.coins import SERVER, Coins, mix, name_key
from signa.stage import Context

FIELDS = {"seed": 7, "step": 11, "parameters": [name_key("fc.weight")], "offsets": [0], "actors": [2]}


def bits(**changes: object) -> torch.Tensor:
    return Coins(**(FIELDS | changes)).toss(torch.zeros(1, 16, 32))


def word(seed: int, step: int, parameter: int, actor: int, index: int, hop: int = 0) -> int:
    """64 coins by the definition, in Python integers."""
    key = mix(mix((mix(mix(seed) + step) ^ hop) ^ parameter) + actor)
    return mix(key + (index + 1) * 0x9E3779B97F4A7C15)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"step": 12},
        {"parameters": [name_key("fc.weights")]},
        {"actors": [3]},
        {"actors": [SERVER]},
        {"offsets": [8]},
        {"hop": 1},
    ],
)
def test_each_argument_counts(change: dict) -> None:
    agree = float((bits() == bits(**change)).double().mean())
    assert abs(agree - 0.5) < 5 * 0.5 / math.sqrt(512)


def test_golden_values() -> None:
    """Pinned: a checkpoint's resume, and a run on other hardware, must toss these coins."""
    assert name_key("fc.weight") == 8345965997118334666
    assert [hex(word(7, 11, name_key("fc.weight"), 2, i)) for i in (0, 1, 7)] == GOLDEN
    assert [hex(mix(z)) for z in (0, 1, 2**64 - 1)] == ["0x0", "0x5692161d100b05e5", "0xb4d055fcf2cbbd7b"]


GOLDEN = ["0xd5691b5452078fcf", "0x9e2042946533c9eb", "0xd501f5b109013582"]


@pytest.mark.parametrize("actor", [0, 2, SERVER])
def test_an_entry_takes_its_bit_of_its_word(actor: int) -> None:
    tossed = bits(actors=[actor]).flatten().tolist()
    for e in (0, 1, 63, 64, 65, 300, 511):
        bit = word(7, 11, name_key("fc.weight"), actor, e >> 6) >> (e & 63) & 1
        assert tossed[e] == 2 * bit - 1


def test_every_place_on_the_path_has_its_own_coins() -> None:
    up, aggregate = (Coins(**FIELDS).at(hop) for hop in ("up", "aggregate"))
    assert (
        up.hop == name_key("up")
        and abs(float((up.toss(torch.zeros(1, 64, 64)) * aggregate.toss(torch.zeros(1, 64, 64))).mean())) < 5 / 64
    )
    assert up.words(1, 1).item() & (1 << 64) - 1 == word(7, 11, name_key("fc.weight"), 2, 0, name_key("up"))


def test_rows_toss_alike_in_any_stack() -> None:
    names, actors, offsets = [name_key(f"p{i}") for i in range(6)], [0, 0, 1, 1, SERVER, 5], [0, 60, 0, 120, 33, 1]
    together = Coins(7, 11, names, offsets, actors).toss(torch.zeros(6, 6, 10))
    nested = Coins(7, 11, names, offsets, actors).toss(torch.zeros(2, 3, 6, 10))
    assert torch.equal(together, nested.flatten(0, 1))
    for i in range(6):
        alone = Coins(7, 11, [names[i]], [offsets[i]], [actors[i]]).toss(torch.zeros(1, 6, 10))
        assert torch.equal(alone[0], together[i])
        assert torch.equal(Coins(7, 11, [names[i]], [offsets[i]], [actors[i]]).toss(torch.zeros(6, 10)), together[i])


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_a_piece_tosses_what_the_whole_parameter_tosses_there(cut: int) -> None:
    whole = bits().flatten()
    name = FIELDS["parameters"]
    first = Coins(7, 11, name, [0], [2]).toss(torch.zeros(1, 1, 64 * cut)).flatten()
    rest = Coins(7, 11, name, [cut], [2]).toss(torch.zeros(1, 1, 512 - 64 * cut)).flatten()
    assert torch.equal(torch.cat([first, rest]), whole)


def test_dtype_and_sign_of_the_tensor_do_not_matter() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        tossed = Coins(**FIELDS).toss(torch.ones(1, 16, 32, dtype=dtype))
        assert tossed.dtype == dtype and torch.equal(tossed.float(), bits())


def test_coins_are_fair() -> None:
    """The mean, every bit of a word, neighbours, and workers against each other: within 5 sigma of a fair coin."""
    many = Coins(3, 5, [name_key("a"), name_key("b")] * 2, [0] * 4, [0, 0, 1, 1]).toss(torch.zeros(4, 1000, 256))
    flat = many.view(4, -1)
    sigma = 1 / math.sqrt(flat.shape[1])
    assert (flat.mean(1).abs() < 5 * sigma).all()
    assert (flat.view(4, -1, 64).mean(1).abs() < 5 * 8 * sigma).all()
    for other in (flat.roll(1, 1), flat.roll(64, 1), flat.roll(1, 0), flat.roll(2, 0)):
        assert ((flat * other).mean(1).abs() < 5 * sigma).all()


def test_the_whole_range_of_seeds() -> None:
    for seed in (0, 1, 2**63 - 1, 2**64 - 1):
        assert set(bits(seed=seed).unique().tolist()) == {-1.0, 1.0}


def test_empty_and_mismatched_rows() -> None:
    assert Coins(1, 2, [3], [0], [0]).toss(torch.zeros(1, 0, 5)).shape == (1, 0, 5)
    with pytest.raises(ValueError, match="coins for 2 rows were asked to fill 3"):
        Coins(1, 2, [3, 4], [0, 0], [0, 0]).toss(torch.zeros(3, 2, 2))


def test_an_entry_draws_its_own_word() -> None:
    """The same definition: 53 bits of word 64 offset + e, at a hop of its own."""
    drawn = Coins(**(FIELDS | {"offsets": [3]})).uniform(torch.zeros(1, 16, 32)).flatten()
    for e in (0, 1, 63, 64, 65, 511):
        index = 64 * 3 + e
        expected = (word(7, 11, name_key("fc.weight"), 2, index, hop=0x756E69666F726D) >> 11) / 2**53
        assert drawn[e].item() == expected
    assert drawn.dtype == torch.float64 and drawn.min() >= 0 and drawn.max() < 1


def test_draws_are_uniform_and_apart_from_the_coins() -> None:
    coins, like = Coins(**FIELDS), torch.zeros(1, 400, 256)
    u = coins.uniform(like).flatten()
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * n)
    counts = torch.histc(u.float(), 64, 0, 1)
    assert float((counts - n / 64).square().sum() / (n / 64)) < 63 + 5 * math.sqrt(2 * 63)
    for other in (u.roll(1), u.roll(64), coins.at("up").uniform(like).flatten(), coins.toss(like).flatten() / 2):
        assert abs(float(((u - 0.5) * (other - other.mean())).mean())) < 5 * 0.3 * 0.5 / math.sqrt(n)
    assert u.unique().numel() == n


@pytest.mark.parametrize("change", [{"seed": 8}, {"step": 12}, {"actors": [3]}, {"offsets": [8]}, {"hop": 1}])
def test_each_argument_counts_in_a_draw(change: dict) -> None:
    like = torch.zeros(1, 16, 32)
    one, two = Coins(**FIELDS).uniform(like), Coins(**(FIELDS | change)).uniform(like)
    assert not (one == two).any() and abs(float(((one - 0.5) * (two - 0.5)).mean())) < 5 / 12 / math.sqrt(512)


def test_a_piece_draws_what_the_whole_draws_there() -> None:
    names, actors, offsets = [name_key(f"p{i}") for i in range(4)], [0, 1, SERVER, 5], [0, 60, 33, 1]
    whole = Coins(7, 11, names, offsets, actors).uniform(torch.zeros(4, 6, 30))
    rest = Coins(7, 11, names, [o + 2 for o in offsets], actors).uniform(torch.zeros(4, 1, 52))
    assert torch.equal(rest.flatten(1), whole.flatten(1)[:, 128:])
    nested = Coins(7, 11, names, offsets, actors).uniform(torch.zeros(2, 2, 6, 30, dtype=torch.bfloat16))
    assert torch.equal(nested.flatten(0, 1), whole)
    alone = Coins(7, 11, names[1:2], offsets[1:2], actors[1:2]).uniform(torch.zeros(6, 30))
    assert torch.equal(alone, whole[1])
    assert torch.equal(Context(coin=Coins()).uniform(whole), Coins().uniform(whole))


def test_a_fair_sign_asks_only_where_zeros_are() -> None:
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0, 3] = 0
    ctx = Context(coin=Coins(1, 2, [3, 4], [0, 0], [0, 0]))
    y = ctx.fair_sign(x)
    assert torch.equal(y[0, 3], ctx.coins(x)[0, 3]) and torch.equal(y[1], x[1].sign())
    assert torch.equal(y[0][x[0] != 0], x[0].sign()[x[0] != 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 2, 8, 16), (4, 1, 200), (6, 4), (0, 3, 3), (3, 0, 4)], ids=str)
def test_a_fair_sign_is_its_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Entry by entry, whatever the last word holds: zeros of both signs, NaN, a matrix of zeros, any strides."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    x[torch.rand(shape, generator=generator) < 0.3] = 0
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    if x.numel():
        x.flatten()[0] = x.view(-1)[-1] = float("nan")
        x[..., :1, :1] = 1
    if len(x) > 1:
        x[1] = 0
    rows = x.shape[:-2].numel()
    ctx = Context(coin=Coins(1, 2, list(range(rows)), list(range(rows)), [3] * rows))
    opinion = (torch.sign(x) != 0).flatten(-2).any(-1)[..., None, None] if x.numel() else torch.ones(1, 1, 1).bool()
    expected = torch.where((torch.sign(x) == 0) & opinion, ctx.coins(x), torch.sign(x))
    for y in (ctx.fair_sign(x), ctx.fair_sign(x.mT.contiguous().mT)):
        assert torch.equal(y, expected) and y.dtype == dtype
