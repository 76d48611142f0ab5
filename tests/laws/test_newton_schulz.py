"""Newton-Schulz, its coefficient tables, the exact polar factor, and the reductions below them."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import signa
from signa.kernels import native_for, use
from signa.linalg import column_sum, matrix_sum, power_of_two_scale, row_sum
from signa.lmo.newton_schulz import exact_polar, leading_pair, orthogonalise
from signa.lmo.schedules import SCHEDULES, Row, polar_express, rows

# The two published tables of Polar Express coefficients: numerics.md, and modded-nanogpt record 40.
EIGHT = (
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
)
SHIPPED = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# One matrix and what three oracles of the reference make of it in float64 (reference.md 1.0).
G = torch.tensor([[1, 2, 3, 4], [-5, -6, -7, -8], [9, 10, 11, -2]], dtype=torch.float64)
EXACT = (
    (-0.6398508938, 0.0262478289, 0.6923465515, 0.3325028388),
    (-0.4874482308, -0.2643775628, -0.0413068949, -0.8311392585),
    (0.4316461391, 0.5125903716, 0.5935346042, -0.4457010154),
)
JORDAN = (
    (-0.7530316078, -0.0132865852, 0.7264584375, 0.3306478012),
    (-0.4457385539, -0.1755735543, 0.0945914452, -0.8431006488),
    (0.3206583852, 0.3900411970, 0.4594240088, -0.5148539795),
)
POLAR = (
    (-0.5571374751, 0.0391976598, 0.6355327948, 0.3881520162),
    (-0.4651610711, -0.2870026790, -0.1088442869, -0.9094362466),
    (0.4903925786, 0.5673784675, 0.6443643564, -0.4914866376),
)
# The widest ones are where a library splits the inner product over the threads if it is not kept short.
SHAPES = [
    (9, 21),
    (65, 129),
    (16, 40),
    (16, 16),
    (16, 17),
    (9, 13),
    (1, 7),
    (7, 1),
    (33, 33),
    (64, 64),
    (31, 1000),
    (10, 1030),
    (97, 1030),
    (128, 512),
    (300, 200),
]


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """The tests change the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["multiplied", "in float32"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """bfloat16 as on a CPU that multiplies it, and as on one that does not, whichever this is."""
    monkeypatch.setattr("signa.linalg._multiplies_bfloat16", lambda: request.param)
    return bool(request.param)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def run(x: Tensor, name: str = "polar6", dtype: torch.dtype = torch.float32) -> Tensor:
    schedule = SCHEDULES[name]
    return orthogonalise(x, schedule.coefficients, normalisation=schedule.normalisation, dtype=dtype)


def textbook(g: Tensor, name: str) -> Tensor:
    """The definition, through the singular values in float64."""
    if g.shape[0] > g.shape[1]:
        return textbook(g.mT, name).mT
    g, kind = g.double(), SCHEDULES[name].normalisation
    g = g / (g @ g.mT).abs().sum(-1, keepdim=True).sqrt() if kind == "aol" else g
    U, S, Vh = torch.linalg.svd(g, full_matrices=False)
    S = S / {"schatten4": S.pow(4).sum().sqrt().sqrt(), "frobenius": S.norm(), "aol": 1.0}[kind]
    for a, b, c in SCHEDULES[name].coefficients:
        S = a * S + b * S**3 + c * S**5
    return U * S @ Vh


# Coefficients


def test_generator_gives_the_table_of_eight() -> None:
    made = polar_express(1e-3, 8, cushion=0.02407327424182761, safety=1.01)
    assert torch.tensor(made).sub(torch.tensor(EIGHT)).abs().max() < 1e-4


def test_polar5_is_the_shipped_table() -> None:
    shipped = torch.tensor(SHIPPED, dtype=torch.float64)
    made = torch.tensor(SCHEDULES["polar5"].coefficients, dtype=torch.float64)
    assert (made - shipped).abs().max() < 1e-12


def test_polar6_is_five_safe_rows_and_a_bare_one() -> None:
    table = SCHEDULES["polar6"].coefficients
    assert torch.tensor(table).sub(torch.tensor((*EIGHT[:5], (1.8913, -1.2680, 0.3768)))).abs().max() < 1e-4


@pytest.mark.parametrize("lower", [0.001, 0.03, 0.3, 0.9])
def test_one_step_equioscillates(lower: float) -> None:
    ((a, b, c),) = polar_express(lower, 1, cushion=0.0, safety=1.01)
    x = torch.linspace(lower, 1, 200_001, dtype=torch.float64)
    error = a * x + b * x**3 + c * x**5 - 1
    worst = error.abs().max().item()
    extremes = [value for value in error.tolist() if abs(value) > worst * (1 - 1e-4)]
    assert 1 + sum(p * q < 0 for p, q in pairwise(extremes)) == 4
    assert error[0].item() == pytest.approx(-worst, rel=1e-6)


def test_degenerate_interval_is_the_classical_quintic() -> None:
    ((a, b, c),) = polar_express(1.0, 1, cushion=0.0, safety=1.01)
    assert (a, b, c) == pytest.approx((15 / 8, -10 / 8, 3 / 8))


def test_every_knob_of_the_generator_is_heard() -> None:
    def table(
        lower: float = 1e-3, cushion: float = 0.02, safety: float = 1.02, inside: bool = False
    ) -> tuple[Row, ...]:
        return polar_express(lower, 4, cushion=cushion, safety=safety, safety_inside=inside)

    tables = {table(), table(lower=1e-2), table(cushion=0.1), table(safety=1.01), table(inside=True)}
    assert len(tables) == 5
    assert table(safety=1.0) == table(safety=1.0, inside=True)


def test_rows_cut_and_repeat() -> None:
    table = SCHEDULES["polar6"].coefficients
    assert rows(table, 2) == table[:2]
    assert rows(table, 9) == (*table, table[-1], table[-1], table[-1])
    assert rows(table, 0) == ()


def test_every_schedule_has_a_source() -> None:
    assert set(SCHEDULES) == {"polar6", "polar5", "jordan5", "quintic5", "cubic5", "turbo4"}
    assert all(schedule.source for schedule in SCHEDULES.values())


# Values


def test_golden_jordan5() -> None:
    out = run(G, "jordan5", torch.float64)  # the reference adds 1e-7 to the norm: 5e-9 of it here
    assert (out - torch.tensor(JORDAN, dtype=torch.float64)).abs().max() < 1e-7


def test_golden_polar5() -> None:
    (a, b, c), *others = SCHEDULES["polar5"].coefficients
    first = (a / 1.02, b / 1.02**3, c / 1.02**5)  # the reference divides by 1.02 ||G||_F + 1e-6
    out = orthogonalise(G, (first, *others), normalisation="frobenius", dtype=torch.float64)
    assert (out - torch.tensor(POLAR, dtype=torch.float64)).abs().max() < 1e-6


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", [(5, 9), (70, 33), (20, 1000), (64, 64)])
def test_float64_is_the_textbook_formula(name: str, shape: tuple[int, int]) -> None:
    g = draw(*shape, dtype=torch.float64)
    assert (run(g, name, torch.float64) - textbook(g, name)).abs().max() < 1e-11


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_lower_precision_stays_near_the_textbook_formula(name: str, dtype: torch.dtype, bound: float) -> None:
    g = draw(48, 400)
    assert torch.linalg.matrix_norm(run(g, name, dtype) - textbook(g, name), 2) < bound


def test_jordan5_agrees_with_torch_muon() -> None:
    muon = pytest.importorskip("torch.optim._muon")
    g = draw(64, 256)
    theirs = muon._zeropower_via_newtonschulz(g, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    assert torch.linalg.matrix_norm(run(g, "jordan5", torch.bfloat16) - theirs, 2) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 40])
