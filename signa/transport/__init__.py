"""How messages reach the aggregator. The only place that knows torch.distributed."""

from .base import Transport
from .loopback import Loopback, default_transport

__all__ = ["Loopback", "Transport", "default_transport"]
