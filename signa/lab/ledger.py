"""What a run sends, counted three ways that are three different numbers.

- ``bits_up``, ``bits_down``, ``round_trip``: logical bits per parameter and worker over the whole model, worked out
  from the spec: what a message says, whoever carries it. The same in a simulation.
- ``payload_sent``, ``payload_received``: bytes a step that this rank handed to the exchanges for other ranks and took
  from them, headers, scales and padding included, what the step itself sends and nothing else (no evaluation, no
  logging). 0 in one process. ``payload_bits_up`` and ``_down`` are the same per parameter and worker of this rank, so
  they depend on the exchange and on how many ranks there are.
- ``interface_sent``, ``interface_received``: bytes a step that this machine's network interfaces counted over the
  whole run, loopback included: with the packets' headers and whatever else the machine sent meanwhile, so totals of
  the host and not of this process. None where the system does not tell (it is read from Linux' /proc/net/dev).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Ledger", "interface_bytes"]

COUNTERS = Path("/proc/net/dev")
Pair = tuple[int, int]  # bytes sent, bytes received


def interface_bytes(counters: Path | None = None) -> Pair | None:
    """(sent, received) of this machine's interfaces since it started, or None where it does not tell.

    Where ``GLOO_SOCKET_IFNAME`` names the interfaces of the run, of these and the loopback alone.
    """
    chosen = {name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name}
    sent = received = 0
    try:
        for line in (counters or COUNTERS).read_text(encoding="ascii").splitlines()[2:]:  # below two lines of titles
            name, _, numbers = line.partition(":")
            if not chosen or name.strip() in chosen | {"lo"}:
                fields = numbers.split()
                sent, received = sent + int(fields[8]), received + int(fields[0])
    except (OSError, ValueError, IndexError):
        return None
    return sent, received


class Ledger:
    """Counts a run: ``with ledger.step():`` around each optimizer step, ``line()`` for those since the last line.

    Args:
        traffic: the payload bytes sent and received until now, for ever growing.
        entries: how many parameters and workers of this rank share them, parameters times workers.
    """

    def __init__(self, traffic: Callable[[], Pair], entries: int) -> None:
        self._traffic, self._entries = traffic, entries
        self._line, self._run = Count(), Count()
        self._seen = interface_bytes()

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is sent inside belongs to one step."""
        before = self._traffic()
        yield
        sent, received = self._traffic()
        self._line.add(1, (sent - before[0], received - before[1]))

    def line(self) -> dict[str, float | None]:
        """The means over the steps since the last line; they join the run's."""
        self.close()
        told = self._line.means(self._entries)
        self._run.add(**vars(self._line))
        self._line = Count()
        return told

    def means(self) -> dict[str, float | None]:
        """The means over the whole run."""
        self.close()
        whole = Count()
        for part in (self._run, self._line):
            whole.add(**vars(part))
        return whole.means(self._entries)

    def close(self) -> None:
        """Read the interfaces."""
        now = interface_bytes()
        if now is None or self._seen is None:
            self._line.interface = None
        else:
            self._line.add(interface=(now[0] - self._seen[0], now[1] - self._seen[1]))
        self._seen = now

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        self.close()
        return {"line": vars(self._line).copy(), "run": vars(self._run).copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._line, self._run = (Count(**state[name]) for name in ("line", "run"))
        self._seen = interface_bytes()


class Count:
    """Steps, and the bytes of them; ``interface`` is None where the system once did not tell."""

    def __init__(
        self, steps: int = 0, payload: Sequence[int] = (0, 0), interface: Sequence[int] | None = (0, 0)
    ) -> None:
        self.steps, self.payload, self.interface = steps, payload, interface

    def add(self, steps: int = 0, payload: Sequence[int] = (0, 0), interface: Sequence[int] | None = (0, 0)) -> None:
        """So many steps and bytes more."""
        self.steps += steps
        self.payload = _sum(self.payload, payload)
        self.interface = None if self.interface is None or interface is None else _sum(self.interface, interface)

    def means(self, entries: int) -> dict[str, float | None]:
        """By step; and the payload in bits by step and entry."""
        steps = max(self.steps, 1)
        up, down = (part / steps for part in self.payload)
        seen = (None, None) if self.interface is None else tuple(part / steps for part in self.interface)
        return {
            "payload_sent": up,
            "payload_received": down,
            "payload_bits_up": 8 * up / entries,
            "payload_bits_down": 8 * down / entries,
            "interface_sent": seen[0],
            "interface_received": seen[1],
        }


def _sum(a: Sequence[int], b: Sequence[int]) -> Pair:
    return a[0] + b[0], a[1] + b[1]
