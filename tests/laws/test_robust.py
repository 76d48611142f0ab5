"""What robust aggregators promise: a vote's exact error rate, and bounds on what liars can do."""

from __future__ import annotations

from math import comb, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor

import signa
from signa.aggregators import Aggregator, CenteredClip, MajorityVote, Mean, Median, TrimmedMean, WeightedVote
from signa.errors import SpecError
from signa.packing import signs, words
from signa.stage import Context
from signa.testing import context, sample


def everyone(messages: Tensor) -> Tensor:
    return torch.ones(messages.shape[:2], dtype=torch.bool)


def aggregated(rule: Aggregator, messages: Tensor, active: Tensor | None = None) -> Tensor:
    return rule(messages, everyone(messages) if active is None else active, context(range(messages.shape[1])))


# The vote's error rate ------------------------------------------------------------------------------------------------


def wrong(workers: int, p: float) -> float:
    """How often a vote of workers that err by themselves, each with probability p, errs: a tie is a fair coin."""
    chance = [comb(workers, k) * p**k * (1 - p) ** (workers - k) for k in range(workers + 1)]
    return sum(c for k, c in enumerate(chance) if 2 * k > workers) + 0.5 * sum(
        c for k, c in enumerate(chance) if 2 * k == workers
    )


@pytest.mark.parametrize("p", [0.1, 0.3, 0.45])
@pytest.mark.parametrize("workers", [1, 2, 5, 8, 9, 32])
def test_a_vote_errs_as_often_as_the_binomial_says(workers: int, p: float) -> None:
    """Within 5 sigma, as floats and as words, coins included. The truth is +1 here and -1 there."""
    rows, entries = 4, 1 << 15
    generator = torch.Generator().manual_seed(1000 * workers + int(100 * p))
    truth = torch.where(torch.rand(rows, 1, entries, generator=generator) < 0.5, -1.0, 1.0)
    err = torch.rand(workers, rows, 1, entries, generator=generator) < p
    votes = torch.where(err, -truth, truth)
    ctx, expected = context(range(rows)), wrong(workers, p)
    sigma = sqrt(expected * (1 - expected) / truth.numel())
    voted = MajorityVote()(votes, everyone(votes), ctx)
    assert abs(float((voted != truth).double().mean()) - expected) <= 5 * sigma
    planes = words(votes.flatten(0, 1).squeeze(-2)).view(workers, rows, -1)
    sign, there = MajorityVote().of_words(planes, lambda: ctx.coin.words(rows, planes.shape[-1]))
    assert bool((there == -1).all())
    assert torch.equal(signs(sign, entries, truth.dtype).view_as(truth), voted)


def test_the_binomial_formula_is_one_that_is_known() -> None:
    """Condorcet: three of 0.3 err in 0.216; a second voter adds nothing to the first."""
    assert wrong(3, 0.3) == pytest.approx(0.216) and wrong(2, 0.3) == pytest.approx(0.3)


# What liars can do ----------------------------------------------------------------------------------------------------

LIES = {
    "huge": lambda x: torch.full_like(x, 1e30),
    "huge, both ways": lambda x: torch.where(torch.arange(len(x))[:, None, None, None] % 2 == 0, 1e30, -1e30).expand_as(
        x
    ),
    "infinite": lambda x: torch.full_like(x, -torch.inf),
    "no number": lambda x: torch.full_like(x, torch.nan),
    "reversed": lambda x: -10 * x,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("workers", "liars"), [(3, 1), (9, 1), (9, 4), (10, 4)])
def test_a_trimmed_mean_and_a_median_stay_among_the_honest(lie: str, workers: int, liars: int) -> None:
    messages = sample(workers, 2, 9, 21, seed=liars)
    messages[:liars] = LIES[lie](messages[:liars])
    honest = messages[liars:]
    for rule in (TrimmedMean(trim=liars), Median()):
        x = aggregated(rule, messages)
        assert bool((x >= honest.amin(0)).all() and (x <= honest.amax(0)).all()), rule
    if liars > 1:  # the knob is what protects
        x = aggregated(TrimmedMean(trim=liars - 1), messages)
        inside = (x >= honest.amin(0)) & (x <= honest.amax(0))
        assert lie != "huge" or not bool(inside.any())


def test_a_trimmed_mean_is_the_mean_of_what_is_left() -> None:
    messages = sample(9, 2, 5, 7, dtype=torch.float64)
    for trim in (1, 2, 3, 4):
        left = messages.sort(0).values[trim : 9 - trim].mean(0)
        torch.testing.assert_close(aggregated(TrimmedMean(trim=trim), messages), left, rtol=1e-14, atol=1e-15)
    assert torch.equal(aggregated(TrimmedMean(trim=4), messages), aggregated(Median(), messages))


