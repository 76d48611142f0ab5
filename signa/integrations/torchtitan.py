"""A container of optimizers as torchtitan wants one: several model parts, one ``Stateful`` for its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch import nn
from torch.optim import Optimizer

from ..building import build
from ..checkpoints.dcp import DCPState
from ..optim import SignA
from ..sentence import Method
from ..spec import Spec

__all__ = ["OptimizersContainer"]


class OptimizersContainer(Optimizer):
    """One SignA over all parts of a model, in the shape of torchtitan's class of this name.

    One optimizer and not one for each part, so that a spec's groups mean the whole model (``heads`` are in the last
    stage alone), and a step is one exchange. Iterating gives it, for schedulers; hooks and schedulers may be put on the
    container as well. The state is torch.distributed.checkpoint's (:class:`signa.checkpoints.dcp.DCPState`).

    Args:
        model_parts: the stages of this process' pipeline, or the model alone in a list. Their parameters have
            different names.
        spec, options: of :func:`signa.build`.

    Raises:
        SpecError, RoutingError, UnsupportedParameter: as :func:`signa.build`.

    >>> parts = [nn.Sequential(), nn.Sequential()]
    >>> parts[0].add_module("first", nn.Linear(4, 4)), parts[1].add_module("last", nn.Linear(4, 2))
    (None, None)
    >>> container = OptimizersContainer(parts, "signmuon", lr=0.02)
    >>> [group["signa_names"] for group in container.param_groups]
    [['first.weight', 'last.weight'], ['first.bias', 'last.bias']]
    """

    def __init__(
        self,
        model_parts: Sequence[nn.Module],
        spec: str | Path | Method | Mapping[str, Any] | Spec,
        **options: Any,
    ) -> None:
        self.model_parts = list(model_parts)
        opt = build(spec, self.model_parts, **options)
        self.optimizers: list[SignA] = []
        super().__init__([dict(group) for group in opt.param_groups], {})  # for the hooks of torch.optim
        self.optimizers = [opt]
        self.param_groups, self.state = opt.param_groups, opt.state

    def __iter__(self) -> Iterator[SignA]:
        """The optimizers: torchtitan makes a scheduler for each."""
        return iter(self.optimizers)

    def __len__(self) -> int:
        """How many optimizers there are."""
        return len(self.optimizers)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parts."""
        return self.optimizers[0].step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parts."""
        self.optimizers[0].zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As :meth:`signa.SignA.add_param_group`."""
        if self.optimizers:
            self.optimizers[0].add_param_group(param_group)
        else:  # torch's constructor hands over the groups
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Flat, by parameter name and address: keys that ranks and parts share no two of."""
        return DCPState(self.optimizers[0]).state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What :meth:`state_dict` gave, or what DCP has read into it.

        Raises:
            StateError: it is of another optimizer, with all that differs; nothing is written then.
        """
        DCPState(self.optimizers[0]).load_state_dict(state_dict)
