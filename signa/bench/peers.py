"""Others' optimizers over the same matrices: torch.optim's, a textbook loop, and packages where they are installed.

Each is called as its own documentation calls it: without weight decay, and without Nesterov, which is one more pass
over the gradients. Schedule and dtype are each package's own; torch's and the textbook's are jordan5 and bfloat16.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LR", "PEERS", "Peer", "Stepping", "enter", "textbook_polar"]

LR = 0.02  # of every optimizer here; no time depends on it
_BETA = 0.95
_JORDAN = (3.4445, -4.7750, 2.0315)  # https://kellerjordan.github.io/posts/muon

Parameters = Sequence[nn.Parameter]


@dataclass(frozen=True)
class Peer:
    """A name, the distribution that it comes in (none: it is always there), and how its step is made."""

    name: str
    distribution: str
    make: Callable[[Parameters], Callable[[], object]]


class Stepping:
    """A contestant that takes steps: every one finds its gradients in place, for some optimizers drop them."""

    inner = 0.0

    def __init__(self, parameters: Parameters, gradients: Sequence[Tensor], step: Callable[[], object]) -> None:
        self._parameters, self._gradients, self._step = parameters, gradients, step

    def ready(self) -> None:
        """Gradients."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def __call__(self) -> object:
        """A step."""
        return self._step()


def enter(peer: Peer, shapes: Sequence[tuple[int, int]], device: str) -> Stepping | str:
    """The peer over matrices of these shapes, after a step; or why it does not take part."""
    version = ""
    if peer.distribution:
        try:
            version = metadata.version(peer.distribution)
        except metadata.PackageNotFoundError:
            return "not installed"
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(m, n, generator=generator).to(device)) for m, n in shapes]
    gradients = [torch.randn(m, n, generator=generator).to(device) for m, n in shapes]
    try:
        with warnings.catch_warnings():  # theirs to mend
            warnings.simplefilter("ignore")
            one = Stepping(parameters, gradients, peer.make(parameters))
            one.ready()
            one()
    except Exception as error:  # whatever it is, the others go on
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"{f'{version} does not' if version else 'does not'} work here: {words[:100]}"
    return one


# torch's ------------------------------------------------------------------------------------------------------------


def _muon(parameters: Parameters) -> Callable[[], object]:
    """From torch 2.9 on; its coefficients and dtype are jordan5 and bfloat16."""
    return torch.optim.Muon(parameters, lr=LR, weight_decay=0.0, momentum=_BETA, nesterov=False).step


def _adamw(parameters: Parameters) -> Callable[[], object]:
    return torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0).step


# The textbook's -----------------------------------------------------------------------------------------------------


def textbook_polar(g: Tensor) -> Tensor:
    """jordan5 as it is usually written: a matrix at a time, every sum an operation of its own.

    Source: https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = _JORDAN
    x = g.to(torch.bfloat16)
    x = x.T if g.shape[0] > g.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def _textbook(parameters: Parameters) -> Callable[[], object]:
    """SignMuon of one worker, a parameter at a time."""
    momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step() -> None:
        for p, m in zip(parameters, momenta, strict=True):
            if p.grad is not None:
                m.mul_(_BETA).add_(p.grad, alpha=1 - _BETA)
                p.add_(torch.sign(textbook_polar(m)), alpha=-LR)

    return step


# Packages' ----------------------------------------------------------------------------------------------------------


def _package(name: str) -> Any:
    return import_module(name)


def _pytorch_optimizer(parameters: Parameters) -> Callable[[], object]:
    groups = [{"params": list(parameters), "use_muon": True}]
    return _package("pytorch_optimizer").Muon(groups, lr=LR, momentum=_BETA, nesterov=False).step


def _heavyball(parameters: Parameters) -> Callable[[], object]:
    return _package("heavyball").Muon(parameters, lr=LR, betas=(_BETA, 0.99), nesterov=False).step


def _muonium(parameters: Parameters) -> Callable[[], object]:
    """Its kernels are in triton, and it has no other path that a user can choose."""
    if parameters[0].device.type != "cuda":
        raise RuntimeError("its kernels are for CUDA alone")
    words = {"wd": 0.0, "momentum": _BETA, "nesterov": False, "orthogonalization_strategy": "newton_schulz"}
    return _package("muonium").Muon(list(parameters), lr=LR, **words).step


def _gram_newton_schulz(parameters: Parameters) -> Callable[[], object]:
    """Its kernels are for Hopper and later; elsewhere it has torch's products, in float16. The restart is its own."""
    words = {"momentum": _BETA, "nesterov": False, "gram_newton_schulz_restart_iterations": [2]}
    kernels = parameters[0].device.type == "cuda"
    muon = _package("gram_newton_schulz").Muon
    return muon(list(parameters), lr=LR, weight_decay=0.0, ns_use_kernels=kernels, **words).step


PEERS: tuple[Peer, ...] = (
    Peer("torch.optim.Muon", "", _muon),
    Peer("textbook SignMuon, a loop", "", _textbook),
    Peer("torch.optim.AdamW", "", _adamw),
    Peer("pytorch-optimizer's Muon", "pytorch-optimizer", _pytorch_optimizer),
    Peer("heavyball's Muon", "heavyball", _heavyball),
    Peer("muonium's Muon", "muonium", _muonium),
    Peer("gram-newton-schulz's Muon", "gram-newton-schulz", _gram_newton_schulz),
)
