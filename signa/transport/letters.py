"""Letters: what a client and a server write to each other that share no memory, no process group and no clock.

A letter is bytes. A client's holds its message for every matrix, in the codec of UP; the server's holds what it made of
everybody's, in the codec of DOWN (1 bit per entry for SignMuon), or, for a client that was away for long, the whole
model. Who carries letters, and when, is not said here: Flower does, and so can a file or a queue.

    header (32) | who writes, step, culprit, how many buffers (40) | scalars | status, fields of each lane | buffers

Everything is filled up to 8 bytes; see docs/federated.md for the sizes.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CorruptMessage, LayoutMismatch, SignaError, StateError
from ..rows import Buffers, buffers_of
from . import header
from .base import ABSENT, VOICE, Aggregate, Bucket, Clock, Lane, Message, Verdict
from .loopback import Loopback
from .matrices import Matrices
from .payload import Reader, pad, raw, shapes
from .pool import everywhere

if TYPE_CHECKING:
    from ..engine import Shared
    from ..optim import SignA

SERVER, MODEL = -1, -2  # who writes, where it is no worker: a step's result, or the whole model
META = 40
Form = tuple[tuple[int, ...], torch.dtype]


class Opened(NamedTuple):
    """A letter that was read: who wrote it, of which step (MODEL: before which), whose gradient was not finite, its
    tensors in order, and the buffers behind them."""

    writer: int
    step: int
    culprit: tuple[int, int]
    tensors: list[Tensor]
    buffers: list[Tensor]


def written(letter: bytes) -> tuple[int, int]:
    """Who wrote a letter, unread: a worker's number, SERVER or MODEL; and its step."""
    writer, step = (int.from_bytes(letter[at : at + 8], "little", signed=True) for at in (header.SIZE, header.SIZE + 8))
    return writer, step


class Post(Loopback, ABC):
    """What both ends have in common: the layout that they must agree in, and how letters are written and read."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._facts: list[str] = []
        self._layout = 0
        self._desks: list[Desk] = []
        self._opt: SignA | None = None
        self._named: Buffers = []
        self.parts: list[Tensor] = []

    def attach(self, opt: SignA) -> None:
        """Say whose transport this is, once it is built: letters carry its groups' scalars and reach its model."""
        self._opt = opt

    @property
    def opt(self) -> SignA:
        """The optimizer.

        Raises:
            StateError: nobody has attached it.
        """
        if self._opt is None:
            raise StateError(f"{self!r} knows no optimizer: call its attach(opt) behind signa.build")
        return self._opt

    def plan(self, lanes: Sequence[Lane]) -> Sequence[Bucket]:
        """All lanes in one bucket."""
        desks = [self._desk(lanes)] if lanes else []
        self._desks += desks
        return desks

    @abstractmethod
    def _desk(self, lanes: Sequence[Lane]) -> Desk: ...

    def agree(self, facts: Mapping[str, str], model: nn.Module | None) -> None:
        """Every letter carries a hash of these facts, which the reader compares with its own."""
        more = {
            "workers": str(self.workers),
            "wire": str(header.WIRE_VERSION),
            "torch": torch.__version__.split("+")[0],
        }
        self._facts.append(json.dumps(more | dict(facts), sort_keys=True))
        text = "\n".join(["post", *self._facts])
        self._layout = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        self._named = self._named or buffers_of(model)

    def before(self, verdict: Verdict, *, ask: bool) -> Verdict:
        """The own one.

        Raises:
            SignaError: with ``ask``, since nobody can be asked before a letter is written.
        """
        if ask:
            raise SignaError(
                f"{self!r} cannot ask others before a step, as a GradScaler and nonfinite='raise' or 'skip' need: "
                "leave the scaler out, and build with nonfinite='abstain'"
            )
        self.parts = []
        return verdict

    # Letters -----------------------------------------------------------------------------------------------------

    def seal(
        self, step: int, writer: int, tensors: Iterable[Tensor], buffers: Sequence[Tensor], culprit: tuple[int, int]
    ) -> bytes:
        """A letter."""
        meta = torch.tensor([writer, step, *culprit, len(buffers)])  # what the checksum of the header covers
        parts = [raw(tensor.detach()).cpu() for tensor in (meta, *tensors, *buffers)]
        out = torch.zeros(header.SIZE + sum(pad(len(part)) for part in parts), dtype=torch.uint8)
        at = header.SIZE
        for part in parts:
            out[at : at + len(part)] = part
            at += pad(len(part))
        header.Header(step, self._layout).write(out)
        return out.numpy().tobytes()

    def open(self, letter: bytes, who: str) -> Opened:
        """Read a letter of whatever step.

        Raises:
            CorruptMessage: it is not what was written. LayoutMismatch: it is of another run.
        """
        if letter[:4] != header._MAGIC or len(letter) < header.SIZE + META:
            raise CorruptMessage(f"what {who} sent is no letter of SignA")
        _, version, _, _, layout, *_ = header._FORM.unpack(letter[: header.SIZE])
        if (version, layout) != (header.WIRE_VERSION, self._layout):
            raise LayoutMismatch(
                f"{who} writes wire version {version} and layout {layout:016x}, and here they are "
                f"{header.WIRE_VERSION} and {self._layout:016x}: build both ends from the same spec, seed, model, "
                "versions and number of workers"
            )
        payload = torch.frombuffer(bytearray(letter), dtype=torch.uint8)
        reader = Reader(payload)
        writer, step, worker, parameter, count = reader.read((5,), torch.int64).tolist()
        copy = payload.clone()
        header.Header(step, layout).write(copy)
        if not torch.equal(copy[: header.SIZE], payload[: header.SIZE]):
            raise CorruptMessage(f"the checksum of what {who} sent is wrong")
        forms, held = self.forms(writer), [_form(tensor) for tensor in self.buffers[:count]]
        if len(letter) != _size([*forms, *held]):
            raise CorruptMessage(f"what {who} sent has {len(letter)} bytes, and not {_size([*forms, *held])}")
        tensors, buffers = ([reader.read(*form) for form in part] for part in (forms, held))
        return Opened(writer, step, (worker, parameter), tensors, buffers)

    def forms(self, writer: int) -> list[Form]:
        """The shapes and dtypes of what a worker, the server or MODEL writes, buffers left out."""
        if writer == MODEL:
            return [_form(tensor) for tensor in self.replicas()]
        scalars: list[Form] = [((len(self.opt.param_groups), 2), torch.float64)] if writer == SERVER else []
        return [*scalars, *(form for desk in self._desks for form in desk.forms(down=writer == SERVER))]

    def size(self, writer: int, *, buffers: bool = False) -> int:
        """Bytes of such a letter, with or without the model's buffers."""
        return _size([*self.forms(writer), *(_form(tensor) for tensor in self.buffers if buffers)])

    def replicas(self) -> list[Tensor]:
        """What all replicas have in common, in the order of names."""
        return [tensor for _, tensor in sorted(self.opt.replicas().items())]

    @property
    def buffers(self) -> list[Tensor]:
        """The model's buffers that are saved, as they are now (a forward pass may put another in a buffer's place)."""
        found = [
            getattr(module, name) for module, name in self._named if name not in module._non_persistent_buffers_set
        ]
        return [buffer for buffer in found if buffer is not None]

    def put_buffers(self, values: Sequence[Tensor]) -> None:
        """Write those that came; a letter has all of them or none."""
        for buffer, value in zip(self.buffers, values):
            buffer.detach().copy_(value.view_as(buffer))


