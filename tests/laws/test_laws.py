"""Every law on every registered component, and proof that each law can be broken."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import signa
from signa.aggregators import CenteredClip, MajorityVote, Mean, Median, TrimmedMean, WeightedMean, WeightedVote
from signa.aggregators import aggregators as aggregator_registry
from signa.codec import Block, Codec, Dense, Field, Signs, Ternary
from signa.coins import Coins
from signa.compressors import (
    Compressor,
    Identity,
    RandomK,
    Rank,
    ScaledSign,
    Sign,
    StochasticSign,
    TopK,
)
from signa.compressors import compressors as compressor_registry
from signa.feedback import EF14, EF21, Feedback, feedbacks
from signa.kernels import use
from signa.lmo import L1, LMO, Column, Frobenius, Linf, Nuclear, Row, Spectral, lmos
from signa.lmo.schedules import SCHEDULES as NAMED
from signa.rule import Rule
from signa.scaling import scalings
from signa.signal import SQRT_MN, Norm, Signal
from signa.stage import Context, Stage, State
from signa.stage import stages as stage_registry
from signa.stages import (
    Adam,
    Alie,
    Attack,
    Clip,
    Constant,
    InnerProduct,
    Mimic,
    Momentum,
    Normalise,
    Project,
    Stale,
    Step,
)
from signa.testing import SHAPES, check_component, context, laws, sample, threads

REGISTRIES = (stage_registry, compressor_registry, aggregator_registry, feedbacks, scalings)
#: Every registered component at its defaults, plug-ins of installed packages included, and our options beside them.
COMPONENTS: list[Rule] = [registry.get(name)() for registry in REGISTRIES for name in registry.names()] + [
    Spectral(schedule="exact"),
    Spectral(dtype="float32"),
    Spectral(dtype="parameter"),
    Spectral(schedule="polar5"),
    Spectral(schedule="jordan5"),
    Spectral(schedule="quintic5", dtype="float32"),
    Spectral(schedule="cubic5", dtype="parameter"),
    Spectral(schedule="turbo4"),
    Spectral(schedule=((1.5, -0.5, 0.0),), steps=12, dtype="float32"),
    Linf(radius=3.0),
    Momentum(beta=0.0),
    Momentum(beta=0.9, nu="beta"),
    Momentum(beta=0.99, nu=0.9 / 0.99),
    Momentum(beta=0.9, heavy_ball=True),
    Step(decay="cautious"),
    Clip(norm="frobenius"),
    Clip(norm="linf", most=0.5),
    Normalise(per="neuron"),
    Sign(zeros="positive"),
    Sign(zeros="keep"),
    ScaledSign(per="row"),
    ScaledSign(per="column"),
    ScaledSign(per="block", block=8),
    TopK(fraction=0.3),
    Rank(rank=1, iterations=1),
    Rank(rank=20),
    RandomK(fraction=0.3),
    RandomK(fraction=0.3, unbiased=True),
    StochasticSign(norm="l2"),
    MajorityVote(ties="zero"),
    TrimmedMean(trim=3),
    WeightedVote(history=0.0, ties="zero"),
    CenteredClip(radius=0.3, iterations=1),
    CenteredClip(radius=2.0, unit="frobenius"),
    *(Project(norm=norm) for norm in ("frobenius", "linf", "column", "row")),
    EF14(decay=0.9),
    EF14(drain=0.5),
]
CASES = [pytest.param(rule, law, id=f"{rule}-{law.replace(' ', '_')}") for rule in COMPONENTS for law in laws(rule)]


@pytest.mark.parametrize(("rule", "law"), CASES)
def test_law(rule: Rule, law: str) -> None:
    check_component(rule, only=[law])


CHEAP = [rule for rule in COMPONENTS if not (isinstance(rule, Spectral) and rule.schedule != "polar6")]


@pytest.mark.parametrize("rule", CHEAP, ids=str)
@settings(max_examples=4, derandomize=True, deadline=None, database=None)
@given(shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 2**20))
def test_laws_on_any_shape(rule: Rule, shape: tuple[int, int], seed: int) -> None:
    check_component(rule, shapes=[shape], seeds=[seed], dtypes=[torch.float32], only=laws(rule))


def test_every_registered_component_is_under_test() -> None:
    for registry in (lmos, *REGISTRIES):
        assert len(registry.names()) >= 3
        for name in registry.names():
            assert any(rule.kind == name and isinstance(rule, registry.base) for rule in COMPONENTS), name
    assert len(CASES) >= 250


def test_aol_obeys_every_law_but_rotation() -> None:
    """It rescales rows, which an orthogonal U mixes, so d(U g V) is not U d(g) V; in bfloat16 rounding hides that."""
    rule = Spectral(schedule="turbo4", dtype="float32")
    check_component(rule, only=set(laws(rule)) - {"rotation"})
    with pytest.raises(AssertionError, match="breaks the law 'rotation'"):
        check_component(rule, only=["rotation"])


def test_a_component_of_a_plugin_gets_the_laws(tmp_path: Any) -> None:
    file = tmp_path / "half.py"
    file.write_text(
        "from typing import Literal\n"
        "from signa import LMO, lmos\n"
        "@lmos.register\n"
        "class Half(LMO):\n"
        '    """sign(g) / 2: not optimal."""\n'
        '    kind: Literal["half_sign"] = "half_sign"\n'
        "    def direction(self, g):\n"
        "        return g.sign() / 2\n"
        "    def norm(self, x):\n"
        "        return x.abs().amax((-2, -1))\n"
    )
    try:
        signa.Spec.load("muon", plugins=[file])
        half = lmos.get("half_sign")()
        with pytest.raises(
            AssertionError, match=r"half_sign breaks the law 'optimal' on a 1x1 matrix of float32, seed 0"
        ):
            check_component(half)
        check_component(half, only=["borrows", "odd", "powers of two", "zero stays zero", "no alias", "feasible"])
    finally:
        lmos.unregister("half_sign")


def test_an_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match="sign has no law"):
        check_component(Sign(), only=["duel"])
    with pytest.raises(TypeError, match="no laws for a Rule"):
        laws(Rule(kind="x"))


# Each law catches a component that breaks it -------------------------------------------------------------------------


class Wrong(LMO):
    kind: str = "wrong"
    how: str

    def direction(self, g: Tensor) -> Tensor:
        d = torch.sign(g)
        match self.how:
            case "writes":
                g.mul_(1.0)
            case "draws":
                d = d * (torch.rand(()) > -1)
            case "aliases":
                d = g.div_(1.0)
            case "long":
                d = d * 1.01
            case "short":
                d = d * 0.99
            case "eps":
                d = g / (g.abs() + 1e-12)
            case "biased":
                d = torch.where(g >= 0, 1.0, -1.0).to(g)
            case "stacked":
                d = d * (1 if g.ndim == 2 else torch.nextafter(torch.ones(()), torch.zeros(())).to(g))
            case "dominant":
                d = g / g.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)
        return d

    def norm(self, x: Tensor) -> Tensor:
        return x.abs().amax((-2, -1))

    def dual(self, g: Tensor) -> Tensor:
        return g.abs().sum((-2, -1)) if self.how != "dominant" else super().dual(g)

    def signal(self, s: Signal) -> Signal:
        wrong = {
            "size": Signal("direction", "dense", Norm("2", lambda m, n: 2.0)),
            "ternary": Signal(alphabet="ternary"),
        }
        return wrong.get(self.how, Signal("direction", "dense"))

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return super().__call__(x, state, ctx) * (0.5 if self.how == "ternary" else 1)

    def lean(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return (self(x, state, ctx) / 3).bfloat16() if self.how == "rounds" else super().lean(x, state, ctx)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("writes", "borrows"),
        ("draws", "borrows"),
        ("aliases", "no alias"),
        ("long", "feasible"),
        ("short", "dual"),
        ("dominant", "optimal"),
        ("eps", "powers of two"),
        ("biased", "zero stays zero"),
        ("biased", "odd"),
        ("stacked", "same alone and stacked"),
        ("size", "is what its signal says"),
        ("ternary", "is what its signal says"),
        ("rounds", "lean"),
    ],
)
def test_a_wrong_lmo_is_caught(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(Wrong(how=how), only=[law])


class WrongStep(Step):
    kind: str = "wrong_step"  # type: ignore[assignment]
    how: str

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return super().__call__(2 * x if self.how == "inherits" else x, state, ctx)

    def signed(self, words: Tensor, models: Sequence[Tensor], ctx: Context) -> bool:
        if self.how == "pretends":
            models[0].add_(1.0)
            return False
        return super().signed(words, models, ctx)


@pytest.mark.parametrize("how", ["inherits", "pretends"])
def test_a_step_of_signs_that_is_another_step_is_caught(how: str) -> None:
    with use("native"), pytest.raises(AssertionError, match="breaks the law 'signed'"):
        check_component(WrongStep(how=how), only=["signed"])


class WrongMomentum(Stage):
    kind: str = "wrong_momentum"
    how: str

    def init(self, x0: Tensor) -> State:
        return {"m": x0 if self.how == "keeps" else torch.zeros_like(x0[0] if self.how == "flat" else x0)}

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        if self.how == "replaces":
            state["m"] = state["m"] + x
        else:
            state["m"].add_(x)
        return state["m"].clone()

    def signal(self, s: Signal) -> Signal:
        return s


@pytest.mark.parametrize("how", ["replaces", "keeps", "flat"])
def test_a_wrong_state_is_caught(how: str) -> None:
    with pytest.raises(AssertionError, match="breaks the law 'state in place'"):
        check_component(WrongMomentum(how=how), only=["state in place"], shapes=[(9, 21)])


class WrongSum(Stage):
    kind: str = "wrong_sum"

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return x / x.sum()

    def signal(self, s: Signal) -> Signal:
        return s


def test_a_sum_that_splits_over_threads_is_caught() -> None:
    x = sample(300, 300)
    with threads(1):
        one = x.sum()
    with threads(2):
        two = x.sum()
    if torch.equal(one, two):
        pytest.skip("this machine adds alike on one and two threads")
    with pytest.raises(AssertionError, match="same on two threads"):
        check_component(WrongSum(), only=["same on two threads"])


class WrongCompressor(Compressor):
    kind: str = "wrong_compressor"
    how: str

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        match self.how:
            case "plus":
                return torch.where(x < 0, -1.0, 1.0).to(x)
            case "overshoots":
                return x * 2.1
            case "global":
                return x * torch.randint(0, 2, x.shape)
        return x * 0.5

    def contraction(self, m: int, n: int) -> float | None:
        return None if self.how == "plus" else 1.5 if self.how == "delta" else 0.5

    def bits(self, s: Signal, m: int, n: int) -> float:
        return 0.0 if self.how == "free" else 1.0

    def signal(self, s: Signal) -> Signal:
        return Signal("direction", "sign", SQRT_MN)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("plus", "zero stays zero"),
        ("overshoots", "contraction"),
        ("delta", "contraction"),
        ("free", "bits"),
        ("global", "borrows"),
        ("half", "is what its signal says"),
    ],
)
def test_a_wrong_compressor_is_caught(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(WrongCompressor(how=how), only=[law], shapes=[(9, 21)])


@dataclass(frozen=True)
class WrongCodec(Ternary):
    """Two bits for a sign, and one thing wrong."""

    how: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        if self.how == "short":
            return super().fields[:1]
        return (*super().fields, Field(9, 0, torch.int64)) if self.how == "padded" else super().fields

    def silent(self, x: Tensor) -> Tensor:
        return {"mute": x[:, 0] > 2, "shy": x[:, 0] < 0}.get(self.how, super().silent(x))

    def pack(self, x: Tensor) -> list[Tensor]:
        if self.how == "writes":
            x.add_(0)
        parts = super().pack(x - x[:1] if self.how == "together" else x)
        return [*parts, parts[0][:, :1].repeat(1, 9)] if self.how == "padded" else parts

    def unpack(self, parts: Any, start: int, stop: int) -> Tensor:
        x = super().unpack(parts[:2], start, stop)
        return {"minus": -(0 - x), "whole": x + x * (start > 0)}.get(self.how, x)

    def nbytes(self, block: Block) -> int:
        return super().nbytes(block) + (self.how == "counts")


class Miscoded(Sign):
    kind: str = "miscoded"
    how: str

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        if self.how == "dense":
            return Dense(m, n, dtype)
        return Signs(m, n, dtype) if self.how == "zeros" else WrongCodec(m, n, dtype, self.how)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("zeros", "travels"),
        ("minus", "travels"),
        ("whole", "travels"),
        ("short", "travels"),
        ("together", "travels"),
        ("writes", "travels"),
        ("counts", "travels"),
        ("shy", "silence"),
        ("mute", "silence"),
        ("short", "bytes"),
        ("padded", "bytes"),
        ("dense", "bytes"),
    ],
)
def test_a_wrong_codec_is_caught(how: str, law: str) -> None:
    check_component(Miscoded(how="", zeros="keep"), only=["travels", "silence", "bytes"], shapes=[(9, 21)])
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(Miscoded(how=how, zeros="keep"), only=[law], shapes=[(9, 21)])


def test_a_message_that_its_alphabet_cannot_say_is_caught() -> None:
    for law in ("travels", "bytes"):
        with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
            check_component(WrongCompressor(how="half" if law == "travels" else "free"), only=[law])


class WrongMean(Mean):
    kind: str = "wrong_mean"
    how: str

    def of_sum(self, total: Tensor, present: Tensor, ctx: Context) -> Tensor:
        return super().of_sum(total, present if self.how == "right" else torch.full_like(present, 4), ctx)

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        return Mean()(messages, active, ctx)


def test_a_wrong_sum_is_caught() -> None:
    check_component(WrongMean(how="right"), only=["sums"], shapes=[(9, 21)])
    with pytest.raises(AssertionError, match="breaks the law 'sums'"):
        check_component(WrongMean(how="everyone"), only=["sums"], shapes=[(9, 21)])


class WrongVote(MajorityVote):
    kind: str = "wrong_vote"
    how: str

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        vote = super().__call__(messages, active, ctx)
        match self.how:
            case "first":
                return vote * vote[..., :1, :1]
            case "drifts":  # a tie takes the coin that stands first in its matrix
                return torch.where(messages.sum(0) == 0, ctx.coins(vote)[..., :1, :1], vote)
        return vote

    def of_words(self, planes: Tensor, coins: Any) -> Any:
        sign, there = super().of_words(planes, coins)
        match self.how:
            case "plus":
                return super().of_words(planes, lambda: torch.full_like(sign, -1))
            case "wraps" if len(planes) > 127:
                return ~sign, there
            case "never":
                return sign, torch.zeros_like(there)
            case "writes":
                planes ^= 1
        return sign, there


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("first", "pieces"),
        ("drifts", "pieces"),
        ("plus", "words"),
        ("wraps", "words"),
        ("never", "words"),
        ("writes", "words"),
    ],
)
def test_a_wrong_vote_is_caught(how: str, law: str) -> None:
    check_component(WrongVote(how=""), only=["pieces", "words"], shapes=[(9, 21)])
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(WrongVote(how=how), only=[law], shapes=[(9, 21)])


class WrongAggregator(signa.Aggregator):
    coordinatewise: ClassVar[bool] = True

    kind: str = "wrong_aggregator"
    how: str

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        match self.how:
            case "first":
                return messages[0].clone()
            case "sum":
                return messages.sum(0)
            case "everyone":
                return messages.mean(0)
            case "minus":
                return -messages.mean(0)
            case "largest":
                return messages.amax(0)
            case "plus":
                return torch.where(messages.sum(0) >= 0, 1.0, -1.0).to(messages)
            case "writes":
                messages[0] += 1
        return messages.mean(0)

    def signal(self, s: Signal) -> Signal:
        return s.but(alphabet="ternary" if self.how == "told" else "dense")


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("first", "anonymous"),
        ("sum", "unanimous"),
        ("everyone", "absent workers"),
        ("minus", "monotone"),
        ("minus", "one worker"),
        ("largest", "odd"),
        ("plus", "all abstain"),
        ("writes", "borrows"),
        ("told", "is what its signal says"),
    ],
)
def test_a_wrong_aggregator_is_caught(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(WrongAggregator(how=how), only=[law], shapes=[(9, 21)])


class WrongMemory(signa.Aggregator):
    remembers: ClassVar[bool] = True

    kind: str = "wrong_memory"
    how: str

    def init(self, workers: int, x0: Tensor) -> State:
        return {} if self.how == "nothing" else {"seen": torch.zeros(1 if self.how == "flat" else len(x0), 1, 1)}

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        new = active.any(0).float()[..., None, None]
        match self.how:
            case "replaces":
                ctx.memory["seen"] = ctx.memory["seen"] + new
            case "counts":
                ctx.memory["seen"] += 1
            case "mixes":
                ctx.memory["seen"] += new.sum()
        return messages.mean(0)

    def signal(self, s: Signal) -> Signal:
        return s.but(alphabet="dense")


@pytest.mark.parametrize("how", ["nothing", "flat", "replaces", "counts", "mixes"])
def test_a_wrong_memory_is_caught(how: str) -> None:
    with pytest.raises(AssertionError, match="breaks the law 'memory'"):
        check_component(WrongMemory(how=how), only=["memory"], shapes=[(9, 21)])


class WrongFeedback(Feedback):
    kind: str = "wrong_feedback"
    how: str

    def sender(self, x0: Tensor) -> State:
        return {"e": torch.zeros_like(x0).contiguous()}

    def encode(self, u: Tensor, compress: Any, state: State, ctx: Context) -> Tensor:
        p = state["e"].add_(u)
        y = compress(p, ctx)
        if self.how == "forgets":
            state["e"] = p - y
            return y * 0.5
        p.sub_(y)  # y is p if C is the identity
        return y + 1 if self.how == "adds" else y

    def decode(self, a: Tensor, state: State) -> Tensor:
        return a

    def signal(self, sent: Signal, received: Signal) -> Signal:
        return received


@pytest.mark.parametrize(
    ("how", "law"), [("aliases", "identity"), ("adds", "zero stays zero"), ("forgets", "state in place")]
)
def test_a_wrong_feedback_is_caught(how: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_component(WrongFeedback(how=how), only=[law], shapes=[(9, 21)])


# Laws of single components -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", range(1, 10))
@pytest.mark.parametrize("ties", ["coin", "zero"])
def test_the_vote_is_the_sign_of_the_sum(workers: int, ties: str) -> None:
    votes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=workers))).T[:, None, None, :]  # (N, 1, 1, 2^N)
    active = torch.ones(workers, 1, dtype=torch.bool)
    result, total = MajorityVote(ties=ties)(votes, active, context()), votes.sum(0)
    decided = total != 0
    assert torch.equal(result[decided], total.sign()[decided])
    assert decided.all() == (workers % 2 == 1)
    tied = result[~decided]
    assert (tied == 0).all() if ties == "zero" else (tied.abs() == 1).all()
    if ties == "coin" and workers in (4, 6, 8):
        assert tied.unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("workers", [127, 128, 255, 256, 257])
def test_the_vote_counts_many_workers(workers: int, dtype: torch.dtype) -> None:
    """Entry e: e workers say -1; a count that saturates or rounds gets the majority wrong near the middle."""
    minus = torch.arange(workers + 1)
    votes = torch.where(torch.arange(workers)[:, None] < minus, -1.0, 1.0).to(dtype)[:, None, None]
    result = MajorityVote(ties="zero")(votes, torch.ones(workers, 1, dtype=torch.bool), context())
    assert torch.equal(result[0, 0], torch.sign(workers - 2 * minus).to(dtype))


def test_coins_of_ties_are_the_servers() -> None:
    tie = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 1, 8, 8)
    ctx = context()
    assert torch.equal(MajorityVote()(tie, torch.ones(2, 1, dtype=torch.bool), ctx), ctx.coins(tie[0]))


def test_the_median_of_an_even_number_is_the_middle() -> None:
    messages = torch.tensor([5.0, -1.0, 3.0, 100.0])[:, None, None, None]
    assert float(Median()(messages, torch.ones(4, 1, dtype=torch.bool), context())) == 4.0
    active = torch.tensor([True, False, True, True])[:, None]
    assert float(Median()(messages * active[..., None, None], active, context())) == 5.0


@pytest.mark.parametrize("aggregator", [Mean(), Median()], ids=str)
def test_messages_may_cancel(aggregator: Any) -> None:
    messages = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 1, 3, 4)
    assert not aggregator(messages, torch.ones(2, 1, dtype=torch.bool), context()).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per", ["matrix", "row", "column", "block"])
def test_a_scaled_sign_loses_what_its_lemma_says(per: str, shape: tuple[int, int]) -> None:
    """||C(x) - x||^2 = sum over the scales' shares of |x|_2^2 - |x|_1^2 / d, and every size is its share's mean."""
    x = sample(*shape, dtype=torch.float64)
    y = ScaledSign(per=per, block=8)(x, context())
    shares = {"matrix": [x.flatten()], "row": list(x), "column": list(x.T), "block": list(x.flatten().split(8))}[per]
    lost = sum(float(g.square().sum() - g.abs().sum() ** 2 / len(g)) for g in shares)
    assert float((y - x).square().sum()) == pytest.approx(lost, rel=1e-9, abs=1e-12)
    means = torch.cat([g.abs().mean().expand(len(g)) for g in shares])
    assert torch.allclose((y.T if per == "column" else y).abs().flatten(), means, rtol=1e-12)


@pytest.mark.parametrize("rule", [Sign(), Sign(zeros="positive"), ScaledSign()], ids=str)
def test_zeros_inside_a_matrix_become_signs(rule: Any) -> None:
    x = sample(6, 40, 50)
    x[:, ::2] = 0
    x[3] = 0
    y = rule(x, context(range(6)))
    assert not y[3].any()
    for i in (0, 1, 2, 4, 5):
        size = y[i].abs()
        assert torch.equal(size, size[0, 0].expand_as(size)) and size[0, 0] > 0
        assert torch.equal(y[i, 1::2].sign(), x[i, 1::2].sign())
        share = float((y[i, ::2] > 0).float().mean())
        assert (
            share == 1.0 if getattr(rule, "zeros", "") == "positive" else abs(share - 0.5) < 5 * 0.5 / math.sqrt(1000)
        )


def test_ef14_loses_nothing() -> None:
    """Sum of y + e_T = sum of u, with any compressor."""
    for compressor in (Identity(), ScaledSign(), TopK(fraction=0.1), ScaledSign(per="row")):
        rule, total_u, total_y = EF14(), 0, 0
        state = rule.sender(torch.zeros(2, 9, 21, dtype=torch.float64))
        for t in range(20):
            u = sample(2, 9, 21, seed=t, dtype=torch.float64)
            total_u, total_y = (
                total_u + u,
                total_y + rule.decode(rule.encode(u, compressor, state, context(range(2))), {}),
            )
        assert torch.allclose(total_y + state["e"], total_u, atol=1e-12)
        assert compressor == Identity() or state["e"].abs().max() > 0.01


@pytest.mark.parametrize(("compressor", "rounds"), [(ScaledSign(), 1500), (TopK(fraction=0.2), 60), (Identity(), 1)])
def test_ef21_reaches_a_constant_target(compressor: Compressor, rounds: int) -> None:
    rule, target = EF21(), sample(2, 9, 21, dtype=torch.float64)
    sender, receiver = rule.sender(torch.zeros_like(target)), rule.receiver(torch.zeros_like(target))
    gaps = []
    for _ in range(rounds):
        delivered = rule.decode(rule.encode(target, compressor, sender, context(range(2))), receiver)
        gaps.append(float(torch.linalg.vector_norm(delivered - target)))
        assert torch.equal(sender["h"], receiver["H"])
    assert gaps[-1] < 1e-3 * float(torch.linalg.vector_norm(target))
    assert all(after <= before * (1 + 1e-9) + 1e-12 for before, after in itertools.pairwise(gaps))


def test_ef21_receivers_hold_the_mean_of_the_senders() -> None:
    rule, mean, workers = EF21(), Mean(), 5
    x0 = sample(3, 9, 21, dtype=torch.float64)
    senders, receiver = [rule.sender(x0) for _ in range(workers)], rule.receiver(x0)
    for t in range(15):
        c = []
        for j, sender in enumerate(senders):
            u = sample(3, 9, 21, seed=10 * t + j, dtype=torch.float64)
            c.append(rule.encode(u, ScaledSign(), sender, context(range(3))))
        rule.decode(mean(torch.stack(c), torch.ones(workers, 3, dtype=torch.bool), context()), receiver)
    assert torch.allclose(receiver["H"], torch.stack([s["h"] for s in senders]).mean(0), atol=1e-13)


def test_ef21_refuses_what_does_not_contract() -> None:
    with pytest.raises(signa.errors.Fault, match="ef21 cannot follow a signal through 'sign'"):
        EF21().admit("sign", None)
    EF21().admit("top_k", 0.01)


@pytest.mark.parametrize(
    "lmo", [Linf(), Column(), Row(), Frobenius(), Spectral(schedule="exact"), Nuclear(), L1()], ids=str
)
def test_duals_are_the_textbooks(lmo: LMO) -> None:
    g = sample(3, 9, 21, dtype=torch.float64)
    textbook = {
        "linf": g.abs().sum((-2, -1)),
        "column": g.square().sum(-2).sqrt().sum(-1),
        "row": g.square().sum(-1).sqrt().sum(-1),
        "frobenius": g.square().sum((-2, -1)).sqrt(),
        "spectral": torch.linalg.svdvals(g).sum(-1),
        "nuclear": torch.linalg.svdvals(g)[..., 0],
        "l1": g.abs().amax((-2, -1)),
    }[lmo.kind]
    assert torch.allclose(lmo.dual(g), textbook, rtol=1e-12)


@pytest.mark.parametrize(
    "lmo", [Column(), Row(), Frobenius(), Nuclear(), L1(), Spectral(dtype="float32"), Spectral()], ids=str
)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_any_size_of_gradient_is_one_direction(lmo: LMO, size: float) -> None:
    """Far from a power of two only rounding may differ; nothing over- or underflows."""
    g = sample(9, 21)
    assert torch.allclose(lmo.direction(g * size), lmo.direction(g), atol=0.02 if lmo == Spectral() else 1e-4)


def test_a_rank_deficient_matrix_keeps_its_rank() -> None:
    S = torch.ones(4, 6)
    exact = Spectral(schedule="exact").direction(S)
    assert torch.allclose(exact, torch.full((4, 6), 1 / math.sqrt(24)), atol=1e-6)
    assert torch.linalg.matrix_rank(exact) == 1


def test_adam_counts_its_own_steps() -> None:
    stage = Adam()
    state = stage.init(torch.zeros(3, 2, 2))
    stage(torch.ones(3, 2, 2), state, context())
    assert state["t"].shape == (3, 1, 1) and state["t"].unique().tolist() == [1.0]


# Scalings ------------------------------------------------------------------------------------------------------------

SIGNS, POLAR = Signal("direction", "sign", SQRT_MN), Spectral().signal(Signal())


@pytest.mark.parametrize("shape", [(64, 75), (128, 1600), (120, 4608), (7, 3), (1, 9), (9, 1)], ids=str)
def test_the_power_rule_contains_the_others(shape: tuple[int, int]) -> None:
    power, get = scalings.get("power"), lambda name: scalings.get(name)()
    for s in (SIGNS, POLAR):
        assert power(alpha=0.5)(s, *shape) == pytest.approx(get("unit_gain")(s, *shape), rel=1e-15)
        assert power(alpha=1.0)(s, *shape) == pytest.approx(get("mup")(s, *shape), rel=1e-15)
        assert power(alpha=0.0)(s, *shape) == get("legacy")(s, *shape)
    assert power(alpha=0.5, beta=0.5)(SIGNS, *shape) == pytest.approx(get("mishra")(SIGNS, *shape), rel=1e-15)
    assert power(alpha=0.0)(SIGNS, *shape) == get("none")(SIGNS, *shape) == 1.0 == get("none")(POLAR, *shape)


def test_the_multipliers_of_the_published_models() -> None:
    """Reference 1.6: CNN2's and nanoGPT's, to the digits printed."""
    unit = scalings.get("unit_gain")()
    published = {
        (64, 75): 0.11547,
        (128, 1600): 0.025,
        (120, 4608): 0.0147314,
        (6, 12): 0.288675,
        (768, 768): 0.0360844,
        (768, 3072): 0.0180422,
    }
    for shape, value in published.items():
        assert unit(SIGNS, *shape) == pytest.approx(value, rel=4e-6)
        assert unit(POLAR, *shape) == 1.0
    assert unit(POLAR, 3072, 768) == 2.0


def test_the_multipliers_by_hand() -> None:
    m, n = 12, 3
    by_hand = {
        "unit_gain": (1 / math.sqrt(n), 2.0),
        "mup": (1 / n, 2.0),
        "legacy": (1.0, 2.0),
        "none": (1.0, 1.0),
        "mishra": (1 / 6, 1 / math.sqrt(3)),
        "power": (1 / math.sqrt(n), 2.0),
        "match_adamw": (0.2, 0.2 * math.sqrt(m)),
        "semantic": (1 / math.sqrt(m), 1.0),
    }
    assert set(by_hand) <= set(scalings.names())
    for name, (signs, polar) in by_hand.items():
        assert scalings.get(name)()(SIGNS, m, n) == pytest.approx(signs, rel=1e-15), name
        assert scalings.get(name)()(POLAR, m, n) == pytest.approx(polar, rel=1e-15), name


# Every knob does something -------------------------------------------------------------------------------------------

X = sample(5, 6, 8)
X[1, ::2] = 0
DENSE = sample(5, 6, 8, seed=9)
MODEL = sample(5, 6, 8, seed=10)


def through(rule: Any, x: Tensor = X, model: Tensor = MODEL) -> list[Tensor]:
    """What a component makes of three inputs in a row."""
    rows = range(5)
    if isinstance(rule, Attack):  # six workers' rows, of which some lie
        x = sample(6, 5, 7)
        state, found = rule.init(x), []
        for t in range(3):
            coins = Coins(3, t, [11] * 6, [0] * 6, list(range(6)))
            found.append(rule(x * (t + 1), state, Context(coin=coins)).nan_to_num(9.0).clone())
        return found
    if isinstance(rule, Stage):
        state = rule.init(model)
        return [rule(x * f, state, context(rows, model)).clone() for f in (1.0, -0.4, 0.8)]
    if isinstance(rule, Compressor):
        return [rule(x, context(rows))]
    if isinstance(rule, Feedback):
        state = rule.sender(torch.zeros_like(x))
        return [rule.encode(x * f, ScaledSign(), state, context(rows)) for f in (1.0, -0.4, 0.8)]
    if isinstance(
        rule, TrimmedMean | CenteredClip | WeightedVote
    ):  # six workers, of whom the first is right more often
        messages = sample(6, 3, 16, 16)
        messages = messages.sign() if isinstance(rule, WeightedVote) else messages
        memory = rule.init(6, messages[0])
        there = torch.ones(6, 3, dtype=torch.bool)
        return [rule(messages.roll(t, 0), there, context(range(3), memory=memory)) for t in range(3)]
    if isinstance(rule, signa.Aggregator):
        messages = torch.stack([x.sign(), -x.sign()])
        return [rule(messages, torch.ones(2, 5, dtype=torch.bool), context(rows))]
    return [torch.tensor([rule(SIGNS, 6, 8), rule(POLAR, 6, 8)])]


OURS = ("linf", "column", "row", "frobenius", "spectral", "nuclear", "l1")
NORMS = ("frobenius", "linf", "spectral", "column", "row")
ATTACKS = [name for name in stage_registry.names() if name.startswith("attack_")]
SCHEDULES = [*NAMED, "exact", ((1.5, -0.5, 0.0),) * 9, {"lower": 0.1, "steps": 3}]
#: (kind, field): values that must all give different results. A field of ours that is missing here fails a test.
KNOBS: dict[tuple[str, str], list[Rule]] = {
    ("sign", "zeros"): [Sign(), Sign(zeros="positive"), Sign(zeros="keep")],
    ("scaled_sign", "per"): [ScaledSign(per=per, block=5) for per in ("matrix", "row", "column", "block")],
    ("scaled_sign", "block"): [ScaledSign(per="block", block=block) for block in (1, 5, 8, 16, 256)],
    ("top_k", "fraction"): [TopK(fraction=fraction) for fraction in (0.02, 0.1, 0.5)],
    ("rank", "rank"): [Rank(rank=rank) for rank in (1, 2, 3, 6)],
    ("rank", "iterations"): [Rank(iterations=iterations) for iterations in (1, 2, 3)],
    ("random_k", "fraction"): [RandomK(fraction=fraction) for fraction in (0.02, 0.1, 0.5)],
    ("random_k", "unbiased"): [RandomK(fraction=0.3), RandomK(fraction=0.3, unbiased=True)],
    ("stochastic_sign", "norm"): [StochasticSign(), StochasticSign(norm="l2")],
    ("weighted_mean", "weights"): [WeightedMean(weights=weights) for weights in ((), (1, 2), (2, 1), (3, 1))],
    ("majority_vote", "ties"): [MajorityVote(), MajorityVote(ties="zero")],
    ("momentum", "beta"): [Momentum(beta=beta) for beta in (0.0, 0.5, 0.95)],
    ("momentum", "nu"): [Momentum(nu=nu) for nu in (1.0, 0.5, 0.0, "beta")],
    ("momentum", "heavy_ball"): [Momentum(), Momentum(heavy_ball=True)],
    ("step", "decay"): [Step(), Step(decay="cautious")],
    ("clip", "most"): [Clip(most=most) for most in (0.1, 0.5)],
    ("clip", "norm"): [Clip(most=0.5, norm=norm) for norm in ("rms", "frobenius", "linf")],
    ("project", "norm"): [Project(norm=norm) for norm in NORMS],
    ("project", "radius"): [Project(radius=radius) for radius in (0.5, 1.0, 2.0)],
    ("normalise", "per"): [Normalise(), Normalise(per="neuron")],
    ("normalise", "beta"): [Normalise(per="neuron", beta=beta) for beta in (0.0, 0.5, 0.95)],
    ("adam", "b1"): [Adam(), Adam(b1=0.5)],
    ("adam", "b2"): [Adam(), Adam(b2=0.5)],
    ("adam", "eps"): [Adam(), Adam(eps=0.1)],
    ("spectral", "schedule"): [Spectral(schedule=schedule) for schedule in SCHEDULES],
    ("spectral", "steps"): [Spectral(steps=steps) for steps in (1, 2, 3, 4, 5, 6, 7)],
    ("spectral", "dtype"): [Spectral(dtype="bfloat16"), Spectral(dtype="float32")],
    ("spectral", "normalisation"): [Spectral(normalisation=kind) for kind in ("frobenius", "schatten4", "aol")],
    ("nuclear", "squarings"): [Nuclear(squarings=squarings) for squarings in (1, 2, 4)],
    **{(name, "radius"): [lmos.get(name)(), lmos.get(name)(radius=3.0)] for name in OURS},
    ("ef14", "decay"): [EF14(), EF14(decay=0.5)],
    ("ef14", "drain"): [EF14(), EF14(drain=0.5)],
    ("match_adamw", "rms"): [scalings.get("match_adamw")(rms=rms) for rms in (0.1, 0.2)],
    ("semantic", "transposed"): [scalings.get("semantic")(transposed=flag) for flag in (False, True)],
    ("power", "alpha"): [scalings.get("power")(alpha=alpha) for alpha in (0.0, 0.5, 1.0)],
    ("trimmed_mean", "trim"): [TrimmedMean(trim=trim) for trim in (1, 2)],
    ("centered_clip", "radius"): [CenteredClip(radius=radius) for radius in (0.1, 1.0)],
    ("centered_clip", "unit"): [CenteredClip(), CenteredClip(unit="frobenius")],
    ("centered_clip", "iterations"): [CenteredClip(radius=0.1, iterations=count) for count in (1, 2, 3)],
    ("weighted_vote", "history"): [WeightedVote(history=history) for history in (0.0, 0.9)],
    ("weighted_vote", "ties"): [WeightedVote(), WeightedVote(ties="zero")],
    **{(name, "workers"): [stage_registry.get(name)(workers=who) for who in ((1,), (1, 4))] for name in ATTACKS},
    **{
        (f"attack_{name}", "scale"): [
            stage_registry.get(f"attack_{name}")(workers=(1,), scale=scale) for scale in (1.0, 2.0)
        ]
        for name in ("flip", "random", "omniscient")
    },
    ("attack_constant", "value"): [Constant(workers=(1,), value=value) for value in (1.0, -2.0)],
    ("attack_stale", "delay"): [Stale(workers=(1,), delay=delay) for delay in (1, 2)],
    ("attack_mimic", "of"): [Mimic(workers=(1, 4), of=of) for of in (0, 2)],
    ("attack_alie", "z"): [Alie(workers=(1, 4), z=z) for z in ("most", 0.7, 2.0)],
    ("attack_inner_product", "epsilon"): [InnerProduct(workers=(1, 4), epsilon=epsilon) for epsilon in (0.5, 3.0)],
    ("power", "beta"): [scalings.get("power")(beta=beta) for beta in (0.0, 0.5)],
}


@pytest.mark.parametrize("knob", KNOBS, ids=".".join)
def test_a_knob_changes_the_result(knob: tuple[str, str]) -> None:
    found = [through(rule) for rule in KNOBS[knob]]
    assert len(found) >= 2 and {rule.kind for rule in KNOBS[knob]} == {knob[0]}
    for (i, a), (j, b) in itertools.combinations(enumerate(found), 2):
        assert any(not torch.equal(one, two) for one, two in zip(a, b)), (str(KNOBS[knob][i]), str(KNOBS[knob][j]))


def test_the_dtype_of_the_parameter_is_a_dtype_of_its_own() -> None:
    x = sample(6, 8, dtype=torch.float64)
    narrow, own = (Spectral(dtype=dtype).direction(x) for dtype in ("float32", "parameter"))
    assert not torch.equal(narrow, own) and torch.allclose(narrow, own, atol=1e-4)
    assert torch.equal(Spectral(dtype="parameter").direction(x.float()), Spectral(dtype="float32").direction(x.float()))


def test_no_knob_is_missing() -> None:
    ours = [c for r in REGISTRIES for c in r._classes.values() if c.__module__.startswith("signa.")]
    fields = {(c.model_fields["kind"].default, name) for c in ours for name in c.model_fields if name != "kind"}
    assert fields == set(KNOBS)


def test_knobs_by_hand() -> None:
    """What the options mean, entry by entry."""
    x = torch.tensor([[[3.0, -1.0], [0.5, 0.1]]])
    assert torch.equal(through(Clip(most=1.0, norm="linf"), x)[0], torch.tensor([[[1.0, -1.0], [0.5, 0.1]]]))
    assert float(torch.linalg.vector_norm(Clip(most=1.0, norm="frobenius")(x, {}, context()))) == pytest.approx(1.0)
    assert float(Clip(most=0.5)(x, {}, context()).square().mean().sqrt()) == pytest.approx(0.5)
    assert torch.equal(Clip(most=9.0)(x, {}, context()), x)
    assert torch.equal(Linf(radius=3.0)(x, {}, context()), 3 * x.sign())
    m = Momentum(beta=0.5, nu=0.25)
    state = m.init(x)
    assert torch.allclose(m(x, state, context()), 0.75 * x + 0.25 * 0.5 * x)
    assert torch.allclose(m(-x, state, context()), -0.75 * x + 0.25 * (0.5 * 0.5 * x - 0.5 * x))
    heavy = Momentum(beta=0.5, heavy_ball=True)
    state = heavy.init(x)
    heavy(x, state, context())
    assert torch.allclose(heavy(x, state, context()), 1.5 * x)
    model = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    ctx = context(lr=0.5, scale=2.0, weight_decay=0.2)
    assert torch.allclose(Step()(x, {"x": model.clone()}, ctx), 0.9 * model - x)
    cautious = torch.tensor([[[0.9, 1.0], [-1.0, -1.0]]]) - x
    assert torch.allclose(Step(decay="cautious")(x, {"x": model.clone()}, ctx), cautious)


def test_neuron_normalisation_is_normuons() -> None:
    """NorMuon, arXiv 2510.05491, Algorithm 1, written out."""
    stage, beta, m, n = Normalise(per="neuron", beta=0.9), 0.9, 6, 8
    state, v = stage.init(torch.zeros(m, n, dtype=torch.float64)), torch.zeros(m, dtype=torch.float64)
    for t in range(5):
        g = sample(m, n, seed=t, dtype=torch.float64)
        v = beta * v + (1 - beta) * g.square().mean(1)
        hat = g / v.sqrt()[:, None]
        expected = hat * math.sqrt(m * n) / torch.linalg.matrix_norm(hat)
        assert torch.allclose(stage(g, state, context()), expected, rtol=1e-12)