def test_polar6_singular_values_are_one(dtype: torch.dtype, rank: int) -> None:
    left, right = torch.linalg.qr(draw(40, rank)).Q, torch.linalg.qr(draw(90, rank, seed=1)).Q
    g = left * torch.logspace(0, -2, rank) @ right.mT
    sigma = torch.linalg.svdvals(run(g, dtype=dtype))[:rank]
    assert sigma.min() > 0.98 and sigma.max() < 1.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_turbo4_is_as_good_as_its_table(dtype: torch.dtype) -> None:
    """numerics.md: quality .952 and sign agreement .989 on a Gaussian 256 x 1024, sigma .94 to 1.06."""
    g = draw(256, 1024)
    out, polar = run(g, "turbo4", dtype), exact_polar(g)
    sigma = torch.linalg.svdvals(out)
    quality = float((g * out).sum() / torch.linalg.svdvals(g).sum() / sigma.max().clamp(min=1))
    assert 0.95 < quality < 1 and sigma.min() > 0.94 and sigma.max() < 1.06
    assert float((out.sign() == polar.sign()).double().mean()) > 0.989


@pytest.mark.parametrize("g", [torch.ones(1, 1), torch.ones(4, 6), torch.eye(5, 8), draw(9, 21)], ids=lambda g: g.shape)
def test_turbo4_never_turns_a_direction_round(g: Tensor) -> None:
    """AOL takes orthogonal rows, one row and equal rows to sigma = 1, where the published first row is -0.59."""
    assert float((g * run(g, "turbo4")).sum()) > 0.9 * float(torch.linalg.svdvals(g).sum())
    bare = ((4.0098, -7.0585, 2.4635), *SCHEDULES["turbo4"].coefficients[1:])
    assert sum(bare[0]) < 0 < sum(SCHEDULES["turbo4"].coefficients[0])
    worse = orthogonalise(g, bare, normalisation="aol", dtype=torch.float32)
    assert float((g * worse).sum()) < 0.9 * float(torch.linalg.svdvals(g).sum())