def test_where_few_take_part_a_trimmed_mean_is_their_median() -> None:
    messages, active = sample(7, 2, 5, 7), torch.zeros(7, 2, dtype=torch.bool)
    active[:4, 0] = True
    active[3:6, 1] = True
    messages = torch.where(active[..., None, None], messages, 0)
    found = aggregated(TrimmedMean(trim=3), messages, active)
    assert torch.equal(found, aggregated(Median(), messages, active))


def test_more_workers_than_are_trimmed() -> None:
    spec = {"groups": [{"match": "*", "lr": 0.1, "worker": "momentum", "aggregate": {"trimmed_mean": {"trim": 2}}}]}
    model = torch.nn.Linear(3, 2)
    with pytest.raises(SpecError, match=r"drops 4 of 4 values(.|\n)*write trim: 1"):
        signa.build(spec, model, transport=signa.Loopback(4))
    with pytest.raises(SpecError, match="use 3 workers or more, or 'mean'"):
        signa.build(spec, model)
    signa.build(spec, model, transport=signa.Loopback(5))


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_clipped_centre_stays_near_the_median(lie: str, iterations: int) -> None:
    messages = sample(9, 2, 9, 21, seed=1)
    messages[:4] = LIES[lie](messages[:4])
    median = aggregated(Median(), messages)
    for radius in (0.5, 4.0):
        rule = CenteredClip(radius=radius, unit="frobenius", iterations=iterations)
        moved = torch.linalg.vector_norm((aggregated(rule, messages) - median).double(), dim=(-2, -1))
        assert bool((moved <= iterations * radius * (1 + 1e-6)).all())


def test_a_clipped_centre_is_the_formula() -> None:
    messages = sample(5, 1, 6, 4, dtype=torch.float64)
    v = messages.median(0).values
    for unit, fixed in (("frobenius", 4.0), ("median", None)):
        centre = v.clone()
        for _ in range(2):
            far = torch.linalg.vector_norm(messages - centre, dim=(-2, -1), keepdim=True)
            tau = fixed or 0.7 * far.median(0).values
            centre = centre + ((messages - centre) * (tau / far).clamp(max=1)).mean(0)
        rule = CenteredClip(radius=fixed or 0.7, unit=unit, iterations=2)  # type: ignore[arg-type]
        torch.testing.assert_close(aggregated(rule, messages), centre, rtol=1e-12, atol=1e-13)
        assert not torch.allclose(aggregated(CenteredClip(), messages), centre)


def test_a_wide_radius_is_the_mean_and_a_narrow_one_the_median() -> None:
    messages = sample(6, 2, 5, 7, dtype=torch.float64)
    wide = CenteredClip(radius=1e9, unit="frobenius", iterations=1)
    torch.testing.assert_close(aggregated(wide, messages), aggregated(Mean(), messages))
    narrow = CenteredClip(radius=1e-12, unit="frobenius", iterations=1)
    torch.testing.assert_close(aggregated(narrow, messages), aggregated(Median(), messages))


def test_one_unit_fits_every_size_of_signal() -> None:
    messages = sample(5, 2, 9, 21)
    found = aggregated(CenteredClip(radius=0.5), messages)
    assert torch.equal(aggregated(CenteredClip(radius=0.5), messages * 2.0**40), found * 2.0**40)


def test_where_nobody_sends_anything_finite_the_centre_says_so() -> None:
    """There is nothing to return, so nothing is made up."""
    messages = torch.full((3, 1, 2, 2), torch.nan)
    for rule in (CenteredClip(), TrimmedMean(), Median()):
        assert not bool(rule(messages, everyone(messages), Context()).isfinite().any()), rule


def test_what_is_not_finite_is_no_value() -> None:
    """Not a large one: that would push the others aside."""
    messages = sample(9, 2, 9, 21)
    messages[:2] = torch.nan
    for rule in (Median(), TrimmedMean(trim=2), TrimmedMean(trim=4)):
        assert torch.equal(aggregated(rule, messages), aggregated(rule, messages[2:])), rule


# A vote that remembers ------------------------------------------------------------------------------------------------


