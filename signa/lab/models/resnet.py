"""Residual networks for small pictures: a 3x3 stem and no pooling before the stages (arXiv 1512.03385)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...rule import Count, Fraction
from .network import Network, networks

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "ResNet18", "ResNet50"]


class BasicBlock(nn.Module):
    """`relu(x + norm(conv3x3(relu(norm(conv3x3 x)))))`; x passes a 1x1 convolution where the shape changes."""

    growth: ClassVar[int] = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inside, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.skip = _skip(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(y)))


class Bottleneck(nn.Module):
    """As `BasicBlock`, with convolutions 1x1, 3x3 and 1x1, the last of four times the width."""

    growth: ClassVar[int] = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = width * self.growth
        self.conv1, self.norm1 = _conv(inside, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = _conv(width, outside, 1), nn.BatchNorm2d(outside)
        self.skip = _skip(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.skip(x) + self.norm3(self.conv3(y)))


class ResNet(nn.Module):
    """A stem, four stages of blocks that double the width and halve the picture, the mean over it, and the head.

    Shapes: (n, channels, height, width) -> (n, classes).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        *,
        channels: int,
        width: int,
        dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv, self.norm = _conv(channels, width, 3), nn.BatchNorm2d(width)
        inside, stages = width, []
        for stage, depth in enumerate(depths):
            own = width << stage
            blocks = nn.Sequential()
            for i in range(depth):
                blocks.append(block(inside, own, stride=2 if stage and i == 0 else 1))
                inside = own * block.growth
            stages.append(blocks)
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = self.stages(F.relu(self.norm(self.conv(x)))).mean((-2, -1))
        logits: Tensor = self.head(self.dropout(x))
        return logits


class _Residual(Network):
    """What both are built from."""

    block: ClassVar[type[BasicBlock] | type[Bottleneck]]
    depths: ClassVar[tuple[int, ...]]
    width: Count = 64
    dropout: Fraction = 0.0

    def build(self, images: Tensor, classes: int) -> nn.Module:
        """Initialised as PyTorch does."""
        channels = images.shape[1]
        return ResNet(
            self.block, self.depths, channels=channels, width=self.width, dropout=self.dropout, classes=classes
        )


@networks.register
class ResNet18(_Residual):
    """ResNet-18: two `BasicBlock`s a stage, widths 64 to 512, dropout before the head.

    11,159,232 entries in 20 convolutions, 14,730 in BatchNorm and the head.
    """

    kind: Literal["resnet18"] = "resnet18"
    block = BasicBlock
    depths = (2, 2, 2, 2)
    dropout: Fraction = 0.1


@networks.register
class ResNet50(_Residual):
    """ResNet-50: `Bottleneck`s, 3, 4, 6 and 3 a stage, inner widths 64 to 512, outer ones four times as wide."""

    kind: Literal["resnet50"] = "resnet50"
    block = Bottleneck
    depths = (3, 4, 6, 3)


def _conv(inside: int, outside: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)


def _skip(inside: int, outside: int, stride: int) -> nn.Module:
    if inside == outside and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))
