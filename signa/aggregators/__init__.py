"""Registry of aggregators: centered_clip, majority_vote, mean, median, trimmed_mean, weighted_mean, weighted_vote."""

from .base import Aggregator, aggregators, in_order
from .history import WeightedVote
from .robust import CenteredClip, TrimmedMean
from .rules import MajorityVote, Mean, Median, WeightedMean

register, unregister, names, get = aggregators.register, aggregators.unregister, aggregators.names, aggregators.get

__all__ = [
    "Aggregator",
    "CenteredClip",
    "MajorityVote",
    "Mean",
    "Median",
    "TrimmedMean",
    "WeightedMean",
    "WeightedVote",
    "aggregators",
    "get",
    "in_order",
    "names",
    "register",
    "unregister",
]
