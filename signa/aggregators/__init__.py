"""Registry of aggregators: majority_vote, mean, median."""

from .base import Aggregator, aggregators, in_order
from .rules import MajorityVote, Mean, Median

register, unregister, names, get = aggregators.register, aggregators.unregister, aggregators.names, aggregators.get

__all__ = [
    "Aggregator",
    "MajorityVote",
    "Mean",
    "Median",
    "aggregators",
    "get",
    "in_order",
    "names",
    "register",
    "unregister",
]
