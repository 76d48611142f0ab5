"""Workers that lie: what they send, that nobody else changes, and where they are refused."""

from __future__ import annotations

from math import inf
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

import signa
from signa.coins import Coins
from signa.errors import Advice, SpecError
from signa.stage import Context, Stage
from signa.stages import Alie, Attack, Collusion, Constant, Flip, InnerProduct, Mimic, Nan, Omniscient, Random, Stale
from signa.stages.collude import most
from signa.testing import sample
from tests.ranks.cases import SMALL, fingerprint, loopback, parameters, plain, step
from tests.ranks.worlds import world

LIARS = (1, 4)
ALL: list[Attack] = [
    kind(workers=LIARS) for kind in (Flip, Random, Constant, Stale, Nan, Omniscient, Mimic, Alie, InnerProduct)
]
N, B = 6, 2


def rows(t: int = 0) -> Tensor:
    """(N B, m, n), worker by worker, as an optimizer stacks them."""
    return sample(N * B, 5, 7, seed=t, dtype=torch.float64)


def ctx(t: int = 0) -> Context:
    actors = [j for j in range(N) for _ in range(B)]
    return Context(coin=Coins(3, t, [11, 12] * N, [0] * (N * B), actors))


def lied(rule: Stage, x: Tensor | None = None) -> Tensor:
    """What is sent, (N, B, m, n)."""
    x = rows() if x is None else x
    return rule(x, rule.init(x), ctx()).view(N, B, *x.shape[1:])


HONEST = [j for j in range(N) if j not in LIARS]


@pytest.mark.parametrize("rule", ALL, ids=str)
def test_only_liars_lie(rule: Attack) -> None:
    x = rows()
    kept = x.clone()
    sent = lied(rule, x)
    assert torch.equal(x, kept)
    assert torch.equal(sent[HONEST], x.view_as(sent)[HONEST])
    silent = type(rule)()
    assert silent(x, silent.init(x), ctx()) is x, "without names nobody lies"
    if not isinstance(rule, Stale):  # whose first message is honest
        assert not bool((sent[list(LIARS)] == x.view_as(sent)[list(LIARS)]).all())


def test_every_attack_is_tried_here() -> None:
    names = {name for name in signa.stages.names() if issubclass(signa.stages.get(name), Attack)}
    assert names == {rule.kind for rule in ALL} and all(name.startswith("attack_") for name in names)


def test_what_lone_liars_send() -> None:
    x = rows().view(N, B, 5, 7)
    own, rms = x[list(LIARS)], x[list(LIARS)].square().mean((-2, -1), keepdim=True).sqrt()
    for rule, expected in (
        (Flip(workers=LIARS), -own),
        (Flip(workers=LIARS, scale=10.0), -10 * own),
        (Constant(workers=LIARS), rms.expand_as(own)),
        (Constant(workers=LIARS, value=-3.0), -3 * rms.expand_as(own)),
    ):
        torch.testing.assert_close(lied(rule)[list(LIARS)], expected)
    noise = lied(Random(workers=LIARS, scale=2.0))[list(LIARS)]
    torch.testing.assert_close(noise.abs(), 2 * rms.expand_as(own))
    assert 0.3 < float((noise > 0).double().mean()) < 0.7
    assert not torch.equal(noise[0].sign(), noise[1].sign()), "everybody has coins of his own"
    assert bool(lied(Nan(workers=LIARS))[list(LIARS)].isnan().all())


