"""Registry of aggregators: majority_vote, mean, median, weighted_mean."""

from .base import Aggregator, aggregators, in_order
from .rules import MajorityVote, Mean, Median, WeightedMean

register, unregister, names, get = aggregators.register, aggregators.unregister, aggregators.names, aggregators.get

__all__ = [
    "Aggregator",
    "MajorityVote",
    "Mean",
    "Median",
    "WeightedMean",
    "aggregators",
    "get",
    "in_order",
    "names",
    "register",
    "unregister",
]
