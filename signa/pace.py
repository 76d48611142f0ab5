"""Where a run stands: the step's number and the learning rates, on the host, or on the device for a CUDA graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import Fault
from .finite import Policy
from .host import captured
from .parcel import Scalars
from .routing import Routing
from .stage import Rate
from .transport import Clock, Loopback, Transport

Groups = Sequence[Mapping[str, Any]]


class Pace(ABC):
    """``known``: steps taken, as far as the host knows without waiting."""

    def __init__(self, routing: Routing) -> None:
        self.device, self.known = routing[0].named.parameter.device, 0

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps taken."""

    @abstractmethod
    def go_to(self, step: int) -> None:
        """So many steps are taken."""

    @abstractmethod
    def advance(self) -> None:
        """One more."""

    @abstractmethod
    def clock(self, seed: int, unscale: float = 1.0) -> Clock:
        """For the next one."""

    @abstractmethod
    def rate(self, lr: float) -> Rate:
        """A group's learning rate as a step takes it."""

    @abstractmethod
    def scalars(self, groups: Groups) -> list[Scalars]:
        """Every group's learning rate and weight decay."""

    @abstractmethod
    def start(self, *, fresh: bool) -> None:
        """A step begins, the first one if ``fresh``.

        Raises:
            Fault: it is being captured in a CUDA graph and must not be.
        """


class OnHost(Pace):
    """An ordinary optimizer's."""

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self.known

    def go_to(self, step: int) -> None:
        """So many steps are taken."""
        self.known = step

    def advance(self) -> None:
        """One more."""
        self.known += 1

    def clock(self, seed: int, unscale: float = 1.0) -> Clock:
        """For the next one."""
        return Clock(seed, self.known, unscale)

    def rate(self, lr: float) -> float:
        """The number itself."""
        return lr

    def scalars(self, groups: Groups) -> list[Scalars]:
        """As numbers."""
        return [(float(group["lr"]), float(group["weight_decay"])) for group in groups]

    def start(self, *, fresh: bool) -> None:
        """Not in a capture."""
        if captured(self.device):
            raise Fault(
                "step() in the capture of a CUDA graph",
                because="its replays would toss the same coins again",
                instead="pass capturable=True, nonfinite='ignore' to signa.build",
            )


class OnDevice(Pace):
    """That of an optimizer with ``capturable``: tensors that a replay reads and counts on.

    Raises:
        Fault: something in a step would make the host wait, or be kept by the graph, with what to write instead.
    """

    def __init__(self, routing: Routing, transport: Transport, nonfinite: Policy) -> None:
        devices = sorted({str(route.named.parameter.device) for route in routing})
        if len(devices) > 1:
            because = f"the parameters are on {' and '.join(devices)}, and a graph is of one device"
            raise Fault("capturable is not possible", because=because)
        if not isinstance(transport, Loopback):
            raise Fault(
                f"capturable is not possible with {transport!r}",
                because="the host reads what comes over a wire",
                instead="leave it out, or simulate the workers with signa.Loopback(N)",
            )
        if nonfinite != "ignore":
            raise Fault(
                f"capturable is not possible with nonfinite='{nonfinite}'",
                because="the host reads whether the gradients are finite",
                instead="write nonfinite='ignore', and look at the loss now and then",
            )
        for index in sorted({route.group for route in routing}):
            group = routing.spec.groups[index]
            stages = [stage for part in ("worker", "server", "replica") for _, stage in group.method.stages(part)]
            for stage in stages:
                if stage.waits:
                    raise Fault(
                        f"groups.{group.name or index}: capturable is not possible with '{stage}'",
                        because="the host reads what its SVD says about errors",
                        instead="write a Newton-Schulz schedule (spectral), or a norm other than spectral (project)",
                    )
        super().__init__(routing)
        self._count = torch.zeros((), dtype=torch.int64, device=self.device)

    @property
    def steps(self) -> int:
        """Steps taken, replays included. The host waits for the device to tell."""
        return int(self._count)

    def go_to(self, step: int) -> None:
        """So many steps are taken."""
        self.known = step
        self._count.fill_(step)

    def advance(self) -> None:
        """One more."""
        self.known += 1
        self._count += 1

    def clock(self, seed: int, unscale: float = 1.0) -> Clock:
        """With the count on the device."""
        return Clock(seed, self.known, unscale, self._count)

    def rate(self, lr: float) -> Tensor:
        """A tensor (), float64 so that a step takes it as it takes a number; torch's schedulers ``fill_`` it."""
        return torch.tensor(lr, dtype=torch.float64, device=self.device)

    def scalars(self, groups: Groups) -> list[Scalars]:
        """The tensors of the learning rates.

        Raises:
            Fault: one has become a number, which a graph would keep.
        """
        for group in groups:
            if not isinstance(group["lr"], Tensor):
                raise Fault(
                    f"the learning rate of group '{group['name']}' is the number {group['lr']!r}",
                    because="with capturable a step reads a tensor, so that replays follow it",
                    instead=f"write group['lr'].fill_({group['lr']!r}), as torch's schedulers do",
                )
        return [(group["lr"], float(group["weight_decay"])) for group in groups]

    def start(self, *, fresh: bool) -> None:
        """In a capture, too, but for the first time."""
        if fresh and captured(self.device):
            raise Fault(
                "the first step() is in the capture of a CUDA graph",
                because="it copies lists to the device, which no graph can hold",
                instead="take a step before the capture",
            )


__all__ = ["OnDevice", "OnHost", "Pace"]
