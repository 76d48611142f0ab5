"""CNN2: two 5x5 convolutions and a hidden layer, the federated model of github intsystems/SignMuon."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...rule import Count
from .network import Network, networks

__all__ = ["Cnn2", "Cnn2Net"]


@networks.register
class Cnn2(Network):
    """conv 5x5 (kernels, padding 2), conv 5x5 (2 kernels), a hidden layer; each with BatchNorm and ReLU, max-pool 2.

    On CIFAR-10 with the default numbers conv1 is 64x75, conv2 128x1600 and fc1 120x4608: 762,560 entries in matrices,
    and 2,146 in biases, BatchNorm and the head.

    >>> import torch
    >>> net = Cnn2().build(torch.zeros(1, 3, 32, 32), 10)
    >>> sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1 and name != "head.weight")
    762560
    """

    kind: Literal["cnn2"] = "cnn2"
    kernels: Count = 64
    hidden: Count = 120

    def build(self, images: Tensor, classes: int) -> nn.Module:
        """Initialised as PyTorch does."""
        _, channels, height, width = images.shape
        return Cnn2Net(channels, (height, width), self.kernels, self.hidden, classes)


class Cnn2Net(nn.Module):
    """The network itself.

    Shapes: (n, channels, height, width) -> (n, classes).
    """

    def __init__(self, channels: int, size: tuple[int, int], kernels: int, hidden: int, classes: int) -> None:
        super().__init__()
        area = ((size[0] // 2 - 4) // 2) * ((size[1] // 2 - 4) // 2)  # only the first convolution is padded
        self.conv1 = nn.Conv2d(channels, kernels, 5, padding=2)
        self.conv2 = nn.Conv2d(kernels, 2 * kernels, 5)
        self.fc1 = nn.Linear(2 * kernels * area, hidden)
        self.head = nn.Linear(hidden, classes)
        self.norm1, self.norm2, self.norm3 = (
            nn.BatchNorm2d(kernels),
            nn.BatchNorm2d(2 * kernels),
            nn.BatchNorm1d(hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.relu(self.norm3(self.fc1(x.flatten(1))))
        logits: Tensor = self.head(x)
        return logits
