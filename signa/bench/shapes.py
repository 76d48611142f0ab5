"""What is timed: the matrices of a few models, as a Muon-like method sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from ..planner.models import of_text
from ..routing import Routing
from ..spec import for_preset

__all__ = ["SHAPES", "Shapes", "shapes"]


@dataclass(frozen=True)
class Shapes:
    """So many matrices of each shape (m, n); ``whole`` is the entries of all those that they stand for."""

    name: str
    about: str
    matrices: Mapping[tuple[int, int], int]
    whole: int

    @property
    def entries(self) -> int:
        """Of what is timed."""
        return _entries(self.matrices)

    @property
    def every(self) -> list[tuple[int, int]]:
        """The shape of each matrix."""
        return [shape for shape, count in self.matrices.items() for _ in range(count)]

    def __str__(self) -> str:
        """As a heading."""
        found = ", ".join(f"{m}x{n}" + (f"*{count}" if count > 1 else "") for (m, n), count in self.matrices.items())
        share = f", a sample of {self.whole:,}" if self.whole != self.entries else ""
        return f"{self.name}: {self.about} ({found if len(found) < 70 else f'{len(self.every)} matrices'}; " + (
            f"{self.entries:,} entries{share})"
        )


def _entries(matrices: Mapping[tuple[int, int], int]) -> int:
    return sum(prod(shape) * count for shape, count in matrices.items())


def _matrices(text: str) -> dict[tuple[int, int], int]:
    """What the preset ``muon`` takes of a model; a convolution is its kernel as one matrix."""
    spec = for_preset("muon")
    found: Counter[tuple[int, int]] = Counter()
    for route in Routing.of(spec, of_text(text)):
        if spec.groups[route.group].name == "muon":
            found[route.layout.m, route.layout.n] += route.layout.count
    return dict(found)


def _sampled(matrices: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """One of each shape; a matrix and its transpose are one shape, for both are iterated on the smaller side."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for m, n in matrices:
        found.setdefault((min(m, n), max(m, n)), (m, n))
    return dict.fromkeys(found.values(), 1)


def _all(name: str, about: str, text: str) -> Shapes:
    matrices = _matrices(text)
    return Shapes(name, about, matrices, _entries(matrices))


def _sample(name: str, about: str, text: str) -> Shapes:
    matrices = _matrices(text)
    return Shapes(name, about, _sampled(matrices), _entries(matrices))


#: nanoGPT's character model (config/train_shakespeare_char.py): 6 layers, width 384. And one layer of it.
_GPT384 = "1152x384*6,384x384*6,1536x384*6,384x1536*6"
_LAYER384 = _GPT384.replace("*6", "")

SHAPES: dict[str, Callable[[], Shapes]] = {
    "16x16*256": lambda: _all("16x16*256", "256 tiny matrices", "16x16*256"),
    "64x64*96": lambda: _all("64x64*96", "96 small matrices", "64x64*96"),
    "layer-384": lambda: _all("layer-384", "a layer of gpt-6x384", _LAYER384),
    "gpt-6x384": lambda: _all("gpt-6x384", "a GPT of 6 layers, width 384", _GPT384),
    "resnet18": lambda: _all("resnet18", "ResNet-18's kernels as matrices", "resnet18"),
    "gpt2": lambda: _all("gpt2", "GPT-2 124M's matrices", "gpt2"),
    "1b": lambda: _sample("1b", "one of each shape of TinyLlama 1.1B", "tinyllama"),
    "7b": lambda: _sample("7b", "one of each shape of LLaMA 7B", "llama7b"),
}


def shapes(text: str) -> Shapes:
    """A set by its name, or whatever ``signa plan --model`` takes: ``512x512*31``, a model, a file of shapes.

    Raises:
        SpecError: it is none of these. RoutingError: there is no matrix in it.

    >>> print(shapes("64x64*96"))
    64x64*96: 96 small matrices (64x64*96; 393,216 entries)
    >>> print(shapes("7b"))
    7b: one of each shape of LLaMA 7B (4096x4096, 11008x4096; 61,865,984 entries, a sample of 6,476,005,376)
    """
    return SHAPES[text]() if text in SHAPES else _all(text, "as given", text)
