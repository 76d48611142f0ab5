"""Which images each worker holds: rules of the labels, the number of workers and a seed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np

from ...errors import Fault
from ...rule import Count, Positive, Registry, Rule

__all__ = ["Dirichlet", "Iid", "Pathological", "Shared", "Split", "splits"]

ATTEMPTS = 1000


class Split(Rule):
    """A rule that hands out the images."""

    @abstractmethod
    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """The rows of each worker, each in ascending order.

        Raises:
            Fault: the rule cannot be followed with so many images and workers.
        """


splits: Registry[Split] = Registry("split", Split)


@splits.register
class Iid(Split):
    """A random permutation in `workers` parts whose sizes differ by at most one.

    >>> [len(rows) for rows in Iid()(np.zeros(10), 3, 0)]
    [4, 3, 3]
    """

    kind: Literal["iid"] = "iid"

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """Disjoint parts of everything."""
        _enough(len(labels), workers)
        parts = np.array_split(np.random.default_rng(seed).permutation(len(labels)), workers)
        return [np.sort(part) for part in parts]


@splits.register
class Shared(Split):
    """Every worker draws from all images: data-parallel training.

    >>> [len(rows) for rows in Shared()(np.zeros(10), 3, 0)]
    [10, 10, 10]
    """

    kind: Literal["shared"] = "shared"

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """Everything, for everyone."""
        _enough(len(labels), 1)
        return [np.arange(len(labels))] * workers


@splits.register
class Dirichlet(Split):
    """Each class is cut by proportions ~ Dir(alpha, ..., alpha), drawn anew until everyone has `minimum` images.

    The smaller alpha, the fewer classes a worker sees. A worker that has its fair share of images already takes no part
    in the cutting of further classes, which keeps the sizes alike.

    Source: arXiv 2102.02079, section IV-A (NIID-Bench, `noniid-labeldir`).

    >>> labels = np.arange(1000) % 10
    >>> sizes = [len(rows) for rows in Dirichlet(alpha=0.5)(labels, 5, 0)]
    >>> sum(sizes), min(sizes) >= 10
    (1000, True)
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Positive = 0.5
    minimum: Count = 10

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """Disjoint parts of everything."""
        _enough(len(labels), workers * self.minimum)
        rng = np.random.default_rng(seed)
        for _ in range(ATTEMPTS):
            parts = self._attempt(labels, workers, rng)
            if min(map(len, parts)) >= self.minimum:
                return [np.sort(part) for part in parts]
        raise Fault(
            f"no split of {len(labels)} images over {workers} workers gave everyone {self.minimum}",
            because=f"{ATTEMPTS} draws with alpha = {self.alpha} were tried",
            instead="write a larger alpha, a smaller minimum, or fewer workers",
        )

    def _attempt(self, labels: np.ndarray, workers: int, rng: np.random.Generator) -> list[np.ndarray]:
        parts: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * workers
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            wants = np.array([len(part) < len(labels) / workers for part in parts])
            share = np.zeros(workers)
            share[wants] = rng.dirichlet(np.full(wants.sum(), self.alpha))  # what Dir of all is, given the others' 0
            cuts = (np.cumsum(share) * len(rows)).round().astype(np.int64)[:-1]
            parts = [np.concatenate(both) for both in zip(parts, np.split(rows, cuts))]
        return parts


@splits.register
class Pathological(Split):
    """The images sorted by label are cut into `workers * shards` shards, and each worker gets `shards` of them.

    So most workers see at most `shards` classes. Source: arXiv 1602.05629, section 3 (McMahan et al.), with 2 shards.

    >>> labels = np.arange(1000) % 10
    >>> max(len(np.unique(labels[rows])) for rows in Pathological()(labels, 5, 0))
    2
    """

    kind: Literal["pathological"] = "pathological"
    shards: Count = 2

    def __call__(self, labels: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
        """Disjoint parts of everything."""
        _enough(len(labels), workers * self.shards)
        rng = np.random.default_rng(seed)
        mixed = rng.permutation(len(labels))
        shards = np.array_split(mixed[np.argsort(labels[mixed], kind="stable")], workers * self.shards)
        order = rng.permutation(len(shards)).reshape(workers, self.shards)
        return [np.sort(np.concatenate([shards[i] for i in own])) for own in order]


def _enough(images: int, needed: int) -> None:
    if images < needed:
        raise Fault(
            f"{images} images are too few for this split",
            because=f"it needs {needed}",
            instead="use more images, or fewer workers",
        )
