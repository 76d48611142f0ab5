"""Small faults that no other test noticed (`python3 run.py mutants`), and what they would have broken."""

from __future__ import annotations

import pytest
import torch

from signa.aggregators import Aggregator, CenteredClip, MajorityVote, Mean, Median, TrimmedMean, WeightedMean
from signa.channel import Channel
from signa.compressors import ScaledSign
from signa.errors import Fault
from signa.feedback import EF14, EF21, Feedback, NoFeedback
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
