"""Collectives that end: with the result, or with one and the same typed error on every process."""

from __future__ import annotations

import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C import _distributed_c10d as c10d

from ..errors import (
    AveragedGradients,
    CollectiveTimeout,
    CorruptMessage,
    LayoutMismatch,
    PeerLost,
    Poisoned,
    ReplicaDrift,
    WireError,
)
from .line import Line

FAULTS: dict[str, type[WireError]] = {
    cls.__name__: cls
    for cls in (PeerLost, CollectiveTimeout, LayoutMismatch, ReplicaDrift, CorruptMessage, AveragedGradients, WireError)
}
_HOST = ("gloo", "mpi")
_LOOK = 0.25  # seconds between two looks at what other processes report, while waiting
_ANSWER = 1.0  # seconds that the store may take
_ROLL_CALL = 1.0  # seconds that survivors give each other to answer


class Ranks:
    """One process group. Its own rank() and size() count, never the default group's.

    While a collective is under way, the group's store is looked at: whoever meets a fault first writes it there, and
    everybody raises that. After a fault nothing is sent any more.
    """

    def __init__(
        self, group: Any, store: Any, timeout: float, line: Line | None = None, *, label: str = "group"
    ) -> None:
        self.group, self.store, self.timeout, self.line, self.label = group, store, timeout, line, label
        self.rank: int = group.rank()
        self.size: int = group.size()
        self.fault: WireError | None = None
        self._linked: Ranks | None = None
        self._asking: threading.Thread | None = None
        # Longer than our own, so that nobody's backend closes connections, as if he had died, before he has reported.
        self._patience = timedelta(seconds=timeout + 1)
        # Several Ranks may share a group, one after the other or at once: each has its own place in the store.
        self._place = f"signa/{store.add(f'signa/made/{self.rank}', 1)}"
        self.step = 0
        self.sent = self.received = 0

    def link(self, other: Ranks) -> None:
        """This process is in another group as well: whatever goes wrong in one is told in the other."""
        self._linked, other._linked = other, self

    def home(self, device: torch.device) -> torch.device:
        """Where payloads lie for this group: on the device itself, or in host memory where gloo carries them."""
        name = self._backend(device)
        if name in _HOST:
            return torch.device("cpu")
        return device if name else self.control

    @cached_property
    def control(self) -> torch.device:
        """Where the numbers lie that ranks tell each other beside the payloads: in host memory, if anything carries it
        from there."""
        name = self._backend(torch.device("cpu")) or self.group.name().lower()
        return torch.device("cpu") if name in _HOST else torch.device("cuda", torch.cuda.current_device())

    def _backend(self, device: torch.device) -> str:
        """The name of what carries tensors of a device, or nothing (a group made by hand is one backend for all)."""
        try:
            return str(self.group._get_backend(device).name()).lower()
        except (AttributeError, RuntimeError):
            return ""

    # Collectives -------------------------------------------------------------------------------------------------

    def swap(
        self, payload: Tensor, send: Sequence[int], receive: Sequence[int], what: str, out: Tensor | None = None
    ) -> list[Tensor]:
        """All-to-all of bytes: ``send[r]`` of the payload's go to rank r, ``receive[r]`` come from it, into ``out``."""
        out = torch.empty(sum(receive), dtype=torch.uint8, device=payload.device) if out is None else out
        options = dist.AllToAllOptions()
        options.timeout = self._patience
        self._finish(lambda: self.group.alltoall_base(out, payload, list(receive), list(send), options), what)
        self._count(sum(send) - send[self.rank], sum(receive) - receive[self.rank])
        return list(out.split(list(receive)))

    def gather(self, payload: Tensor, sizes: Sequence[int], what: str, out: Tensor | None = None) -> list[Tensor]:
        """Everybody's bytes, ``sizes[r]`` from rank r (into ``out``)."""
        if len(set(sizes)) > 1:  # gloo gathers equal sizes only
            return self.swap(payload.repeat(self.size), [len(payload)] * self.size, sizes, what, out)
        out = torch.empty(sum(sizes), dtype=torch.uint8, device=payload.device) if out is None else out
        options = c10d.AllgatherOptions()
        options.timeout = self._patience
        self._finish(lambda: self.group._allgather_base(out, payload, options), what)
        self._count(len(payload) * (self.size - 1), sum(sizes) - len(payload))
        return list(out.split(list(sizes)))

    def broadcast(self, tensor: Tensor, what: str) -> None:
        """Rank 0's values, in place."""
        options = dist.BroadcastOptions()
        options.rootRank, options.timeout = 0, self._patience
        self._finish(lambda: self.group.broadcast([tensor], options), what)
        self._count(*((tensor.nbytes * (self.size - 1), 0) if self.rank == 0 else (0, tensor.nbytes)))

    def total(self, tensor: Tensor, what: str) -> None:
        """The sum over ranks, in place, in whichever order the backend adds (a ring)."""
        options = dist.AllreduceOptions()
        options.timeout = self._patience
        self._finish(lambda: self.group.allreduce([tensor], options), what)
        share = 2 * tensor.nbytes * (self.size - 1) // self.size
        self._count(share, share)

    def largest(self, what: str, *values: int) -> list[int]:
        """The largest of everybody's values (two at the most).

        It stands in front of whatever is not part of every step, for gloo aborts the process where two ranks enter one
        kind of collective with different sizes. This kind, an all-reduce of four numbers, begins nothing else.

        Raises:
            LayoutMismatch: somebody is in another one of these.
        """
        code = zlib.crc32(what.encode())
        own = torch.tensor([code, -code, *map(int, values), *[0] * (2 - len(values))])
        own = own.to(self.control)
        options = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp(dist.ReduceOp.MAX), self._patience
        self._finish(lambda: self.group.allreduce([own], options), what)
        high, low, *found = own.tolist()
        if high != -low:
            text = f"rank {self.rank} is in {what}, and another rank elsewhere: every rank must make the same calls"
            raise self.meet(LayoutMismatch, text)
        return found[: len(values)]

    def texts(self, text: str, what: str) -> list[str]:
        """Everybody's text."""
        data = bytearray(text.encode())
        (longest,) = self.largest(what, len(data))
        data += bytes(max(longest, 1) - len(data))
        wire = torch.frombuffer(data, dtype=torch.uint8).to(self.control)
        came = self.gather(wire, [len(data)] * self.size, what)
        return [bytes(part.cpu().numpy()).rstrip(b"\0").decode() for part in came]

    def together(self, act: Callable[[], str], what: str) -> list[str]:
        """What everybody's ``act`` says (not nothing). It may take longer than the timeout: a thread tells the others
        in rounds that this rank is there, so that it is told from one that is gone."""
        done = threading.Event()
        said, told = "", [""]
        failed: list[WireError] = []

        def rounds() -> None:
            nonlocal told
            try:
                while not all(told):
                    done.wait(self.timeout / 4)
                    if done.is_set() and not said:
                        return  # act has failed
                    told = self.texts(said, what)
            except WireError as error:
                failed.append(error)

        thread = threading.Thread(target=rounds, daemon=True)
        thread.start()
        try:
            said = act()
        finally:
            done.set()
            thread.join()
        if failed:
            raise failed[0]
        return told

    def _count(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received

    # Faults ------------------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Refuse to go on after a fault.

        Raises:
            Poisoned: naming it.
        """
        if self.fault is not None:
            raise Poisoned(
                f"no further step after a fault ({type(self.fault).__name__}: {self.fault}): "
                "start again from the last checkpoint"
            )

    def _finish(self, start: Callable[[], Any], what: str) -> None:
        """Run a collective to its end."""
        if self.line is not None:
            self.line.settle()
        self.refuse()
        begun = time.monotonic()
        look = begun + _LOOK
        try:
            work = start()
            while not work.is_completed():
                now = time.monotonic()
                if now > look:
                    if reported := self._reported():
                        raise self._adopt(reported)
                    look = now + _LOOK
                if now - begun > self.timeout:
                    raise self.meet(CollectiveTimeout, f"no answer for {now - begun:.1f} s in {what}")
                time.sleep(min(max((now - begun) / 20, 2e-5), 0.02))
            work.wait()
        except WireError:
            raise
        except RuntimeError as error:
            elapsed = time.monotonic() - begun
            late = "imed out" in str(error) or "timeout" in str(error).lower()
            kind = CollectiveTimeout if late else PeerLost
            said = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0][:200]
            raise self.meet(kind, f"{what} failed after {elapsed:.1f} s ({said})") from error

    def meet(self, kind: type[WireError], text: str, *, call: bool = True) -> WireError:
        """A fault was met here: report it, unless another was reported first; the error that everybody raises.

        ``call``: whether to find out by a roll call who is gone.
        """
        return self._adopt(*self._report(kind, text, call))

    def _report(self, kind: type[WireError], text: str, call: bool) -> tuple[str, bool]:
        """The fault that was reported first, and whether it is this one."""
        facts = {"kind": kind.__name__, "rank": self.rank, "step": self.step, "text": text, "call": call}
        own = json.dumps(facts)
        # Without a store (its host died) everybody reports for himself.
        reported = self._ask(lambda: self.store.compare_set(f"{self._place}/fault", "", own).decode()) or own
        return reported, reported == own

    def _reported(self) -> str:
        key = f"{self._place}/fault"
        return self._ask(lambda: self.store.get(key).decode() if self.store.check([key]) else "") or ""

    def _ask(self, question: Callable[[], Any]) -> Any:
        """What the store answers; None where its host is dead, or hangs, for which a store would wait without end."""
        if self._asking is not None and self._asking.is_alive():
            return None  # it has not answered the last question yet
        answers: list[Any] = []

        def run() -> None:
            with suppress(Exception):
                answers.append(question())

        self._asking = threading.Thread(target=run, daemon=True)
        self._asking.start()
        self._asking.join(_ANSWER)
        return answers[0] if answers else None

    def _adopt(self, reported: str, own: bool = False, *, roll: bool = True) -> WireError:
        fault = json.loads(reported)
        kind = FAULTS.get(fault["kind"], WireError)
        text = f"step {fault['step']}, {self.label} of {self.size} ranks: {fault['text']}"
        text += "" if own else f" (reported by rank {fault['rank']}, noticed by rank {self.rank})"
        self.fault = kind(text)
        if self._linked is not None and self._linked.fault is None:  # before the roll call, which takes its time
            self._linked._hear(kind, f"in the {self.label} of rank {self._linked.rank}, {fault['text']}", self.step)
        if roll and fault["call"] and kind in (PeerLost, CollectiveTimeout) and (lost := self._missing()):
            text += f"; no sign of life from rank {', '.join(map(str, lost))}"
        self.fault = kind(text)
        return self.fault

    def _hear(self, kind: type[WireError], text: str, step: int) -> None:
        """A fault of the linked group is one here, too; this process lives, if anybody calls the roll."""
        self.step = step
        self._ask(lambda: self.store.set(f"{self._place}/alive/{self.rank}", "1"))
        self._adopt(*self._report(kind, text, False), roll=False)

    def _missing(self) -> list[int]:
        """Who does not answer the survivors' roll call."""
        others = [rank for rank in range(self.size) if rank != self.rank]

        def missing() -> list[int]:
            return [rank for rank in others if not self.store.check([f"{self._place}/alive/{rank}"])]

        self._ask(lambda: self.store.set(f"{self._place}/alive/{self.rank}", "1"))
        end = time.monotonic() + min(_ROLL_CALL, self.timeout)
        while len(self._ask(missing) or []) > 1 and time.monotonic() < end:
            time.sleep(0.02)
        if self._ask(missing):
            time.sleep(0.1)  # so that a survivor that is a little late still finds the store
        return self._ask(missing) or []


__all__ = ["Ranks"]
