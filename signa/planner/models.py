"""Models as names and shapes: parameters without storage, which route as real ones do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..lab.refusal import refusal
from ..routing import Named, named_parameters
from ..sources import read

__all__ = ["MODELS", "bodiless", "of_module", "of_shapes", "of_text"]

#: More entries than anybody has trained at once, and more matrices than layers have: arithmetic on them stays exact and
#: a typing error is told, not tried.
_MOST_ENTRIES, _MOST_COPIES = 10**14, 100_000
_SHAPE = re.compile(r"([0-9]{1,15}(?:x[0-9]{1,15}){0,15})(?:\*([0-9]{1,9}))?")
Shape = tuple[int, ...]
Entry = tuple[str, Shape, str]
"""A parameter's name, its shape, and the class of the module that it belongs to."""


def bodiless(shape: Shape, dtype: torch.dtype = torch.float32, *, requires_grad: bool = True) -> nn.Parameter:
    """A parameter of any shape that takes the memory of one number: all its entries are the same one.

    >>> bodiless((1 << 20, 1 << 20)).untyped_storage().nbytes()
    4
    """
    return nn.Parameter(torch.zeros((), dtype=dtype).expand(shape), requires_grad=requires_grad)


def of_module(model: nn.Module | Iterable[tuple[str, Tensor]]) -> list[Named]:
    """A model's parameters, without what they hold; a model on the meta device will do."""
    return [
        Named(
            named.name,
            bodiless(tuple(p.shape), p.dtype, requires_grad=p.requires_grad) if p.is_floating_point() else p,
            named.module,
            named.tied,
        )
        for named in named_parameters(model)
        for p in (named.parameter,)
    ]


def of_shapes(shapes: Mapping[str, Shape]) -> list[Named]:
    """Parameters of these names and shapes, of whom nobody knows which module they belong to."""
    return [Named(name, bodiless(tuple(shape))) for name, shape in shapes.items()]


def of_text(text: str) -> list[Named]:
    """A model by its name, a file of shapes, or shapes: ``512x512*31,512``.

    A file (YAML, JSON or TOML) is a mapping of names to such texts or to lists of lengths; a ``*`` in a name stands for
    the number of the copy.

    Raises:
        SpecError: it is none of these.

    >>> [(one.name, tuple(one.parameter.shape)) for one in of_text("8x4*2,4")]
    [('p0.0', (8, 4)), ('p0.1', (8, 4)), ('p1', (4,))]
    """
    if text in MODELS:
        named = [
            Named(name, bodiless(shape), frozenset({module, "Module"} if module else ()))
            for name, shape, module in MODELS[text]()
        ]
    elif Path(text).suffix in (".yaml", ".yml", ".json", ".toml"):
        data = read(Path(text))[0]
        if not isinstance(data, dict) or not data:
            raise refusal(f"{text} holds no shapes", because="it must be a mapping of parameter names to shapes")
        named = [one for name, value in data.items() for one in _copies(str(name), *_shape(value, f"{text}: {name}"))]
    elif re.match(r"\s*\d", text):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        named = [one for at, part in enumerate(parts) for one in _copies(f"p{at}", *_shape(part, "--model"))]
    else:
        raise refusal(
            f"'{text}' is no model",
            address="--model",
            because=f"it is none of {', '.join(MODELS)}, no file of shapes and no shapes",
            instead="write one of these names, shapes.yaml, 512x512*31, or MODULE:FUNCTION",
        )
    return named


