"""The Hugging Face Trainer: an optimizer that the Trainer makes itself, of its own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..building import build
from ..optim import SignA
from ..sentence import Method
from ..spec import Spec

__all__ = ["optimizer_cls_and_kwargs"]


def optimizer_cls_and_kwargs(
    spec: str | Path | Method | Mapping[str, Any] | Spec, **options: Any
) -> tuple[Callable[[], Callable[..., SignA]], dict[str, Any]]:
    """``Trainer(..., optimizer_cls_and_kwargs=optimizer_cls_and_kwargs("signmuon", lr=0.02))``.

    For a Trainer with a ``model_init``, where there is no model yet to build for; with one, ``Trainer(optimizers=
    (signa.build(spec, model), None))`` does as well. ``options`` are :func:`signa.build`'s.

    The spec has the learning rates and weight decays: ``learning_rate`` and ``weight_decay`` of the TrainingArguments
    are not read, its schedule scales each group's own rate.

    >>> factory, options = optimizer_cls_and_kwargs("signmuon", lr=0.02)
    >>> opt = factory()(nn.Linear(4, 2), **options)
    >>> opt.param_groups[0]["lr"]
    0.02
    """
    return _factory, {"spec": spec, **options}


def _factory() -> Callable[..., SignA]:
    """What the Trainer calls without arguments, for what it then calls with the model: its protocol for factories."""

    def made(model: nn.Module, *, spec: Any, **options: Any) -> SignA:
        return build(spec, model, **options)

    return made
