"""The word every path is made of: a Stage maps one matrix signal to the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from .coins import Coins
from .errors import Fault
from .packing import fair, fair_words, words_for
from .rule import Registry, Rule
from .signal import Role, Signal

State = dict[str, Tensor]
"""What a stage or a feedback remembers: named tensors with the signal's leading axes, updated in place."""


Rate = float | Tensor
"""A learning rate: a number, or where a step may be captured a float64 tensor () on the parameters' device."""


@dataclass(frozen=True)
class Context:
    """What a component may know besides its input and its own state.

    Args:
        lr: the group's scheduled learning rate.
        scale: the layer's multiplier lam(m, n) of the learning rate.
        weight_decay: the group's decay, for the one place that applies it.
        parameter: the model's matrices (same shape as the signal) where coupled decay needs them, else None; read only.
        coin: where coins come from; one row per leading index.
        memory: what an aggregator that remembers has remembered of these matrices, to be written in place.
    """

    lr: Rate = 0.0
    scale: float = 1.0
    weight_decay: float = 0.0
    parameter: Tensor | None = None
    coin: Coins = field(default_factory=Coins)
    memory: State = field(default_factory=dict)

    def at(self, hop: str) -> Context:
        """The same, seen from another place on the path, which tosses coins of its own."""
        return replace(self, coin=self.coin.at(hop))

    def coins(self, like: Tensor) -> Tensor:
        """+-1 for every entry; a function of seed, step, hop, parameter, actor and entry alone."""
        return self.coin.toss(like)

    def uniform(self, like: Tensor) -> Tensor:
        """A float64 in [0, 1) for every entry; a function of the same six, and apart from the coins."""
        return self.coin.uniform(like)

    def fair_sign(self, x: Tensor) -> Tensor:
        """``sign(x)`` with a coin for every exact zero; a matrix that is zero throughout stays zero (no opinion).

        On a CPU the coins are tossed only where a zero exists; the result is the same.
        """
        return fair(*self._tossed(x)).view(x.shape)

    def fair_words(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same as words (R, W), one row for every leading index, and which rows are zero throughout (R,)."""
        return fair_words(*self._tossed(x))

    def _tossed(self, x: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        rows, entries = x.shape[:-2].numel(), x.shape[-2:].numel()
        return x.reshape(rows, entries), lambda: self.coin.words(rows, words_for(entries), x.device)


class Stage(Rule):
    """A map of matrices (..., m, n) to matrices of that shape.

    Laws: ``x`` is borrowed (never written), state is owned (written in place), leading axes are batch, nothing global
    is read.

    ``together``: it looks from one worker's rows at another's, so it gets all workers' rows of a matrix at once.
    """

    places: ClassVar[tuple[str, ...]] = ("worker", "server", "replica")
    takes: ClassVar[tuple[Role, ...]] = ("gradient", "direction")
    together: ClassVar[bool] = False

    @property
    def caution(self) -> str:
        """What is said against using it, as advice; nothing for most."""
        return ""

    def admit(self, workers: int, local: range) -> None:
        """Refuse a number of workers that this stage cannot work with, or so many of them in this process.

        Raises:
            Fault: with the reason and the remedy.
        """
        if self.together and len(local) < workers:
            raise Fault(
                f"'{self.kind}' looks at what all {workers} workers send, and {len(local)} of them are here",
                because="ranks see their own workers alone",
                instead=f"simulate them: transport=signa.Loopback({workers})",
            )

    @property
    def waits(self) -> bool:
        """Whether it makes the host wait for a GPU, so that no CUDA graph can hold it."""
        return False

    def init(self, x0: Tensor) -> State:
        """The state for a signal that starts at ``x0`` (..., m, n)."""
        return {}

    @abstractmethod
    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The next signal."""

    def lean(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The next signal for one who reads it once: perhaps in a narrower dtype, which has the same values."""
        return self(x, state, ctx)

    def signed(self, words: Tensor, models: Sequence[Tensor], ctx: Context) -> bool:
        """The same for a direction of signs, words (R, W) of bits, if its state is what lies in these tensors of one
        dtype and size, one behind the other, which are written to.

        Returns:
            False where nothing was done: unpack them, and call.
        """
        return False

    @abstractmethod
    def signal(self, s: Signal) -> Signal:
        """What this stage does to the nominal description of its input."""


stages: Registry[Stage] = Registry("stage", Stage)

Compress = Callable[[Tensor, Context], Tensor]