def _shape(value: Any, where: str) -> tuple[Shape, int]:
    """A shape, and how many of it."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    match = _SHAPE.fullmatch(text.replace(" ", "").lower())
    lengths = tuple(map(int, match[1].split("x"))) if match else ()
    if not match or not 0 < prod(lengths) <= _MOST_ENTRIES or not 0 < int(match[2] or 1) <= _MOST_COPIES:
        raise refusal(
            f"'{text}' is no shape",
            address=where,
            because="a shape is lengths with an x between them, and *COUNT where there are several of it, up to "
            f"{_MOST_ENTRIES:,} entries and {_MOST_COPIES:,} copies",
            instead="write 512x512*31",
        )
    return lengths, int(match[2] or 1)


def _copies(name: str, shape: Shape, copies: int) -> list[Named]:
    if copies == 1 and "*" not in name:
        return [Named(name, bodiless(shape))]
    pattern = name if "*" in name else f"{name}.*"
    return [Named(pattern.replace("*", str(i)), bodiless(shape)) for i in range(copies)]


# The models that have a name --------------------------------------------------------------------------------------


def _linear(name: str, out: int, inside: int) -> list[Entry]:
    return [(f"{name}.weight", (out, inside), "Linear"), (f"{name}.bias", (out,), "Linear")]


def _gpt2(layers: int, d: int) -> Iterator[Entry]:
    """Radford et al. 2019, table 2, as released: learned positions, biases, a head tied to the embedding."""
    yield "embed.tokens.weight", (50_257, d), "Embedding"
    yield "embed.positions.weight", (1024, d), "Embedding"
    for i in range(layers):
        for name, out, inside in (
            ("attention.qkv", 3 * d, d),
            ("attention.proj", d, d),
            ("mlp.fc", 4 * d, d),
            ("mlp.out", d, 4 * d),
        ):
            yield from _linear(f"blocks.{i}.{name}", out, inside)
        for name in ("norm1", "norm2"):
            yield from ((f"blocks.{i}.{name}.{part}", (d,), "LayerNorm") for part in ("weight", "bias"))
    yield from ((f"norm.{part}", (d,), "LayerNorm") for part in ("weight", "bias"))


def _llama(layers: int, d: int, inner: int, shared: int) -> Iterator[Entry]:
    """arXiv 2302.13971, table 2 (7B); arXiv 2307.09288, table 1 (70B, whose k and v have ``shared`` rows); TinyLlama:
    arXiv 2401.02385, table 2."""
    yield "embed.tokens.weight", (32_000, d), "Embedding"
    for i in range(layers):
        for name, out, inside in (
            ("attention.q", d, d),
            ("attention.k", shared, d),
            ("attention.v", shared, d),
            ("attention.out", d, d),
            ("mlp.gate", inner, d),
            ("mlp.up", inner, d),
            ("mlp.down", d, inner),
        ):
            yield f"blocks.{i}.{name}.weight", (out, inside), "Linear"
        yield from ((f"blocks.{i}.{name}.weight", (d,), "RMSNorm") for name in ("norm1", "norm2"))
    yield "norm.weight", (d,), "RMSNorm"
    yield "head.weight", (32_000, d), "Linear"


def _resnet(depths: tuple[int, ...], growth: int) -> Iterator[Entry]:
    """arXiv 1512.03385, table 1: 7x7 stem, 1,000 classes; ``growth`` 4 for bottlenecks, 1 for basic blocks."""

    def conv(name: str, out: int, inside: int, size: int) -> Iterator[Entry]:
        yield f"{name}.weight", (out, inside, size, size), "Conv2d"
        yield from ((f"{name}_norm.{part}", (out,), "BatchNorm2d") for part in ("weight", "bias"))

    yield from conv("conv", 64, 3, 7)
    inside = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        plain = [(width, 3), (width, 3)] if growth == 1 else [(width, 1), (width, 3), (width * growth, 1)]
        for block in range(depth):
            here, at = f"stages.{stage}.{block}", inside
            for number, (out, size) in enumerate(plain):
                yield from conv(f"{here}.conv{number}", out, at, size)
                at = out
            if block == 0 and inside != width * growth:
                yield from conv(f"{here}.skip", width * growth, inside, 1)
            inside = width * growth
    yield from _linear("head", 1000, inside)


MODELS: dict[str, Callable[[], Iterable[Entry]]] = {
    "gpt2": lambda: _gpt2(12, 768),
    "gpt2-medium": lambda: _gpt2(24, 1024),
    "gpt2-large": lambda: _gpt2(36, 1280),
    "gpt2-xl": lambda: _gpt2(48, 1600),
    "tinyllama": lambda: _llama(22, 2048, 5632, 256),
    "llama7b": lambda: _llama(32, 4096, 11_008, 4096),
    "llama70b": lambda: _llama(80, 8192, 28_672, 1024),
    "resnet18": lambda: _resnet((2, 2, 2, 2), 1),
    "resnet50": lambda: _resnet((3, 4, 6, 3), 4),
}
