"""Workers that lie, each by itself: for testing what an aggregator stands. Nobody lies unless ``workers`` names him."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..errors import Fault
from ..host import constant
from ..linalg import matrix_sum, power_of_two_scale
from ..rule import Count, Positive, Real
from ..signal import Signal
from ..stage import Context, Stage, State, stages

Worker = Annotated[int, Field(strict=True, ge=0)]


class Attack(Stage):
    """What some ``workers`` do to their signal before it is compressed; the others' passes as it is.

    It stands last in ``worker``. The nominal size of the signal is the honest one, so that learning rates are those of
    the run without it.
    """

    places: ClassVar[tuple[str, ...]] = ("worker",)
    workers: tuple[Worker, ...] = ()

    @property
    def caution(self) -> str:
        """Who lies."""
        who = ", ".join(map(str, self.workers))
        return f"'{self.kind}' makes worker {who} lie: it tests an aggregator, and trains no model" if who else ""

    def admit(self, workers: int, local: range) -> None:
        """Only workers that there are.

        Raises:
            Fault: no such worker.
        """
        if self.workers:
            super().admit(workers, local)
        if missing := [j for j in self.workers if j >= workers]:
            raise Fault(
                f"'{self.kind}' names worker {missing[0]}",
                because=f"there are {workers}, and the first is 0",
                instead=f"write numbers from 0 to {workers - 1}",
            )

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """x, with lies in the rows of liars."""
        if not self.workers:
            return x
        rows = x.reshape(-1, *x.shape[-2:])
        lies = self.lies(rows, {name: s.view(len(rows), *s.shape[x.ndim - 2 :]) for name, s in state.items()}, ctx)
        who = [row for row, actor in enumerate(actors(ctx, len(rows))) if actor in self.workers]
        at = constant(who, x.device)
        return rows.index_copy(0, at, lies.index_select(0, at)).view(x.shape)

    @abstractmethod
    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """What every row (R, m, n) would be if its worker lied."""

    def signal(self, s: Signal) -> Signal:
        """Anything, of the honest nominal size."""
        return s.but(alphabet="dense")


def actors(ctx: Context, rows: int) -> Sequence[int]:
    """The worker of every row."""
    return list(ctx.coin.actors) or [0] * rows


def size(x: Tensor) -> Tensor:
    """The root mean square of every matrix, (..., 1, 1)."""
    scaled, exponent = power_of_two_scale(x)
    return torch.ldexp((matrix_sum(scaled.square()) / prod(x.shape[-2:])).sqrt(), exponent)


@stages.register
class Flip(Attack):
    """``-scale x``: the blind liar. Of a vote he spoils one voice; of a mean as much as he likes.

    Shapes: (..., m, n).

    Args:
        workers: who lies.
        scale: how much louder than he is.

    Source: arXiv 1810.05291, section 3.2 (blind adversaries that invert their gradient).

    >>> Flip(workers=(0,), scale=10.0)(torch.ones(1, 2), {}, Context())
    tensor([[-10., -10.]])
    """

    kind: Literal["attack_flip"] = "attack_flip"
    scale: Positive = 1.0

    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The opposite."""
        return x * -self.scale


@stages.register
class Random(Attack):
    """``scale rms(x) s``, s a fair coin of +-1 for every entry, tossed anew in every step.

    Shapes: (..., m, n).

    Args:
        workers: who lies.
        scale: how much louder than he is.

    Source: arXiv 1703.02757, section 5 (random proposals), with coins instead of Gaussians: a sign keeps no more.
    """

    kind: Literal["attack_random"] = "attack_random"
    scale: Positive = 1.0

    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """Noise."""
        return ctx.coins(x) * (size(x) * self.scale)


@stages.register
class Constant(Attack):
    """``value rms(x)`` in every entry. Several of them collude without knowing each other: they always agree.

    Shapes: (..., m, n).

    Args:
        workers: who lies.
        value: in units of the root mean square that he would honestly send.

    Source: docs/robustness.md (voters that always say +1).

    >>> Constant(workers=(0,), value=2.0)(torch.tensor([[3.0, -3.0]]), {}, Context())
    tensor([[6., 6.]])
    """

    kind: Literal["attack_constant"] = "attack_constant"
    value: Real = 1.0

    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """One number."""
        return (size(x) * self.value).expand(x.shape)


@stages.register
class Stale(Attack):
    """``x_(t - delay)``: what he would have sent ``delay`` steps ago; until then, his first one.

    Shapes: (..., m, n). State: sent (..., delay, m, n), what he would have sent; t (..., 1, 1) counts.

    Args:
        workers: who lies.
        delay: in steps in which he had a gradient.

    Source: arXiv 1506.08272, section 2 (gradients at delayed iterates).
    """

    kind: Literal["attack_stale"] = "attack_stale"
    delay: Count = 10

    def init(self, x0: Tensor) -> State:
        """Nothing sent yet; nobody lies, nothing kept."""
        kept = self.delay if self.workers else 0
        sent = x0.new_zeros(*x0.shape[:-2], kept, *x0.shape[-2:])
        return {"sent": sent, "t": x0.new_zeros(*x0.shape[:-2], 1, 1, dtype=torch.float64)}

    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The oldest that he remembers; the newest takes its place."""
        sent, t = state["sent"], state["t"].view(-1, 1, 1, 1)
        sent.copy_(torch.where(t == 0, x.unsqueeze(1), sent))
        place = (t % self.delay).long().expand(-1, 1, *x.shape[-2:])
        old = sent.gather(1, place)[:, 0]
        sent.scatter_(1, place, x.unsqueeze(1))
        state["t"].add_(1)
        return old


@stages.register
class Nan(Attack):
    """``NaN`` in every entry: a broken worker that no check of gradients sees, since its gradient was finite.

    Shapes: (..., m, n).

    Args:
        workers: who lies.

    Source: docs/robustness.md (what is not finite is sorted last, clipped to nothing, and a coin for a vote).
    """

    kind: Literal["attack_nan"] = "attack_nan"

    def lies(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """No number."""
        return torch.full_like(x, torch.nan)


__all__ = ["Attack", "Constant", "Flip", "Nan", "Random", "Stale", "actors", "size"]
