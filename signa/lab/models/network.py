"""Image classifiers by name: what may stand under `train.task.model` of the task `images`."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ...rule import Registry, Rule

__all__ = ["Network", "networks"]


class Network(Rule):
    """The numbers of a classifier. Its last layer is called `head`, so that a spec can route it by name."""

    @abstractmethod
    def build(self, images: Tensor, classes: int) -> nn.Module:
        """A new network, drawn from torch's global generator, for normalised images like these of the training set.

        Shapes: images (n, channels, height, width) -> a module from such images to logits (n, classes).
        """


networks: Registry[Network] = Registry("network", Network)