class Desk(ABC):
    """A bucket at one end of the post."""

    def __init__(self, post: Post, lanes: Sequence[Lane]) -> None:
        self.post, self.lanes = post, tuple(lanes)

    def forms(self, *, down: bool) -> list[Form]:
        """A status for every matrix, and the fields of every lane."""
        codecs = [lane.down if down else lane.up for lane in self.lanes]
        matrices = sum(lane.matrices for lane in self.lanes)
        fields = [form for lane, codec in zip(self.lanes, codecs) for form in shapes(codec, everywhere(lane), 1)]
        return [((1, matrices), torch.uint8), *fields]

    @abstractmethod
    def owned(self, lane: int) -> Sequence[int]: ...

    @abstractmethod
    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]: ...

    def share(self, messages: Sequence[Matrices], aggregates: Sequence[Aggregate]) -> list[Matrices]:
        return list(messages)

    def whole(self, lane: int, x: Tensor) -> Tensor:
        return x

    def shared(self, tensors: Sequence[Tensor]) -> list[Shared]:
        """The server's messages for the matrices that took part, from its status and fields."""
        status, fields = tensors[0][0], list(tensors[1:])
        found: list[Shared] = []
        at = 0
        for lane in self.lanes:
            own, at = status[at : at + lane.matrices], at + lane.matrices
            parts = [fields.pop(0)[0].to(lane.device) for _ in lane.down.fields]
            taking = own.ne(ABSENT).nonzero().flatten().tolist()
            found.append((Matrices(lane.down, fields=parts, silent=own != VOICE).rows(taking), taking))
        return found


def _form(tensor: Tensor) -> Form:
    return tuple(tensor.shape) or (1,), tensor.dtype


def _size(forms: Iterable[Form]) -> int:
    return header.SIZE + META + sum(pad(torch.Size(shape).numel() * dtype.itemsize) for shape, dtype in forms)


__all__ = ["MODEL", "SERVER", "Desk", "Opened", "Post", "written"]