def elections(rule: WeightedVote, p: list[float], steps: int, *, seed: int = 0) -> tuple[Tensor, float]:
    """Everybody's record (N,) and the vote's error rate in the last step, where worker j errs with probability p[j]."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.where(torch.rand(1, 64, 64, generator=generator) < 0.5, -1.0, 1.0)
    memory = rule.init(len(p), truth)
    chance, errs = torch.tensor(p).view(-1, 1, 1, 1), 0.0
    for _ in range(steps):
        votes = torch.where(torch.rand(len(p), *truth.shape, generator=generator) < chance, -truth, truth)
        voted = rule(votes, everyone(votes), context(range(1), memory=memory))
        errs = float((voted != truth).double().mean())
    return memory["right"].flatten(), errs


def test_the_first_vote_is_a_plain_one() -> None:
    votes = sample(8, 3, 9, 21).sign()
    for ties in ("coin", "zero"):
        rule, plain = WeightedVote(ties=ties), MajorityVote(ties=ties)  # type: ignore[arg-type]
        fresh = context(range(3), memory=rule.init(8, votes[0]))
        assert torch.equal(rule(votes, everyone(votes), fresh), aggregated(plain, votes))
        assert torch.equal(aggregated(rule, votes), aggregated(plain, votes))


def test_a_record_tells_who_errs() -> None:
    """Those who flip come to weigh nothing, and the vote errs as one of the others alone: the exact binomial again."""
    right, errs = elections(WeightedVote(), [0.3] * 6 + [0.7, 0.7, 0.6], 40)
    assert bool((right[:6] > 0.6).all() and (right[6:] < 0.45).all())
    sigma = sqrt(wrong(6, 0.3) * (1 - wrong(6, 0.3)) / 4096)
    assert abs(errs - wrong(6, 0.3)) < 0.02 + 5 * sigma  # weights of the six differ a little
    assert errs < elections(WeightedVote(), [0.3] * 6 + [0.7, 0.7, 0.6], 1)[1] - 0.05  # than without a record


def test_how_long_a_record_lasts() -> None:
    votes = torch.ones(3, 1, 4, 4)
    votes[2] = -1
    for history in (0.0, 0.5, 0.9):
        rule = WeightedVote(history=history)
        memory = rule.init(3, votes[0])
        for t in range(1, 4):
            rule(votes, everyone(votes), context(range(1), memory=memory))
            # the others of 0 are 1 and 2, who disagree until 2 weighs nothing
            assert float(memory["right"][0, 2]) == pytest.approx(0.5 * history**t)


def test_nobody_rules_by_agreeing_with_a_friend() -> None:
    """Two who always say +1 agree more often than honest workers who are hardly better than coins."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.where(torch.rand(1, 64, 64, generator=generator) < 0.5, -1.0, 1.0)
    rule = WeightedVote()
    memory = rule.init(9, truth)
    for _ in range(60):
        votes = torch.where(torch.rand(9, *truth.shape, generator=generator) < 0.42, -truth, truth)
        votes[:2] = 1
        voted = rule(votes, everyone(votes), context(range(1), memory=memory))
    plain = aggregated(MajorityVote(), votes)
    error, least = (float((x != truth).double().mean()) for x in (voted, plain))
    assert error < least + 0.03 and error < 0.45


def test_who_is_away_keeps_his_record() -> None:
    rule, votes = WeightedVote(), sample(5, 2, 9, 21).sign()
    memory, active = rule.init(5, votes[0]), everyone(votes)
    votes[3, 1], active[3, 1] = 0, False
    rule(votes, active, context(range(2), memory=memory))
    right = memory["right"].flatten(1)
    assert float(right[1, 3]) == 0.5 and bool((right[0] != 0.5).all()) and int((right[1] == 0.5).sum()) == 1


def test_a_weighted_tie_is_a_tie() -> None:
    """Weights are whole numbers: two of the same record against two of the same record."""
    votes = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    rule = WeightedVote(ties="zero")
    memory = {"right": torch.full((1, 4, 1, 1), 0.7, dtype=torch.float64)}
    assert not bool(rule(votes, everyone(votes), context(range(1), memory=memory)).any())


def test_a_memory_is_saved_and_starts_anew_for_other_workers(tmp_path: Path) -> None:
    def made(workers: int) -> tuple[torch.nn.Module, signa.SignA]:
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 4)
        spec = {"groups": [{"match": "*", "lr": 0.1, "worker": "momentum", "up": "sign", "aggregate": "weighted_vote"}]}
        return model, signa.build(spec, model, transport=signa.Loopback(workers))

    def steps(model: torch.nn.Module, opt: signa.SignA, at: range) -> None:
        for t in at:
            for j in opt.transport.local:
                with opt.worker(j):
                    for i, p in enumerate(model.parameters()):
                        p.grad = sample(*p.shape, seed=100 * t + 10 * j + i)
            opt.step()
            opt.zero_grad()

    model, opt = made(3)
    steps(model, opt, range(4))
    signa.save_checkpoint(tmp_path, model, opt)
    steps(model, opt, range(4, 8))
    again, copy = made(3)
    signa.load_checkpoint(tmp_path, again, copy)
    records = copy.state[again.weight]["server.aggregate.right"]
    assert records.shape == (1, 3, 1, 1) and bool((records != 0.5).all())
    steps(again, copy, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for policy in ("mean", "reset", "remap"):
        other, grown = made(5)
        signa.load_checkpoint(tmp_path, other, grown, on_world_change=policy)  # type: ignore[arg-type]
        records = grown.state[other.weight]["server.aggregate.right"]
        assert records.shape == (1, 5, 1, 1) and bool((records == 0.5).all())
        steps(other, grown, range(2))
