"""Small faults that no other test noticed (`python3 run.py mutants`), and what they would have broken."""

from __future__ import annotations

import pytest
import torch

from signa.aggregators import (
    Aggregator,
    CenteredClip,
    MajorityVote,
    Mean,
    Median,
    TrimmedMean,
    WeightedMean,
    WeightedVote,
    aggregators,
)
from signa.channel import Channel
from signa.compressors import ScaledSign, compressors
from signa.errors import Fault
from signa.feedback import EF14, EF21, Feedback, NoFeedback, feedbacks
from signa.lmo import lmos
from signa.lmo.newton_schulz import exact_polar
from signa.lmo.schedules import SCHEDULES
from signa.signal import SQRT_MN, Signal
from signa.testing import context, sample


@pytest.mark.parametrize(
    "rule", [Mean(), WeightedMean(), Median(), TrimmedMean(), MajorityVote(), CenteredClip()], ids=str
)
def test_a_rule_says_that_it_is_entry_by_entry_where_it_is(rule: Aggregator) -> None:
    """If it forgets, matrices are no longer cut: the wire works on, and its scratch and its bytes grow."""
    messages = sample(7, 1, 6, 5).sign() * (1 if isinstance(rule, MajorityVote) else sample(7, 1, 6, 5, seed=1).abs())
    active = torch.ones(7, 1, dtype=torch.bool)
    whole = rule(messages, active, context())
    alone = [rule(messages[..., i : i + 1, :], active, context()) for i in range(6)]
    assert rule.coordinatewise == torch.equal(torch.cat(alone, -2), whole)


def test_a_memory_lies_row_by_row_whatever_the_message_does() -> None:
    assert EF14().sender(torch.ones(3, 4).mT)["e"].is_contiguous()


def test_an_estimate_of_signs_is_no_signs() -> None:
    """EF21's receiver delivers H, dense whatever is estimated; told as signs, it would be packed as signs."""
    sent = Signal("direction", "sign", SQRT_MN)
    assert EF21().signal(sent, Signal()) == Signal("direction", "dense", SQRT_MN)


@pytest.mark.parametrize("feedback", [NoFeedback(), EF14(), EF21()], ids=str)
def test_only_ef21_carries_a_model_through_a_lossy_channel(feedback: Feedback) -> None:
    """Behind a server's step any other one would deliver the compressed model as the model."""
    channel, model = Channel(compressor=ScaledSign(), feedback=feedback), Signal("model", "dense")
    if isinstance(feedback, EF21):
        assert channel.message(model).alphabet == "scaled_sign"
    else:
        with pytest.raises(Fault, match="cannot carry a model"):
            channel.message(model)


def test_ef14_sends_the_signal_and_a_share_of_what_was_held_back() -> None:
    """``p = decay e + u;  y = C(p);  e <- p - drain y``, with numbers that no other formula gives."""
    rule, state = EF14(decay=0.5, drain=0.25), {"e": torch.tensor([[8.0, -4.0]])}
    sent = rule.encode(torch.tensor([[1.0, 2.0]]), lambda p, _: 2 * p, state, context())
    assert sent.tolist() == [[10.0, 0.0]] and state["e"].tolist() == [[2.5, 0.0]]


def test_nobody_weighs_more_than_the_middle_of_the_records_in_whatever_order_they_come() -> None:
    votes = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1)
    records = torch.tensor([0.6, 0.99, 0.7], dtype=torch.float64).view(1, 3, 1, 1)  # weights 0.4, 4.6 and 0.85
    elected = WeightedVote()(votes, torch.ones(3, 1, dtype=torch.bool), context(memory={"right": records}))
    assert elected.item() == 1


def test_defaults_are_what_the_pages_say() -> None:
    """A run is a function of its spec, and most specs leave the numbers out."""
    defaults = {
        "column": {"radius": 1.0},
        "frobenius": {"radius": 1.0},
        "l1": {"radius": 1.0},
        "linf": {"radius": 1.0},
        "nuclear": {"radius": 1.0, "squarings": 12},
        "row": {"radius": 1.0},
        "random_k": {"fraction": 0.01, "unbiased": False},
        "rank": {"rank": 4, "iterations": 2},
        "scaled_sign": {"per": "matrix", "block": 256},
        "sign": {"zeros": "coin"},
        "stochastic_sign": {"norm": "linf"},
        "top_k": {"fraction": 0.01},
        "centered_clip": {"radius": 1.0, "unit": "median", "iterations": 3},
        "majority_vote": {"ties": "coin"},
        "trimmed_mean": {"trim": 1},
        "weighted_mean": {"weights": ()},
        "weighted_vote": {"history": 0.9, "ties": "coin"},
        "ef14": {"decay": 1.0, "drain": 1.0},
    }
    registries = (lmos, compressors, aggregators, feedbacks)
    found = {name: registry.get(name)().model_dump() for registry in registries for name in registry.names()}
    for name, wanted in defaults.items():
        assert found[name] == {"kind": name, **wanted}


@pytest.mark.parametrize(
    ("name", "least", "most", "mean"),
    [
        ("polar6", 0.9983, 1.0012, 0.9998),
        ("polar5", 0.8589, 1.1411, 1.0083),
        ("jordan5", 0.6818, 1.1344, 0.9112),
        ("quintic5", 0.9778, 1.0318, 0.9990),
        ("cubic5", 0.7741, 1.3000, 1.0365),
        ("turbo4", 0.9874, 1.0117, 0.9993),
    ],
)
def test_a_named_schedule_is_as_good_as_it_was(name: str, least: float, most: float, mean: float) -> None:
    """Singular values from 0.05 to 1 behind its polynomials: one wrong coefficient, and others come out."""
    x = torch.linspace(0.05, 1, 2000, dtype=torch.float64)
    for a, b, c in SCHEDULES[name].coefficients:
        x = a * x + b * x**3 + c * x**5
    assert [round(float(value), 4) for value in (x.min(), x.max(), x.mean())] == [least, most, mean]


@pytest.mark.parametrize("tall", [True, False])
def test_what_rounding_left_is_no_direction_however_long_the_matrix(tall: bool) -> None:
    """The threshold goes by the longer side, in which the rounding of a sum grows."""
    x = torch.zeros(64, 2)
    x[0, 0], x[1, 1] = 1.0, 10 * torch.finfo(torch.float32).eps
    wanted = torch.zeros(64, 2)
    wanted[0, 0] = 1.0
    torch.testing.assert_close(exact_polar(x if tall else x.mT), wanted if tall else wanted.mT)
