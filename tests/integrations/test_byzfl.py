"""ByzFL's aggregators and attacks say the same as ours: a free oracle, where it is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from signa.aggregators import Aggregator, CenteredClip, MajorityVote, Mean, Median, TrimmedMean
from signa.coins import Coins
from signa.stage import Context
from signa.stages import Alie, Attack, InnerProduct, Mimic
from signa.testing import sample

if find_spec("byzfl"):  # whose training scripts want torchvision; its aggregators do not
    sys.modules.setdefault("byzfl.benchmark", ModuleType("byzfl.benchmark"))
byzfl = pytest.importorskip("byzfl")  # not pinned with the other libraries: pip install byzfl

WORKERS, LIARS = 9, (0, 1)


def ours(rule: Aggregator, messages: Tensor) -> np.ndarray:
    there = torch.ones(messages.shape[:2], dtype=torch.bool)
    return rule(messages, there, Context()).flatten().numpy()


def flat(messages: Tensor) -> np.ndarray:
    return messages.flatten(1).numpy()


def dense(seed: int) -> Tensor:
    return sample(WORKERS, 1, 9, 21, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_aggregators_of_dense_messages(seed: int) -> None:
    messages = dense(seed)
    messages[:2] *= 1e3
    for rule, theirs in [
        (Mean(), byzfl.Average()),
        (Median(), byzfl.Median()),
        *((TrimmedMean(trim=f), byzfl.TrMean(f=f)) for f in (1, 2, 4)),
    ]:
        np.testing.assert_allclose(ours(rule, messages), theirs(flat(messages)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("iterations", [1, 3])
def test_clipping_around_the_same_start(iterations: int) -> None:
    messages = dense(7)
    start = ours(Median(), messages)
    clipping = byzfl.CenteredClipping(L=iterations, tau=4.0)
    clipping.m = start  # 0.0.11 takes none as an argument
    theirs = clipping(flat(messages))
    mine = ours(CenteredClip(radius=4.0, unit="frobenius", iterations=iterations), messages)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_vote_is_the_sign_of_every_robust_centre_of_signs() -> None:
    """Of +-1 the median is the vote itself; the trimmed mean and the mean have its sign."""
    messages = dense(3).sign()
    vote = ours(MajorityVote(), messages)
    assert np.array_equal(vote, byzfl.Median()(flat(messages)))
    assert np.array_equal(vote, np.sign(byzfl.TrMean(f=4)(flat(messages))))
    assert np.array_equal(vote, np.sign(byzfl.Average()(flat(messages))))


def lie(rule: Attack, messages: Tensor) -> np.ndarray:
    rows = messages.flatten(0, 1)
    coins = Coins(0, 0, [1] * WORKERS, [0] * WORKERS, list(range(WORKERS)))
    found = rule(rows, rule.init(rows), Context(coin=coins)).view_as(messages)
    assert torch.equal(found[0], found[1]) and torch.equal(found[2:], messages[2:])
    return found[0].flatten().numpy()


def test_attacks() -> None:
    """Theirs of a little is enough takes z with the other sign, and the deviation of a sample, not of the workers."""
    messages = dense(5)
    honest, count = flat(messages)[len(LIARS) :], WORKERS - len(LIARS)
    z = 1.5
    sampled = z * float(np.sqrt((count - 1) / count))
    cases: list[tuple[Attack, Any]] = [
        (InnerProduct(workers=LIARS, epsilon=2.0), byzfl.InnerProductManipulation(tau=2.0)),
        (Alie(workers=LIARS, z=z), byzfl.ALittleIsEnough(tau=-sampled)),
        (Mimic(workers=LIARS, of=5), byzfl.Mimic(epsilon=5 - len(LIARS))),
    ]
    for rule, theirs in cases:
        np.testing.assert_allclose(lie(rule, messages), theirs(honest), rtol=1e-12, atol=1e-14)
