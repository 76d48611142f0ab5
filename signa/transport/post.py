"""The two ends of the post: a client that writes letters, and a server that answers them.

Built like any optimizer, each with a model of its own, and attached to it::

    box = Box(workers=5, worker=2)
    opt = signa.build(spec, model, transport=box)
    box.attach(opt)

docs/federated.md has a whole example.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import LayoutMismatch, StateError
from .base import ABSENT, SILENT, VOICE, Aggregate, Clock, Lane, Message, Verdict
from .letters import MODEL, SERVER, Desk, Opened, Post, written
from .matrices import Matrices
from .pool import aggregate, everywhere, pooled

if TYPE_CHECKING:
    from ..optim import SignA

# The client ------------------------------------------------------------------------------------------------------


class Box(Post):
    """A client with one worker. ``step()`` is the worker's part: it writes ``letter``, and the model stays until the
    server's letters are delivered.

    >>> box = Box(workers=5, worker=2)
    >>> box.local
    range(2, 3)
    """

    def __init__(self, workers: int, worker: int) -> None:
        super().__init__(workers)
        if isinstance(worker, bool) or not isinstance(worker, int) or not 0 <= worker < workers:
            raise ValueError(f"the worker must be one of 0 to {workers - 1}, got {worker!r}")
        self.worker, self.position, self.letter = worker, 0, b""
        self._culprit = (-1, -1)

    @property
    def local(self) -> range:
        """The one."""
        return range(self.worker, self.worker + 1)

    def _desk(self, lanes: Sequence[Lane]) -> Desk:
        return _BoxDesk(self, lanes)

    def attach(self, opt: SignA) -> None:
        """Also: the model is what the optimizer's number of steps says. Set ``position`` where it is not."""
        super().attach(opt)
        self.position = opt.steps

    def refuse(self) -> None:
        """Refuse a step on a model that is behind.

        Raises:
            LayoutMismatch: the server's letter of the step before was not delivered.
        """
        if self.position != self.opt.steps:
            raise LayoutMismatch(
                f"worker {self.worker} has written its letter of step {self.opt.steps - 1}, and its model is at step "
                f"{self.position}: deliver the server's letters before the next step"
            )

    def before(self, verdict: Verdict, *, ask: bool) -> Verdict:
        """Remember whose gradient was not finite: the letter tells it."""
        self._culprit = verdict.culprit or (-1, -1)
        return super().before(verdict, ask=ask)

    def after(
        self, step: int, replicas: Callable[[], Mapping[str, Tensor]], buffers: Sequence[tuple[nn.Module, str]]
    ) -> Sequence[tuple[int, int]]:
        """The letter is written; worker 0's has the model's buffers in it, which everybody follows."""
        self._named = list(buffers)
        held = self.buffers if self.worker == 0 else []
        self.letter = self.seal(step - 1, self.worker, self.parts, held, self._culprit)
        return ()

    @torch.no_grad()
    def deliver(self, letters: Iterable[bytes]) -> None:
        """The server's letters, oldest first; those that are known already are left out.

        Raises:
            CorruptMessage, LayoutMismatch: one is damaged or of another run, or letters before it are missing.
        """
        for letter in letters:
            writer, step, _, tensors, buffers = self.open(letter, "the server")
            if writer >= 0:
                raise LayoutMismatch(f"a letter of worker {writer} was delivered to worker {self.worker}")
            if step < self.position:
                continue
            if writer == MODEL:
                for mine, value in zip(self.replicas(), tensors, strict=True):
                    mine.copy_(value.view_as(mine))
                self.opt.steps = step
            elif step > self.position:
                raise LayoutMismatch(
                    f"worker {self.worker} is at step {self.position}, and the server's letter is of step {step}: "
                    "deliver those between first, or the whole model"
                )
            else:
                shared, rest = [], tensors[1:]
                for desk in self._desks:
                    count = len(desk.forms(down=True))
                    shared.append(desk.shared(rest[:count]))
                    rest = rest[count:]
                scalars = [(lr, decay) for lr, decay in tensors[0].tolist()]
                self.opt.receive(step, scalars, shared)
            self.put_buffers(buffers)
            self.position = self.opt.steps

    def lacks(self, letters: Sequence[bytes]) -> bool:
        """Whether letters before these are missing here."""
        return any(writer == SERVER and step > self.position for writer, step in map(written, letters[:1]))

    def __repr__(self) -> str:
        """As it is written."""
        return f"Box(workers={self.workers}, worker={self.worker})"


class _BoxDesk(Desk):
    def owned(self, lane: int) -> Sequence[int]:
        return ()

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        fields = (field for message in messages for field in message.rows.fields)
        self.post.parts += [torch.cat([message.status for message in messages], 1), *fields]
        return [Aggregate(message.rows.rows([]), (), ()) for message in messages]

    def whole(self, lane: int, x: Tensor) -> Tensor:
        raise StateError("the server's exact model is at the server: evaluate there")


# The server ------------------------------------------------------------------------------------------------------


