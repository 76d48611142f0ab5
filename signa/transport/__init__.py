"""How messages reach the aggregator. The only place that knows torch.distributed."""

from .agreement import silence
from .base import ABSENT, SILENT, VOICE, WORKING, Aggregate, Bucket, Clock, Lane, Message, Transport, Verdict
from .group import Group
from .homes import Homes
from .loopback import Loopback, default_transport
from .replicate import replicate

__all__ = [
    "ABSENT",
    "SILENT",
    "VOICE",
    "WORKING",
    "Aggregate",
    "Bucket",
    "Clock",
    "Group",
    "Homes",
    "Lane",
    "Loopback",
    "Message",
    "Transport",
    "Verdict",
    "default_transport",
    "replicate",
    "silence",
]
