"""A multi-layer perceptron: 784-64-10 on MNIST."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from ...rule import Count
from .network import Network, networks

__all__ = ["Mlp"]


@networks.register
class Mlp(Network):
    """`head(relu(W x + b))`, with a hidden layer of each width; no width at all is softmax regression.

    >>> import torch
    >>> sum(p.numel() for p in Mlp(widths=(64,)).build(torch.zeros(1, 1, 28, 28), 10).parameters())
    50890
    """

    kind: Literal["mlp"] = "mlp"
    widths: Annotated[tuple[Count, ...], Field(strict=False)] = (64,)

    def build(self, images: Tensor, classes: int) -> nn.Module:
        """Layers `hidden0`, `hidden1`, ... and `head`, initialised as PyTorch does."""
        net = nn.Sequential()
        net.add_module("flatten", nn.Flatten())
        widths = [images[0].numel(), *self.widths]
        for i, (n, m) in enumerate(pairwise(widths)):
            net.add_module(f"hidden{i}", nn.Linear(n, m))
            net.add_module(f"relu{i}", nn.ReLU())
        net.add_module("head", nn.Linear(widths[-1], classes))
        return net
