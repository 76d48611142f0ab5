"""The alpha-beta model: what a collective and a pipeline of them take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..lab.refusal import refusal

__all__ = ["ETHERNET", "Link", "Load", "Turn", "a_round", "all_reduce", "pipelined"]

#: What of a link's rate is payload: of 1538 bytes that a full frame takes on Ethernet (MTU 1500, preamble, checksum and
#: gap included), 1448 are left behind the headers of IP and of TCP with timestamps (IEEE 802.3, RFC 793, RFC 7323).
ETHERNET = 1448 / 1538


@dataclass(frozen=True)
class Link:
    """What joins the hosts: bits per second of each host's port, each way at once; seconds before a first byte.

    ``framing`` is the payload's share of these bits; ``backend`` names the constants by which ``Group`` itself chooses
    its exchanges; the limits that were measured of gloo hold for gloo (NCCL's are not known, and taken as none).
    """

    rate: float
    latency: float = 30e-6
    framing: float = ETHERNET
    backend: Literal["gloo", "nccl"] = "gloo"

    def __post_init__(self) -> None:
        """Refuse what is no link."""
        for name, value, top in (
            ("rate", self.rate, 1e18),
            ("latency", self.latency, 3600),
            ("framing", self.framing, 1),
        ):
            if not 0 <= value <= top or (value == 0 and name != "latency"):
                raise refusal(f"a link of {name} {value!r}", because=f"it must be above 0 and at the most {top:g}")

    @property
    def goodput(self) -> float:
        """Bytes of payload per second."""
        return self.rate * self.framing / 8


def a_round(nbytes: float, ranks: int, alpha: float, goodput: float) -> float:
    """``T = (N - 1) alpha + nbytes beta``: an all-to-all or all-gather in which a rank sends ``nbytes`` to the others.

    For a message of m bytes from each rank, ``nbytes = (N - 1) / N m`` of an all-to-all that splits it, and of an
    all-gather of parts m / N.

    >>> a_round(3e6, 4, 1e-3, 1e8)
    0.033
    """
    return (ranks - 1) * alpha + nbytes / goodput


def all_reduce(nbytes: float, ranks: int, alpha: float, goodput: float) -> float:
    """``T_ring(m) = 2 (N - 1) alpha + 2 (N - 1) / N m beta``, the sum of ``m = nbytes`` over a ring.

    >>> all_reduce(4e6, 4, 1e-3, 1e8)
    0.066
    """
    return 2 * (ranks - 1) * alpha + 2 * (ranks - 1) / ranks * nbytes / goodput


class Load(NamedTuple):
    """Work of one kind of turn: seconds of this process before the link is needed, of the link, and behind it."""

    before: float
    link: float
    behind: float


class Turn(NamedTuple):
    """Some alike buckets: how many, the seconds of each, and its entries."""

    number: int
    load: Load
    entries: float = 0


def pipelined(turns: Iterable[Turn]) -> float:
    """When the last bucket's link is done, where bucket after bucket is prepared while earlier ones are on the link.

    ``end_i = max(end_(i-1), ready_i) + link_i`` with ``ready_i = before_1 + ... + before_i``. One bucket hides nothing.

    >>> pipelined([Turn(1, Load(2.0, 3.0, 0.0))]), pipelined([Turn(4, Load(0.5, 0.75, 0.0))])
    (5.0, 3.5)
    """
    ready = end = 0.0
    for number, (before, link, _), _ in turns:
        # Both are linear in the place of a bucket, so the one that decides is the first or the last of its kind.
        end = max(end + number * link, ready + before + number * link, ready + number * before + link)
        ready += number * before
    return end