def test_aol_scales_each_row_of_the_smaller_side() -> None:
    g = draw(9, 21, dtype=torch.float64)
    table = SCHEDULES["turbo4"].coefficients
    rescaled = g * torch.logspace(0, -3, 9, dtype=torch.float64).unsqueeze(-1)
    out = orthogonalise(rescaled, ((1.0, 0.0, 0.0),), normalisation="aol", dtype=torch.float64)
    assert torch.allclose(out, rescaled / (rescaled @ rescaled.mT).abs().sum(-1, keepdim=True).sqrt(), atol=1e-12)
    assert torch.linalg.matrix_norm(out, 2) <= 1
    tall = orthogonalise(rescaled.mT, table, normalisation="aol", dtype=torch.float64)
    assert torch.equal(tall.mT, orthogonalise(rescaled, table, normalisation="aol", dtype=torch.float64))


# The leading pair


@pytest.mark.parametrize("shape", [(9, 21), (300, 200), (31, 1000), (64, 64), (128, 512)])
def test_the_leading_pair_is_bit_stable(shape: tuple[int, int]) -> None:
    x = draw(4, *shape)
    torch.set_num_threads(1)
    expected = leading_pair(x, 6)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for part in (0, slice(0, 1), slice(1, 4), slice(None)):
            assert torch.equal(leading_pair(x[part], 6), expected[part]), (threads, part)
    assert torch.equal(leading_pair(x * 2.0**-100, 6), expected)
    assert torch.equal(leading_pair(x.mT.contiguous().mT, 6), expected)


