"""How messages reach the aggregator. The only place that knows torch.distributed."""

from .base import ABSENT, SILENT, VOICE, Aggregate, Bucket, Clock, Lane, Message, Transport, Verdict
from .group import Group, replicate
from .loopback import Loopback, default_transport

__all__ = [
    "ABSENT",
    "SILENT",
    "VOICE",
    "Aggregate",
    "Bucket",
    "Clock",
    "Group",
    "Lane",
    "Loopback",
    "Message",
    "Transport",
    "Verdict",
    "default_transport",
    "replicate",
]
