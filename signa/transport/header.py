"""The 32 bytes in front of every packed payload, by which every rank meets a fault in the same place."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CorruptMessage, LayoutMismatch
from .ranks import Ranks

WIRE_VERSION = 1
SIZE = 32
_FORM = struct.Struct("<4sHHIQiiI")
_MAGIC = b"SGNA"
CHECKED = 1


class Header(NamedTuple):
    """magic, wire version, flags, step, layout hash, culprit's worker and parameter, crc32 of what follows.

    All little-endian. A culprit is a gradient that is not finite: its worker takes no part; -1 if there is none.
    """

    step: int
    layout: int
    worker: int = -1
    parameter: int = -1

    def write(self, payload: Tensor) -> None:
        """Put it in front of a payload (bytes), whose first 32 are free. The checksum is of host memory alone."""
        checked = payload.device.type == "cpu"
        crc = _crc(payload) if checked else 0
        step = self.step & 0xFFFFFFFF
        data = _FORM.pack(_MAGIC, WIRE_VERSION, CHECKED * checked, step, self.layout, self.worker, self.parameter, crc)
        payload[:SIZE] = torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _crc(payload: Tensor) -> int:
    return zlib.crc32(memoryview(payload[SIZE:].numpy()))  # type: ignore[arg-type]


def read(payloads: Sequence[Tensor], ranks: Ranks, expected: Header, what: str) -> list[Header]:
    """The headers of everybody's payloads, each of which must be of this step and layout.

    Raises:
        LayoutMismatch, CorruptMessage: on every rank alike, since every rank sees every header.
    """
    found = []
    for rank, payload in enumerate(payloads):
        magic, version, flags, step, layout, worker, parameter, crc = _FORM.unpack(bytes(payload[:SIZE].cpu().numpy()))
        if magic != _MAGIC:
            raise ranks.meet(CorruptMessage, f"what rank {rank} sent in {what} is no message of SignA")
        facts = (
            ("wire version", WIRE_VERSION, version),
            ("step", expected.step & 0xFFFFFFFF, step),
            ("layout", f"{expected.layout:016x}", f"{layout:016x}"),
        )
        for name, own, other in facts:
            if own != other:
                text = f"rank {rank} is at {name} {other} and rank {ranks.rank} at {own} in {what}"
                raise ranks.meet(LayoutMismatch, f"{text}: every rank must take the same steps of the same optimizer")
        if flags & CHECKED and payload.device.type == "cpu" and _crc(payload) != crc:
            raise ranks.meet(CorruptMessage, f"the checksum of what rank {rank} sent in {what} is wrong")
        found.append(Header(step, layout, worker, parameter))
    return found


__all__ = ["SIZE", "WIRE_VERSION", "Header", "read"]