def test_what_colluders_send() -> None:
    x = rows().view(N, B, 5, 7)
    honest, rms = x[HONEST], x[list(LIARS)].square().mean((-2, -1), keepdim=True).sqrt()
    vote = honest.sign().sum(0).sign()
    z = NormalDist().inv_cdf((N - 2 - (N // 2 + 1 - 2)) / (N - 2))
    for rule, expected in (
        (Omniscient(workers=LIARS), -vote * rms),
        (Omniscient(workers=LIARS, scale=4.0), -vote * 4 * rms),
        (Mimic(workers=LIARS), honest[:1]),
        (Mimic(workers=LIARS, of=3), x[3:4]),
        (Mimic(workers=LIARS, of=4), honest[:1]),
        (Alie(workers=LIARS), (honest.mean(0) - z * honest.std(0, correction=0))[None]),
        (Alie(workers=LIARS, z=1.5), (honest.mean(0) - 1.5 * honest.std(0, correction=0))[None]),
        (InnerProduct(workers=LIARS), -0.5 * honest.mean(0)[None]),
        (InnerProduct(workers=LIARS, epsilon=3.0), -3 * honest.mean(0)[None]),
    ):
        torch.testing.assert_close(lied(rule)[list(LIARS)], expected.expand(2, B, 5, 7))


def test_alies_deviations() -> None:
    """50 workers, 24 of them liars: they need two honest ones for 26, and 24 of 26 may be nearer to the mean."""
    assert most(50, 24) == NormalDist().inv_cdf(24 / 26)
    assert most(9, 1) == 0 and all(0 < most(9, f) < inf for f in range(2, 9))


def test_nothing_turns_a_vote_more_often_than_omniscience() -> None:
    """Of all that two liars can vote in an entry, its answer turns it whenever any does."""
    x = rows().sign()
    base = x.view(N, B, 5, 7)[HONEST].sum(0)
    sent = lied(Omniscient(workers=LIARS), x)
    turned = (base + sent[list(LIARS)].sign().sum(0)) * base <= 0
    assert torch.equal(turned, base.abs() <= 2)


@pytest.mark.parametrize("delay", [1, 3])
def test_a_stale_worker_is_late(delay: int) -> None:
    rule = Stale(workers=LIARS, delay=delay)
    state, sent = rule.init(rows()), []
    for t in range(7):
        if t == 4:  # worker 1's first matrix has no gradient: the step does not count for it
            away = rows(4)
            part = {name: value[:2].clone() for name, value in state.items()}
            rule(away[:2], part, Context(coin=Coins(3, t, [11, 12], [0, 0], [0, 0])))
        sent.append(rule(rows(t), state, ctx(t)).clone())
    for t in range(7):
        late, now = rows(max(0, t - delay)).view(N, B, 5, 7), rows(t).view(N, B, 5, 7)
        assert torch.equal(sent[t].view_as(now)[list(LIARS)], late[list(LIARS)])
        assert torch.equal(sent[t].view_as(now)[HONEST], now[HONEST])


# In an optimizer ------------------------------------------------------------------------------------------------------


def with_attack(rule: Attack | None, aggregate: Any = "majority_vote", up: str = "sign") -> dict[str, Any]:
    worker = ["momentum", *([rule] if rule else [])]
    return {"groups": [{"match": "*", "lr": 0.02, "worker": worker, "up": up, "aggregate": aggregate}]}


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
@pytest.mark.parametrize("rule", ALL, ids=str)
def test_no_piece_in_which_it_is_computed_matters(rule: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither how many rows are computed with at once, nor what else is in the stack."""
    options: dict[str, Any] = {"steps": 3, "shapes": SMALL, "grad": plain}
    source = with_attack(rule, "mean", "identity")
    whole = loopback(source, 6, **options)
    monkeypatch.setattr("signa.stack.WORKING", 64)
    monkeypatch.setattr("signa.engine.MOST", 64)
    assert loopback(source, 6, **options).digests == whole.digests
    assert whole.digests != loopback(with_attack(None, "mean", "identity"), 6, **options).digests


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
def test_a_worker_that_is_away_tells_no_lie() -> None:
    """And where nobody honest is there, liars know nothing to say."""

    def only(*there: int) -> Any:
        return lambda name, p, t, j: plain(name, p, t, j) if j in there else None

    for rule in ALL:
        if isinstance(rule, Collusion):
            source = with_attack(rule, "mean", "identity")
            alone = loopback(source, 6, steps=2, shapes=SMALL, grad=only(1, 4))
            honest = loopback(with_attack(None, "mean", "identity"), 6, steps=2, shapes=SMALL, grad=only(1, 4))
            assert alone.digests == honest.digests
            loopback(source, 6, steps=2, shapes=SMALL, grad=only(0, 1))


def test_liars_are_named_when_the_optimizer_is_built() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.warns(Advice, match=r"'attack_flip' makes worker 1, 4 lie"):
        signa.build(with_attack(Flip(workers=LIARS)), model, transport=signa.Loopback(5))
    with pytest.raises(SpecError, match=r"worker\.attack_flip: 'attack_flip' names worker 4(.|\n)*from 0 to 2"):
        signa.build(with_attack(Flip(workers=LIARS)), model, transport=signa.Loopback(3))
    with pytest.raises(SpecError, match="cannot stand in 'server'"):
        signa.Method(worker="momentum", server=[Flip()])


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
def test_colluders_are_refused_on_ranks() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> str:
        ps = parameters(shapes=SMALL)
        group = signa.Group(**arguments)
        with pytest.raises(SpecError, match=r"what all 2 workers send, and 1 of them are here(.|\n)*Loopback\(2\)"):
            signa.build(with_attack(Alie(workers=(0,))), list(ps.items()), transport=group)
        opt = signa.build(with_attack(Flip(workers=(0,))), list(ps.items()), transport=group)
        step(opt, ps, 0, plain)
        return fingerprint(ps)

    lying = loopback(with_attack(Flip(workers=(0,))), 2, steps=1, shapes=SMALL, grad=plain)
    assert world(2, rank) == [lying.digests[0]] * 2


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
@pytest.mark.parametrize("aggregate", ["median", {"trimmed_mean": {"trim": 2}}, "centered_clip"])
def test_two_broken_workers_of_six_do_not_break_a_robust_aggregator(aggregate: Any) -> None:
    options: dict[str, Any] = {"steps": 3, "shapes": SMALL, "grad": plain}
    found = loopback(with_attack(Nan(workers=LIARS), aggregate, "identity"), 6, **options)
    assert all(bool(value.isfinite().all()) for value in found.values.values())
    broken = loopback(with_attack(Nan(workers=LIARS), "mean", "identity"), 6, **options)
    assert all(bool(value.isnan().all()) for value in broken.values.values())