def test_the_leading_pair_is_the_svds() -> None:
    x = draw(3, 20, 33, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(x)
    assert torch.allclose(leading_pair(x, 12), U[..., :1] * Vh[..., :1, :], atol=1e-9)
    gaps = [float((S[..., 0] - (x * leading_pair(x, k)).sum((-2, -1))).max()) for k in range(1, 6)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 1e-3
    for stack in (torch.eye(4), torch.zeros(2, 3)):
        d = leading_pair(stack, 12)
        assert float((stack * d).sum()) == float(stack.any()) and torch.linalg.matrix_norm(d, "nuc") <= 1 + 1e-6
    big = torch.stack((x[0] * 1e-30, x[0] * 1e30)).float()
    assert torch.allclose(leading_pair(big, 12), leading_pair(x[:1], 12).float(), atol=1e-5)


# Laws


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        *((shape, "polar6") for shape in SHAPES),
        ((33, 33), "jordan5"),
        ((9, 41), "cubic5"),
        ((65, 129), "turbo4"),
        ((300, 200), "turbo4"),
    ],
)
def test_stacked_is_alone_under_one_or_two_threads(shape: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    count = 24 if math.prod(shape) < 2_000 else 4
    x = draw(count, *shape, dtype=torch.promote_types(dtype, torch.float32))
    table, normalisation = rows(SCHEDULES[name].coefficients, 2), SCHEDULES[name].normalisation
    torch.set_num_threads(1)
    expected = orthogonalise(x, table, normalisation=normalisation, dtype=dtype)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for part in (0, slice(0, 1), slice(2, 4), slice(0, 3), slice(None)):
            out = orthogonalise(x[part], table, normalisation=normalisation, dtype=dtype)
            assert torch.equal(out, expected[part]), (threads, part)


@pytest.mark.parametrize("shape", [(65, 129), (16, 16), (31, 1000), (128, 512)])
def test_bfloat16_is_stacked_as_alone_in_both_ways(shape: tuple[int, int], either_way: bool) -> None:
    test_stacked_is_alone_under_one_or_two_threads(shape, "polar6", torch.bfloat16)


@pytest.mark.parametrize("shape", [(16, 16), (7, 12), (65, 33), (48, 700)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_bfloat16_in_float32_has_the_bits_of_torch_s_operators(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether C loops add and round, or torch."""
    monkeypatch.setattr("signa.linalg._multiplies_bfloat16", lambda: False)
    if native_for(torch.device("cpu")) is None:
        pytest.skip("there is no C compiler")
    g = draw(3, *shape)
    g[1, :, 0] = 0
    with use("eager"):
        wanted = run(g, name, torch.bfloat16)
    assert torch.equal(run(g, name, torch.bfloat16), wanted)


@pytest.mark.parametrize("name", SCHEDULES)
def test_bfloat16_in_float32_rounds_where_bfloat16_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both add in float32 and round once a sum; their orders differ, so now and then the last bit does."""
    g, found = draw(3, 48, 700), {}
    for known in (True, False):
        monkeypatch.setattr("signa.linalg._multiplies_bfloat16", lambda known=known: known)
        found[known] = run(g, name, torch.bfloat16)
        assert torch.equal(found[known], found[known].bfloat16().float())
        one = orthogonalise(g, ((1.0, 0.0, 0.0),), normalisation="frobenius", dtype=torch.bfloat16)
        assert torch.equal(one, one.bfloat16().float())
    exact = torch.stack([textbook(one, name) for one in g])
    error = {known: torch.linalg.matrix_norm(out - exact).mean() for known, out in found.items()}
    assert error[False] < 1.1 * error[True], "no more rounding error than where products are of bfloat16"
    assert error[False] > 10 * torch.linalg.matrix_norm(run(g, name) - exact).mean(), "and no less: it is bfloat16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(9, 21), (33, 33), (40, 400)])
def test_layout_transposition_and_scale_do_not_matter(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = draw(3, *shape, dtype=torch.promote_types(dtype, torch.float32))
    expected = run(x, dtype=dtype)
    assert torch.equal(run(x.mT.contiguous().mT, dtype=dtype), expected)
    assert torch.equal(run(torch.cat((x, x), -1)[..., : shape[1]], dtype=dtype), expected)
    assert torch.equal(run(x.flip(0), dtype=dtype), expected.flip(0))
    assert torch.equal(run(x.view(3, 1, *shape), dtype=dtype), expected.view(3, 1, *shape))
    for exponent in (-100, -1, 1, 100):
        assert torch.equal(run(x * 2.0**exponent, dtype=dtype), expected)
    if shape[0] != shape[1]:
        assert torch.equal(run(x.mT, dtype=dtype), expected.mT)


@pytest.mark.parametrize("shape", [(100, 500), (40, 700)])
def test_group_size_does_not_matter(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(4, *shape)
    together = run(x, dtype=torch.bfloat16)
    monkeypatch.setattr("signa.lmo.newton_schulz._GROUP", 1)
    assert torch.equal(run(x, dtype=torch.bfloat16), together)


@pytest.mark.parametrize("normalisation", ["schatten4", "frobenius", "aol"])
def test_extreme_magnitudes(normalisation: str) -> None:
    table, x = SCHEDULES["polar6"].coefficients, draw(6, 10)
    stack = torch.stack((x, x * 1e-30, x * 1e30, x * 1e-40, torch.zeros_like(x)))
    out = orthogonalise(stack, table, normalisation=normalisation, dtype=torch.float32)  # type: ignore[arg-type]
    assert (out[1:3] - out[0]).abs().max() < 1e-5
    assert torch.linalg.svdvals(out[3]).sub(1).abs().max() < 0.01
    assert not out[4].any()


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_gives_zero_and_nan_stays_in_its_matrix(name: str) -> None:
    x = torch.stack((draw(5, 8), torch.zeros(5, 8), torch.full((5, 8), math.nan)))
    out = run(x, name, torch.bfloat16)
    assert torch.equal(out[0], run(x[0], name, torch.bfloat16))
    assert not out[1].any() and out[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_input_is_borrowed_and_its_dtype_returned(dtype: torch.dtype) -> None:
    for x in (draw(2, 32, 64, dtype=dtype), draw(40, 8, dtype=dtype), draw(1, 1, dtype=dtype)):
        before = x.clone()
        for out in (run(x.requires_grad_(), "jordan5", dtype), run(x, "polar6", dtype), exact_polar(x)):
            assert out.dtype == dtype and out.shape == x.shape and not out.requires_grad
            out.zero_()
        assert torch.equal(x, before)


def test_an_empty_stack_stays_empty() -> None:
    assert run(torch.zeros(0, 4, 6)).shape == (0, 4, 6)


# The exact polar factor


def test_golden_exact() -> None:
    assert (exact_polar(G) - torch.tensor(EXACT, dtype=torch.float64)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(3, 4), (21, 9), (65, 40), (1, 7)])
def test_exact_stacked_is_alone(shape: tuple[int, int]) -> None:
    x = draw(5, *shape)
    out = exact_polar(x)
    assert torch.equal(torch.stack([exact_polar(one) for one in x]), out)
    assert torch.equal(exact_polar(x[1:3].unsqueeze(1)), out[1:3].unsqueeze(1))
    assert torch.equal(exact_polar(x.mT.contiguous().mT), out)


def test_exact_closed_forms_of_the_counterexamples() -> None:
    O = torch.tensor([[101, 20, 2, -2], [-20, 97, 20, -20], [-2, 20, 2, 101], [-2, 20, -101, -2]]).double() / 103  # noqa: E741
    u, v = torch.tensor([10.0, -3, 10, 10]).double(), torch.tensor([10.0, 3, -10, 10]).double()
    g = 1000 * torch.outer(u, v) / 309 + O
    assert (g * exact_polar(g).sign()).sum().item() == pytest.approx(-42468 / 103, abs=1e-9)
    S = torch.tensor([[-1, -1, 1, 1, 1], [-1, -1, 1, -1, -1], [1, -1, 1, 1, -1], [1, 1, -1, -1, 1], [1, 1, 1, -1, 1]])
    g = S.double()
    g[3, 1] = 100
    assert (g * exact_polar(g.sign())).sum().item() == pytest.approx(6 - 82 / math.sqrt(17), abs=1e-9)
    assert (g * exact_polar(g.sign()).sign()).sum().item() == pytest.approx(-76, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_keeps_the_rank(dtype: torch.dtype) -> None:
    g = draw(7, 3, dtype=dtype) @ draw(3, 12, dtype=dtype, seed=1)
    sigma = torch.linalg.svdvals(exact_polar(torch.stack((g, torch.zeros_like(g)))))
    assert (sigma[0, :3] - 1).abs().max() < 1e-6 and sigma[0, 3:].max() < 1e-6 and not sigma[1].any()


# Reductions


@pytest.mark.parametrize("shape", [(7, 1), (9, 21), (300, 200), (1, 40_000), (40_000, 1), (33, 1025), (1, 1), (2, 0)])
@pytest.mark.parametrize("reduce", [matrix_sum, row_sum, column_sum])
def test_sums_know_neither_stack_nor_threads_nor_layout(reduce, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    x = draw(5, *shape)
    torch.set_num_threads(1)
    expected = reduce(x)
    for thread in (1, 2):
        torch.set_num_threads(thread)
        assert torch.equal(reduce(x), expected)
        assert torch.equal(torch.stack([reduce(one) for one in x]), expected)
        assert torch.equal(reduce(x.mT.contiguous().mT), expected)
        assert torch.equal(reduce(torch.cat((x, x), -1)[..., : shape[1]]), expected)
    axes = {matrix_sum: (-2, -1), row_sum: -1, column_sum: -2}[reduce]
    assert torch.allclose(expected.double(), x.double().sum(axes, keepdim=True), atol=1e-3)


def test_huge_single_sums_know_no_threads() -> None:
    for shape in ((1, 3_000_000), (3_000_000, 1), (5_030, 768)):
        x = torch.arange(math.prod(shape), dtype=torch.float32).mul_(0.1).sin_().view(shape)
        torch.set_num_threads(1)
        alone = matrix_sum(x)
        torch.set_num_threads(2)
        assert torch.equal(matrix_sum(x), alone) and torch.equal(matrix_sum(x[None])[0], alone)


def test_sums_own_their_result_and_accumulate_in_float32() -> None:
    x = torch.ones(2, 1, 1)
    matrix_sum(x).zero_()
    assert x.all()
    assert (
        matrix_sum(torch.ones(1000, 3, dtype=torch.bfloat16)).item() == 3008
    )  # 3000 as bfloat16 has it; 256 if summed so


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_power_of_two_scale_is_exact(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    largest = torch.tensor(
        [limits.max, 3.0, 1.0, limits.smallest_normal, limits.smallest_normal * limits.eps, 0.0], dtype=dtype
    )
    x = largest.view(-1, 1, 1) * torch.tensor([[1.0, 0.0, -1.0]], dtype=dtype)
    scaled, exponent = power_of_two_scale(x)
    assert scaled.dtype == dtype and exponent.shape == (6, 1, 1)
    assert ((scaled[:5, 0, 0] >= 1) & (scaled[:5, 0, 0] < 2)).all() and not scaled[5].any() and exponent[5] == 0
    assert torch.equal(scaled.double() * 2.0 ** exponent.double(), x.double())
    for power in (-4, 1):
        assert torch.equal(power_of_two_scale(x[1:3] * 2.0**power)[0], scaled[1:3])


@pytest.mark.parametrize("axes", [(-2, -1), (-2,), (-1,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_power_of_two_scale_looks_once_or_twice(
    axes: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cache does not hold is looked through for its largest and for its least: the same bits."""
    x = draw(6, 9, 21, dtype=dtype)
    x[1], x[2], x[3, 0, 0], x[4, 8, 2], x[5] = 0, -x[2].abs(), math.inf, math.nan, x[5] * 1e-30
    once = power_of_two_scale(x, axes)
    monkeypatch.setattr(signa.linalg, "_CACHED", 0)
    for found, wanted in zip(power_of_two_scale(x, axes), once, strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0))


def test_power_of_two_scale_lets_nan_and_infinity_show() -> None:
    scaled, _ = power_of_two_scale(torch.tensor([[[math.nan, 1.0]], [[math.inf, 1.0]], [[2.0, 3.0]]]))
    assert scaled[0, 0, 0].isnan() and scaled[1].isnan().all() and torch.equal(scaled[2], torch.tensor([[1.0, 1.5]]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_setting_of_the_process_changes_a_bit(dtype: str) -> None:
    lmo = signa.lmos.get("spectral")(dtype=dtype)
    g = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
    plain = lmo.direction(g)
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = lmo.direction(g)
    finally:
        torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu"):
        cast = lmo.direction(g)
    assert torch.equal(plain, reduced) and torch.equal(plain, cast)
