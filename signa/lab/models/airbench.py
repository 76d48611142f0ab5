"""A network in the style of airbench94: made to reach 94 % on CIFAR-10 in seconds (arXiv 2404.00498)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...rule import Count
from .network import Network, networks

__all__ = ["Airbench", "AirbenchNet", "ConvGroup", "whitening"]

# All four as in github KellerJordan/cifar10-airbench.
PATCH = 2
EPS = 5e-4  # added to the eigenvalues, so that directions without variance stay finite
BATCH_NORM = {"momentum": 0.4, "eps": 1e-12}  # PyTorch's momentum is the weight of the new value: 1 - 0.6
SAMPLE = 5000  # images that the whitening is computed from


@networks.register
class Airbench(Network):
    """Whitened 2x2 patches, frozen; three groups of two 3x3 convolutions; a head on the maximum over 3x3.

    `width` is that of the first group, the other two are four times as wide. The published one has 64.

    Source: arXiv 2404.00498, section 3 (architecture, whitening, identity initialisation, scaled head).
    """

    kind: Literal["airbench"] = "airbench"
    width: Count = 64

    def build(self, images: Tensor, classes: int) -> nn.Module:
        """Draw the weights; the first layer is computed from the images."""
        return AirbenchNet(images[:SAMPLE], self.width, classes)


class ConvGroup(nn.Module):
    """`gelu(norm(conv(gelu(norm(pool(conv x))))))`, convolutions 3x3, max-pool 2."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inside, outside), _norm(outside)
        self.conv2, self.norm2 = _conv(outside, outside), _norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the group."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class AirbenchNet(nn.Module):
    """The network itself.

    Shapes: (n, channels, height, width) with 30 <= height, width <= 48 -> (n, classes).
    """

    def __init__(self, images: Tensor, width: int, classes: int) -> None:
        super().__init__()
        filters = whitening(images)
        self.whiten = nn.Conv2d(images.shape[1], len(filters), PATCH)
        self.whiten.weight = nn.Parameter(filters, requires_grad=False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        widths = [len(filters), width, 4 * width, 4 * width]
        self.groups = nn.Sequential(*(ConvGroup(n, m) for n, m in pairwise(widths)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, x: Tensor) -> Tensor:
        """The logits, over the number of features."""
        x = self.groups(F.gelu(self.whiten(x)))
        x = F.max_pool2d(x, 3).flatten(1)
        logits: Tensor = self.head(x)
        return logits / x.shape[1]


def whitening(images: Tensor) -> Tensor:
    """Filters `v / sqrt(lambda + eps)` for the eigenvectors v of the patches' covariance, and their negatives.

    Their outputs are uncorrelated and of variance one, which is what makes the next layer quick to train.

    Shapes: (n, channels, height, width) -> (2 channels 4, channels, 2, 2).
    Source: arXiv 2404.00498, section 3.2.
    """
    channels, size = images.shape[1], images.shape[1] * PATCH**2
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
    for some in images.cpu().split(500):  # the patches are four times as large as the images
        patches = F.unfold(some.double(), PATCH).transpose(1, 2).flatten(0, 1)  # (n positions, channels 4)
        total, count = total + patches.T @ patches, count + len(patches)
    values, vectors = torch.linalg.eigh(total / count)
    filters = (vectors / (values + EPS).sqrt()).T.flip(0)  # the largest eigenvalue first
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    filters = (filters * largest.sign()).reshape(-1, channels, PATCH, PATCH)  # an eigenvector's sign is arbitrary
    return torch.cat((filters, -filters)).to(images.dtype)


def _conv(inside: int, outside: int) -> nn.Conv2d:
    """Without bias; the first `inside` filters pass their channel on as it is, the others start as PyTorch's."""
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inside])
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    """A learned shift and no learned scale."""
    norm = nn.BatchNorm2d(width, eps=BATCH_NORM["eps"], momentum=BATCH_NORM["momentum"])
    norm.weight.requires_grad_(False)
    return norm
