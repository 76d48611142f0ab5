"""One direction of the wire: a feedback around a compressor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import model_validator
from torch import Tensor

from .codec import Codec
from .compressors import Compressor, Identity, compressors
from .errors import Fault
from .feedback import Feedback, NoFeedback, feedbacks
from .rule import Frozen
from .signal import Signal
from .stage import Context, State

_CALL = re.compile(r"\s*(\w+)\s*\(\s*(\w+)\s*\)\s*\Z")


class Channel(Frozen):
    """``feedback(compressor)``. Written ``sign``, ``ef21(scaled_sign)``, or ``{feedback: ..., compressor: ...}``.

    >>> print(Channel.model_validate("ef21(scaled_sign)"))
    ef21(scaled_sign)
    """

    feedback: Annotated[Feedback, feedbacks] = NoFeedback()
    compressor: Annotated[Compressor, compressors] = Identity()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str) and (call := _CALL.match(value)):
            return {"feedback": call[1], "compressor": call[2]}
        named = isinstance(value, dict) and (not value or value.keys() & cls.model_fields.keys())
        return value if named or isinstance(value, cls) else {"compressor": value}

    @model_validator(mode="after")
    def _fits(self) -> Channel:
        self.feedback.admit(self.compressor.kind, self.compressor.contraction(64, 64))
        return self

    def __str__(self) -> str:
        """The short form."""
        return str(self.compressor) if self.feedback.kind == "none" else f"{self.feedback}({self.compressor})"

    @property
    def lossless(self) -> bool:
        """Whether what is sent is what was meant."""
        return self.compressor.kind == "identity"

    def encode(self, u: Tensor, state: State, ctx: Context) -> Tensor:
        """The message for u."""
        return self.feedback.encode(u, self.compressor, state, ctx)

    @property
    def packs(self) -> bool:
        """Whether messages are made in their codec's fields, never as floats."""
        return self.feedback.kind == "none" and self.compressor.packs

    def packed(self, u: Tensor, ctx: Context) -> tuple[Sequence[Tensor], Tensor]:
        """The message for u in its codec's fields, and which are silent; if it :attr:`packs`."""
        return self.compressor.packed(u, ctx)

    def decode(self, a: Tensor, state: State) -> Tensor:
        """The signal for the (aggregated) message a."""
        return self.feedback.decode(a, state)

    def message(self, s: Signal) -> Signal:
        """What travels.

        Raises:
            Fault: the signal is a model, and this channel would not carry it.
        """
        if s.role == "model" and not (self.lossless or self.feedback.carries_model):
            raise Fault(
                f"'{self}' cannot carry a model",
                because="the step stands on the server, so this channel delivers the model itself",
                instead="write ef21(scaled_sign), or move 'step' to 'replica'",
            )
        return self.compressor.signal(self._compressed(s))

    def _compressed(self, s: Signal) -> Signal:
        """What the compressor gets: a memory's sums and differences are of no alphabet."""
        return s if self.feedback.kind == "none" else s.but(alphabet="dense")

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """How a message for the signal s travels."""
        return self.compressor.codec(self._compressed(s), m, n, dtype)

    def bits(self, s: Signal, m: int, n: int) -> float:
        """Logical bits per entry of a message for the signal s."""
        return self.compressor.bits(self._compressed(s), m, n)
