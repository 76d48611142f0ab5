"""From a preset's name, a Method or a spec to an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .errors import Problem, SpecError, a_or_an
from .finite import Policy
from .optim import SignA
from .plugin import load_plugins
from .routing import Model, Routing, torch_group
from .sentence import Method
from .spec import Spec, for_preset
from .transport import Transport
from .written import is_sentence, read_method


def build(
    spec: str | Path | Method | Mapping[str, Any] | Spec,
    model: Model,
    *,
    lr: float | None = None,
    transport: Transport | None = None,
    seed: int = 0,
    nonfinite: Policy = "abstain",
    capturable: bool = False,
    plugins: Iterable[str | Path] = (),
) -> SignA:
    """An optimizer for a model, from a preset's name, a sentence, a Method, a spec file, a mapping or a Spec.

    A preset's name (or a sentence, or a Method) routes nn.Embedding weights, tied weights and ``*embed*``, ``*head*``,
    ``*classifier*`` to AdamW (3e-4, no decay), everything else with two axes or more to the preset, and the rest to
    AdamW.

    A list of modules is one model in parts (a pipeline's stages), whose parameters' names are each other's strangers.
    With pairs in place of the model nobody knows which parameter belongs to an Embedding or is tied, nor which buffers
    there are: names alone decide.

    Args:
        lr: the preset's learning rate; only with a name, a sentence or a Method (a spec has its own).
        transport: ``Loopback(N)`` simulates N workers here, ``Group()`` is torch.distributed's ranks (build is
            collective then); none is one worker.
        seed: of the coins.
        nonfinite: what a worker's infinite or NaN gradient does: the worker ``abstain``s from this step (default), all
            ``skip`` it, or all ``raise``. ``ignore``: nobody looks, so that a step on a GPU never makes the host wait.
        capturable: whether a CUDA graph may hold a step (docs/gpu.md); ``group["lr"]`` is a tensor then.
        plugins: files of components that the spec may use; naming one runs it.

    Raises:
        SpecError, RoutingError, UnsupportedParameter: with what to write instead.

    >>> from torch import nn
    >>> opt = build("signmuon", nn.Linear(4, 2), lr=0.02)
    >>> opt.bits()
    Bits(up=7.2, down=7.2, round_trip=4.444444444444445)
    """
    loaded = _loaded(spec, lr, plugins, "signa.build(spec, model)")
    return SignA(model, loaded, transport=transport, seed=seed, nonfinite=nonfinite, capturable=capturable)


def param_groups(
    model: Model,
    spec: str | Path | Method | Mapping[str, Any] | Spec,
    *,
    lr: float | None = None,
    plugins: Iterable[str | Path] = (),
) -> list[dict[str, Any]]:
    """The spec's groups as ``torch.optim`` takes them, for an optimizer of one's own: who goes where, and how fast.

    Each group that has parameters is a dict of ``params``, ``name``, ``lr``, ``weight_decay`` and ``signa_names``, the
    parameters' names. What the spec says besides (the method, ``scaling``, ``matrix``) is up to that optimizer.

    Args:
        lr: as in :func:`build`.
        plugins: files of components that the spec may use; naming one runs it.

    Raises:
        SpecError, RoutingError, UnsupportedParameter: as :func:`build`.

    >>> from torch import nn, optim
    >>> matrices, rest = param_groups(nn.Linear(4, 2), "muon")
    >>> matrices["name"], matrices["signa_names"], rest["signa_names"]
    ('muon', ['weight'], ['bias'])
    >>> optimizers = optim.Muon([matrices]), optim.AdamW([rest])
    """
    loaded = _loaded(spec, lr, plugins, "signa.param_groups(model, spec)")
    return [torch_group(group, routes) for group, routes in Routing.of(loaded, model).filled()]


def _loaded(spec: Any, lr: float | None, plugins: Iterable[str | Path], call: str) -> Spec:
    """What a caller means by a spec, with the learning rate of a name, a sentence or a Method.

    Raises:
        SpecError: it is none, or has learning rates of its own.
    """
    if isinstance(spec, nn.Module):
        raise SpecError([Problem(f"{a_or_an(type(spec).__name__)} is a model and no spec", instead=f"write {call}")])
    plugins = list(plugins)
    load_plugins(plugins)
    if isinstance(spec, str) and is_sentence(spec):
        spec = read_method(spec)
    if lr is not None:
        named = isinstance(spec, Method) or (isinstance(spec, str) and not Path(spec).suffix)
        if not named:
            because = "a spec gives every group its own learning rate"
            raise SpecError(
                [Problem("lr does not go with a spec", because=because, instead="set groups.N.lr in the spec")]
            )
        spec = for_preset(spec, lr)
    return Spec.load(spec, plugins=plugins)


__all__ = ["build", "param_groups"]
