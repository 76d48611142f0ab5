"""What both ends of a channel remember of what compression lost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .errors import Fault
from .rule import Positive, Registry, Rule, Share
from .signal import Signal
from .stage import Compress, Context, State


class Feedback(Rule):
    """Memory around a compressor: the sender encodes, the receiver decodes the aggregate of what was sent.

    ``counts_absent``: whether a worker without a message counts as one that sent 0 (else it is left out of a mean).
    ``carries_model``: whether the memory makes a compressed *model* converge to the model.
    ``mirrored``: whether the receiver's state is the aggregate of the senders', so that none of them may be rounded.
    ``needs_linear``: whether the receiver adds up aggregates, which must then be linear.
    ``relays``: whether the receiver delivers the aggregate itself.
    """

    counts_absent: ClassVar[bool] = False
    carries_model: ClassVar[bool] = False
    mirrored: ClassVar[bool] = False
    needs_linear: ClassVar[bool] = False
    relays: ClassVar[bool] = False

    def sender(self, x0: Tensor) -> State:
        """The sender's state for a signal that starts at ``x0``."""
        return {}

    def receiver(self, x0: Tensor) -> State:
        """The receiver's state for a signal that starts at ``x0``."""
        return {}

    @abstractmethod
    def encode(self, u: Tensor, compress: Compress, state: State, ctx: Context) -> Tensor:
        """The message for the signal u."""

    @abstractmethod
    def decode(self, a: Tensor, state: State) -> Tensor:
        """The signal for the aggregated message a."""

    def rejoin(self, senders: State, aggregate: Callable[[Tensor], Tensor]) -> State:
        """The receiver's state that goes with these of all N senders, (N, ..., m, n), where their number changed.

        ``aggregate`` is that of everybody's messages. What is not named keeps its value.
        """
        return {}

    @abstractmethod
    def signal(self, sent: Signal, received: Signal) -> Signal:
        """What the receiver delivers, from what the sender meant and what the aggregate looks like."""

    def admit(self, compressor: str, contraction: float | None) -> None:
        """Refuse a compressor that this memory cannot work with.

        Raises:
            Fault: with the reason and the remedy.
        """


feedbacks: Registry[Feedback] = Registry("feedback", Feedback)


@feedbacks.register
class NoFeedback(Feedback):
    """``encode = C, decode = identity``: what compression loses is lost.

    Source: a channel without memory, as in signSGD (arXiv 1802.04434).
    """

    relays: ClassVar[bool] = True

    kind: Literal["none"] = "none"

    def encode(self, u: Tensor, compress: Compress, state: State, ctx: Context) -> Tensor:
        """C(u)."""
        return compress(u, ctx)

    def decode(self, a: Tensor, state: State) -> Tensor:
        """A itself."""
        return a

    def signal(self, sent: Signal, received: Signal) -> Signal:
        """What the aggregate looks like."""
        return received


@feedbacks.register
class EF14(Feedback):
    """``p = decay e + u;  y = C(p);  e <- p - drain y``: what is lost now is sent later.

    decay = drain = 1 is EF-SignSGD; e is in units of u, so with a learning rate that changes it differs from the
    paper's ``p = lr g + e``. Law: sum of y + e_T = sum of u (decay = drain = 1).

    State of the sender: e, starts at 0.
    Source: Seide et al. 2014; arXiv 1901.09847, Algorithm 1 (EF-SignSGD); decay and drain as in arXiv 2411.19870
    (DeMo, decay < 1) and arXiv 2504.05295 (Dion, drain = 1 - mu).
    """

    relays: ClassVar[bool] = True

    kind: Literal["ef14"] = "ef14"
    decay: Share = 1.0
    drain: Positive = 1.0

    def sender(self, x0: Tensor) -> State:
        """E = 0."""
        return {"e": torch.zeros_like(x0, memory_format=torch.contiguous_format)}

    def encode(self, u: Tensor, compress: Compress, state: State, ctx: Context) -> Tensor:
        """C(decay e + u)."""
        p = state["e"].mul(self.decay).add_(u)  # not in place: C(p) may be p itself
        y = compress(p, ctx)
        torch.sub(p, y, alpha=self.drain, out=state["e"])
        return y

    def decode(self, a: Tensor, state: State) -> Tensor:
        """A itself."""
        return a

    def signal(self, sent: Signal, received: Signal) -> Signal:
        """The memory adds what was held back, so the nominal size is lost."""
        return received.sized(None)


@feedbacks.register
class EF21(Feedback):
    """``c = C(u - h); h <- h + c`` at the sender, ``H <- H + Agg(c)`` at the receiver, which delivers H.

    The estimate follows u itself, so the receiver gets back the Signal that the sender meant; behind a server's step it
    carries the model (EF21-P). An absent worker counts as c = 0. Law: H = Agg(h).

    State: h at the sender, H at the receiver, both start at the signal's initial value (0, or X_0 for a model).
    Source: arXiv 2106.05203, Algorithm 2 (EF21); arXiv 2209.15218 (EF21-P).
    """

    kind: Literal["ef21"] = "ef21"
    counts_absent: ClassVar[bool] = True
    carries_model: ClassVar[bool] = True
    mirrored: ClassVar[bool] = True
    needs_linear: ClassVar[bool] = True

    def sender(self, x0: Tensor) -> State:
        """H = X_0."""
        return {"h": x0.clone()}

    def receiver(self, x0: Tensor) -> State:
        """The receiver's copy."""
        return {"H": x0.clone()}

    def encode(self, u: Tensor, compress: Compress, state: State, ctx: Context) -> Tensor:
        """C(u - h)."""
        c = compress(u - state["h"], ctx)
        state["h"].add_(c)
        return c

    def decode(self, a: Tensor, state: State) -> Tensor:
        """H."""
        return state["H"].add_(a).clone()

    def rejoin(self, senders: State, aggregate: Callable[[Tensor], Tensor]) -> State:
        """``H = Agg(h)``."""
        return {"H": aggregate(senders["h"])}

    def signal(self, sent: Signal, received: Signal) -> Signal:
        """The target's own Signal."""
        return sent.but(alphabet="dense")

    def admit(self, compressor: str, contraction: float | None) -> None:
        """Only contractions: the estimate would not approach its target."""
        if contraction is None:
            raise Fault(
                f"ef21 cannot follow a signal through '{compressor}'",
                because=f"EF21 needs ||C(x) - x||^2 <= (1 - delta) ||x||^2, which '{compressor}' does not promise",
                instead="write ef21(scaled_sign), or drop the feedback",
            )
