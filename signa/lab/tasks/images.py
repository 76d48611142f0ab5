"""Images: MNIST, Fashion-MNIST or CIFAR-10, split over the workers."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import Fault
from ...rule import Flag, Fraction
from ...transport.digest import digest
from ..datasets import READERS, Dataset, Iid, Images, Split, splits
from ..models import Cnn2, Network, networks
from ..refusal import refusal
from .base import Goal, Task, TaskConfig, seed_of, seeded, tasks

__all__ = ["ImageClassification", "ImageTask", "Stream", "held_out", "shifted"]

HOLDOUT_SEED = 12345  # github intsystems/SignMuon: the first 5,000 of this permutation validate

Whole = Annotated[int, Field(strict=True, ge=0)]


@tasks.register
class ImageClassification(TaskConfig):
    """A classifier of small pictures, each worker with its own part of the training set.

    Args:
        data: the data set.
        model: the network, a name or a mapping with its numbers.
        holdout: how many training images validate instead, the same ones whatever the seed; with 0 the test set does.
        subset: train on the first so many of the rest, in the official order; 0 takes all.
        split: which images each worker holds.
        flip: mirror half of the training images, drawn anew for each batch.
        crop: shift training images by up to so many pixels either way, zeros coming in.
        label_smoothing: how much of the target is spread over all classes.
        batch_norm: ``live`` normalises training batches by their own statistics; ``frozen`` keeps mean 0 and variance
            1 for ever, in training and evaluation, so that a worker has no statistics to tell anybody.
        mirror: evaluate the mean of the logits of a picture and its mirror image.

    Why frozen: statistics of workers that hold different images disagree (arXiv 1910.00189, section 5).
    """

    kind: Literal["images"] = "images"
    data: Literal["mnist", "fashion_mnist", "cifar10"] = "cifar10"
    model: Annotated[Network, networks] = Cnn2()
    holdout: Whole = 5000
    subset: Whole = 0
    split: Annotated[Split, splits] = Iid()
    flip: Flag = False
    crop: Whole = 0
    label_smoothing: Fraction = 0.0
    batch_norm: Literal["live", "frozen"] = "live"
    mirror: Flag = False

    @model_validator(mode="after")
    def _small_shifts(self) -> ImageClassification:
        if self.crop > 14:
            raise Fault(f"crop {self.crop} moves half of a picture out of sight", instead="write crop: 4")
        return self

    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        """Read the data set onto the device and hand it out."""
        return ImageTask(self, READERS[self.data](), workers=workers, batch=batch, seed=seed, device=device)


class ImageTask(Task):
    """The images on a device."""

    def __init__(
        self,
        config: ImageClassification,
        data: Dataset,
        *,
        workers: int,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.data, self.seed, self.device, self.examples = config, data, seed, device, batch
        val, train = held_out(len(data.train), config.holdout, config.subset)
        self.train = data.train.take(train).to(device)
        self.tests = {"val": lambda: data.train.take(val), **data.tests} if config.holdout else dict(data.tests)
        self.first, *_ = self.tests
        self.goal = Goal(f"{self.first}_accuracy", "max")
        self._loaded: dict[str, Images] = {}
        try:
            parts = config.split(self.train.labels.cpu().numpy(), workers, seed_of(seed, "split"))
        except Fault as fault:
            raise refusal(
                fault.what, address="train.task.split", because=fault.because, instead=fault.instead
            ) from None
        self.streams = [Stream(rows, seed_of(seed, "worker", j)) for j, rows in enumerate(parts)]
        self.mean, self.std = (
            torch.tensor(values, device=device).mul(255)[:, None, None] for values in (data.mean, data.std)
        )

    def model(self) -> nn.Module:
        """The network; one that looks at images while it is built sees the first 5,000 of the training set."""
        return self.config.model.build(self._normalised(self.train.pixels[:5000]), self.data.classes).to(self.device)

    def loss(self, model: nn.Module, worker: int, draw: int) -> Tensor:
        """Cross-entropy on `batch` images of this worker's; dropout is a function of seed, worker and draw as well."""
        rows = self.streams[worker].rows(draw, self.examples).to(self.device)
        pixels, labels = self.train.pixels[rows], self.train.labels[rows]
        seed = seed_of(self.seed, "worker", worker, "draw", draw)
        generator = torch.Generator().manual_seed(seed)
        if self.config.flip or self.config.crop:
            pixels = shifted(pixels, self.config.crop, generator, flip=self.config.flip)
        model.train()
        if self.config.batch_norm == "frozen":
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        with seeded(seed, self.device):
            logits = model(self._normalised(pixels))
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)

    def evaluate(self, model: nn.Module, *, whole: bool) -> dict[str, float]:
        """`NAME_loss` and `NAME_accuracy` on the images held out, else the first test set; `whole`: on every set."""
        found: dict[str, float] = {}
        model.eval()
        for name in self.tests if whole else [self.first]:
            loss, accuracy = self._measure(model, self._set(name))
            found |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        return found

    def fingerprint(self) -> str:
        """Of the training images and their labels."""
        return "-".join(f"{int(digest(x)) % 2**64:016x}" for x in (self.train.pixels, self.train.labels))

    def weights(self) -> list[float]:
        """How many images each worker holds (arXiv 1602.05629, equation 1)."""
        return [float(stream.size) for stream in self.streams]

    @torch.no_grad()
    def _measure(self, model: nn.Module, images: Images) -> tuple[float, float]:
        loss, right = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for pixels, labels in zip(images.pixels.split(1000), images.labels.split(1000)):
            x = self._normalised(pixels)
            logits = model(x).float()
            if self.config.mirror:
                logits = (logits + model(x.flip(-1)).float()) / 2
            loss += F.cross_entropy(logits, labels, reduction="sum").cpu().double()
            right += (logits.argmax(1) == labels).sum().cpu()
        return float(loss / len(images)), int(right) / len(images)

    def _set(self, name: str) -> Images:
        if name not in self._loaded:
            self._loaded[name] = self.tests[name]().to(self.device)
        return self._loaded[name]

    def _normalised(self, pixels: Tensor) -> Tensor:
        return pixels.float().sub_(self.mean).div_(self.std)


