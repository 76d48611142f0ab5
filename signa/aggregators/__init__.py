"""Registry of aggregators: centered_clip, majority_vote, mean, median, trimmed_mean, weighted_mean."""

from .base import Aggregator, aggregators, in_order
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
    "aggregators",
    "get",
    "in_order",
    "names",
    "register",
    "unregister",
]