class Office(Post):
    """The server, without workers of its own, and a replica. In ``step()`` it asks ``mail(step)`` for the letters of
    those that take part, by worker; its own letter of that step is then the last of ``letters``.

    Args:
        mail: who carries letters.
        keep: how many of its own letters it keeps for those who were away.
    """

    def __init__(self, workers: int, mail: Callable[[int], Mapping[int, bytes]], *, keep: int = 20) -> None:
        super().__init__(workers)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep must be a whole number from 1 on, got {keep!r}")
        self.mail, self.letters = mail, deque[bytes](maxlen=keep)
        self._came: dict[int, Opened] | None = None

    @property
    def local(self) -> range:
        """None."""
        return range(0)

    def _desk(self, lanes: Sequence[Lane]) -> Desk:
        return _OfficeDesk(self, lanes)

    def agree(self, facts: Mapping[str, str], model: nn.Module | None) -> None:
        """Letters of another layout are of no use to anybody."""
        super().agree(facts, model)
        self.letters.clear()

    def before(self, verdict: Verdict, *, ask: bool) -> Verdict:
        """A step begins: no letter of it is here."""
        self._came = None
        return super().before(verdict, ask=ask)

    def came(self, step: int) -> dict[int, Opened]:
        """The letters of a step, opened.

        Raises:
            CorruptMessage, LayoutMismatch: one is damaged, of another run, step or worker.
        """
        if self._came is None:
            self._came = {}
            for worker, letter in sorted(self.mail(step).items()):
                who = f"worker {worker}"
                opened = self.open(letter, who)
                if (opened.step, opened.writer) != (step, worker):
                    raise LayoutMismatch(
                        f"what {who} sent is of step {opened.step} and {_name(opened.writer)}, and not of step "
                        f"{step} and {who}"
                    )
                self._came[worker] = opened
        return self._came

    def after(
        self, step: int, replicas: Callable[[], Mapping[str, Tensor]], buffers: Sequence[tuple[nn.Module, str]]
    ) -> Sequence[tuple[int, int]]:
        """The letter is written; buffers follow worker 0's, if it took part."""
        came, self._came = self._came or {}, None
        self._named = list(buffers)
        sent = came[0].buffers if 0 in came else []
        self.put_buffers(sent)
        groups = [[float(group["lr"]), float(group["weight_decay"])] for group in self.opt.param_groups]
        scalars = torch.tensor(groups, dtype=torch.float64)
        self.letters.append(self.seal(step - 1, SERVER, [scalars, *self.parts], sent, (-1, -1)))
        return [opened.culprit for opened in came.values() if opened.culprit[0] >= 0]

    def missed(self, position: int) -> list[bytes]:
        """What brings a client whose model is at step ``position`` up to date: the letters since then, or the whole
        model where they are no longer kept, or several of them longer than it.

        Raises:
            LayoutMismatch: that client is ahead of the server.
        """
        away = self.opt.steps - position
        if away < 0:
            raise LayoutMismatch(f"a client is at step {position}, and the server at step {self.opt.steps}")
        letters = [*self.letters][len(self.letters) - away :] if away <= len(self.letters) else None
        if letters is not None and (away == 1 or sum(map(len, letters)) <= self.size(MODEL, buffers=True)):
            return letters
        return [self.whole()]

    def whole(self) -> bytes:
        """The model, the replicas' state and the buffers, as they are between two steps."""
        return self.seal(self.opt.steps, MODEL, self.replicas(), self.buffers, (-1, -1))

    def __repr__(self) -> str:
        """As it is written."""
        return f"Office(workers={self.workers}, keep={self.letters.maxlen})"


class _OfficeDesk(Desk):
    post: Office

    def owned(self, lane: int) -> Sequence[int]:
        return range(self.lanes[lane].matrices)

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        came = self.post.came(clock.step)
        first = sum(len(desk.forms(down=False)) for desk in self.post._desks[: self.post._desks.index(self)])
        status = torch.zeros(self.post.workers, sum(lane.matrices for lane in self.lanes), dtype=torch.uint8)
        for worker, opened in came.items():
            status[worker] = opened.tensors[first][0]
        found, at, field = [], 0, first + 1
        for lane in self.lanes:
            own, at = status[:, at : at + lane.matrices], at + lane.matrices
            parts = []
            for form in lane.up.fields:  # rows of zeros for those who are absent
                part = torch.zeros(self.post.workers, lane.matrices, form.columns, dtype=form.dtype)
                for worker, opened in came.items():
                    part[worker] = opened.tensors[field][0]
                parts.append(part.to(lane.device))
                field += 1
            whole = aggregate(lane, everywhere(lane), parts, own, clock, lane.device)
            taking = own.ne(ABSENT).any(0).nonzero().flatten().tolist()
            found.append(Aggregate(pooled(lane, whole, own).rows(taking), taking, taking))
        return found

    def share(self, messages: Sequence[Matrices], aggregates: Sequence[Aggregate]) -> list[Matrices]:
        """Its own replica reads what the others will read."""
        statuses, fields = [], []
        for lane, x, (_, _, taking) in zip(self.lanes, messages, aggregates, strict=True):
            full = x.among(taking, lane.matrices)
            status = torch.where(full.silent.cpu(), SILENT, VOICE)
            absent = torch.ones(lane.matrices, dtype=torch.bool)
            absent[list(taking)] = False
            statuses.append(torch.where(absent, ABSENT, status).to(torch.uint8))
            fields += [field[None] for field in full.fields]
        tensors = [torch.cat(statuses)[None], *fields]
        self.post.parts += tensors
        return [x for x, _ in self.shared(tensors)]


def _name(writer: int) -> str:
    return {SERVER: "the server", MODEL: "the server (its whole model)"}.get(writer, f"worker {writer}")


__all__ = ["MODEL", "SERVER", "Box", "Office", "written"]