class Stream:
    """The order in which a worker meets its images: one permutation after the other, each of all its images.

    A batch may end one permutation and begin the next, so every batch is full. A resume needs nothing that is kept.

    >>> stream = Stream(np.array([5, 6, 7]), seed=0)
    >>> sorted(torch.cat([stream.rows(draw, 2) for draw in range(3)]).tolist())
    [5, 5, 6, 6, 7, 7]
    """

    def __init__(self, rows: np.ndarray, seed: int) -> None:
        self.own, self.seed, self.size = torch.from_numpy(rows), seed, len(rows)
        self._epoch, self._order = -1, self.own

    def rows(self, draw: int, batch: int) -> Tensor:
        """The rows of batch number ``draw`` = 0, 1, ..."""
        at, end, parts = draw * batch, (draw + 1) * batch, []
        while at < end:
            epoch, begin = divmod(at, self.size)
            stop = min(self.size, begin + end - at)
            parts.append(self._permuted(epoch)[begin:stop])
            at += stop - begin
        return torch.cat(parts)

    def _permuted(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self._epoch, self._order = epoch, self.own[torch.randperm(self.size, generator=generator)]
        return self._order


def held_out(images: int, holdout: int, subset: int) -> tuple[Tensor, Tensor]:
    """Which images validate, and which of the others train, those in the official order.

    Raises:
        SpecError: there are not that many.
    """
    if holdout >= images or subset > images - holdout:
        raise refusal(
            f"holdout {holdout} and subset {subset} ask for more than {images} images",
            address="train.task.subset" if subset else "train.task.holdout",
            instead=f"write subset: {images - holdout}" if holdout < images else "write holdout: 5000",
        )
    order = np.random.default_rng(HOLDOUT_SEED).permutation(images)
    rest = np.sort(order[holdout:])[: subset or None]
    return torch.from_numpy(order[:holdout]), torch.from_numpy(rest)


def shifted(pixels: Tensor, crop: int, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Each picture moved by up to `crop` pixels along both axes, and with `flip` half of them mirrored first.

    Shapes: (n, channels, height, width) -> the same; what comes in from outside is 0.
    Source: arXiv 1512.03385, section 4.2 (padding by 4 and random crops).
    """
    n, channels, height, width = pixels.shape
    offset = torch.randint(2 * crop + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < (0.5 if flip else 0.0)
    columns = torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    row, column = (offset[0] + torch.arange(height)).to(pixels.device), (offset[1] + columns).to(pixels.device)
    padded = F.pad(pixels, (crop,) * 4)
    image, channel = (torch.arange(count, device=pixels.device) for count in (n, channels))
    return padded[image[:, None, None, None], channel[:, None, None], row[:, None, :, None], column[:, None, None, :]]
