"""Reading a checkpoint: everything is verified and agreed on before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, a_or_an
from ..optim import SignA
from ..rule import closest
from ..saving import differences, export_layout, import_state, spec_differences
from .archive import Archive, locate
from .files import SHARED
from .plain import cuda_devices, plain, restore_random
from .redistribute import Policy, Saved, worker_state
from .save import check_arguments, check_model, model_state
from .world import World

WorldChange = Literal["error", "mean", "reset", "remap"]


def load_checkpoint(
    directory: str | os.PathLike[str],
    model: nn.Module,
    opt: SignA,
    *,
    on_world_change: WorldChange = "error",
    **extra: Any,
) -> dict[str, Any]:
    """Restore the model, the optimizer, the random generators and the extras. Collective under ``Group``.

    Hashes, format, parameters and spec are checked, on every rank, before anything is written; nothing in a file is
    run. Workers are found by their number and the server's state goes to whoever owns it now, so the same N workers
    may come back on another number of ranks, or in ``Loopback(N)``, and go on bit for bit.

    Random states and extras are a rank's own: with another number of ranks, rank r takes rank r's, and rank 0's where
    there was no such rank. Gradients are dropped.

    Args:
        directory: a checkpoint, or a folder of several: its newest complete one.
        on_world_change: what becomes of the workers' state where N differs: ``error``; ``mean``, every worker gets the
            mean of the old ones' (added in worker order); ``reset``, it starts anew; ``remap``, worker j gets the old
            worker j mod N's. What receivers keep of senders follows (EF21: H = mean of the h).
        extra: an object with ``load_state_dict()`` for every one that was saved with a ``state_dict()``, by the same
            name; None leaves it aside.

    Returns:
        ``step``, and the extras that were saved as plain data.

    Raises:
        CheckpointError: there is none, it is damaged, or of another run; all that differs, by rank, on every rank.
            Nothing is written then. ValueError: no such policy.

    >>> import signa, tempfile
    >>> model = nn.Linear(4, 2)
    >>> opt = signa.build("signmuon", model)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = signa.save_checkpoint(folder, model, opt, epoch=3)
    ...     signa.load_checkpoint(folder, model, opt)
    {'step': 0, 'epoch': 3}
    """
    if on_world_change not in get_args(WorldChange):
        raise ValueError(f"on_world_change must be one of {', '.join(get_args(WorldChange))}: {on_world_change!r}")
    check_arguments(model, opt)
    folder = Path(directory)
    world = World(opt.transport, "load_checkpoint", f"cannot load a checkpoint from '{folder}'")
    with world.step(opt.steps):

        def choose() -> list[str]:
            if world.rank:
                return []
            path = locate(folder)
            return ["" if path == folder else path.name, Archive(path).digest]

        name, digest = world.together(choose, "choosing")[0]
        found: list[_Content] = []

        def read() -> None:
            archive = Archive(folder / name)
            if archive.digest != digest:
                raise CheckpointError(f"'{archive.path}' is another checkpoint than rank 0's: use one shared directory")
            found.append(_read(archive, world, model, opt, on_world_change, extra))

        world.together(read, "reading", slow=True)

        def write() -> None:
            try:
                found[0].write(model, opt, extra)
            except Exception as error:
                what = f"{type(error).__name__}: {error}; model and optimizer are not whole now: load again"
                raise CheckpointError(what) from error

        world.together(write, "restoring")
    return found[0].result


class _Content:
    """What a rank takes from a checkpoint, checked and ready to be written."""

    def __init__(self, shared: Mapping[str, Any], state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        self.model: Mapping[str, Any] = shared["model"]
        self.state, self.own = state, own
        self.result = {"step": state["signa"]["step"], **plain(own["plain"], "the extras")}

    @torch.no_grad()
    def write(self, model: nn.Module, opt: SignA, extra: Mapping[str, Any]) -> None:
        """Into everything. The extras come first, since they alone may refuse, and the generators last."""
        for name, item in extra.items():
            if item is not None:
                item.load_state_dict(plain(self.own["stateful"][name], name))
        names = {clean: name for clean, name in zip(model_state(model), model.state_dict(), strict=True)}
        model.load_state_dict({names[clean]: value for clean, value in self.model.items()})
        opt.zero_grad()
        import_state(opt, self.state)
        opt._engine.forget()
        restore_random(self.own["random"], cuda_devices([route.named.parameter for route in opt.routing]))


@torch.no_grad()
def _read(
    archive: Archive,
    world: World,
    model: nn.Module,
    opt: SignA,
    policy: WorldChange,
    extra: Mapping[str, Any],
) -> _Content:
    opt._engine.exact.refuse_inside("load_checkpoint()")
    check_model(opt, model)
    for name in archive.share(world.rank, world.size):
        archive.verify(name)
    shared, own = archive.file(SHARED), archive.of_rank(world.rank)
    try:
        problems = _problems(archive, shared, own, model, opt, policy, extra)
        if not problems:
            state = state_for(archive, shared, opt, "remap" if policy == "error" else policy)
            problems = differences(opt, state)
            content = _Content(shared, state, own)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        problems = [f"it is damaged ({type(error).__name__}: {error})"]
    if problems:
        raise CheckpointError(f"'{archive.path.name}' does not fit:\n  " + "\n  ".join(problems))
    return content


def _problems(
    archive: Archive,
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    model: nn.Module,
    opt: SignA,
    policy: WorldChange,
    extra: Mapping[str, Any],
) -> list[str]:
    """All that differs between the checkpoint and what it is to be loaded into."""
    found = run_differences(archive.workers, shared["signa"]["spec"], opt, policy)
    told = compare(archive.layout, export_layout(opt))
    told |= compare(_like(shared["model"]), _like(model_state(model)), besides=told)
    return [*found, *told.values(), *_extras(own, extra)]


def run_differences(there: int, spec: Mapping[str, Any], opt: SignA, policy: WorldChange) -> list[str]:
    """What tells a run of ``there`` workers with this spec from the optimizer's."""
    found, here = [], opt.transport.workers
    if there != here and policy == "error":
        found.append(
            f"workers: {there} there, {here} here: say what becomes of their state, with on_world_change="
            "'mean' (everybody gets the mean), 'reset' (it starts anew) or 'remap' (worker j gets j mod "
            f"{there}'s)"
        )
    return found + spec_differences(opt, spec)


def compare(
    there: Mapping[str, str], here: Mapping[str, str], besides: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What differs between two sets of tensors, by name, from what each is like."""
    found = {}
    for name in sorted({*there, *here} - set(besides or ())):
        if name not in here:
            found[name] = f"'{name}' is there and not here: {closest(name, list(here))}"
        elif name not in there:
            found[name] = f"'{name}' is here and not there"
        elif there[name] != here[name]:
            found[name] = f"'{name}': {there[name]} there, {here[name]} here"
    return found


def _like(state: Mapping[str, Any]) -> dict[str, str]:
    """What the tensors of a model's state are like."""
    return {
        name: f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else "data"
        for name, value in state.items()
    }


def _extras(own: Mapping[str, Any], extra: Mapping[str, Any]) -> list[str]:
    stateful, data = own["stateful"], own["plain"]
    has = f"it has {', '.join(sorted(stateful)) or 'none'}" + (
        f", and as plain data {', '.join(sorted(data))}" * bool(data)
    )
    found = []
    for name, item in extra.items():
        if item is None:
            continue
        if name in data:
            found.append(f"extra '{name}' was saved as plain data: leave it out, it stands in what is returned")
        elif name not in stateful:
            found.append(f"extra '{name}' is not there: {has}")
        elif not callable(getattr(item, "load_state_dict", None)):
            found.append(
                f"extra '{name}' is {a_or_an(type(item).__name__)} without load_state_dict(): pass the object itself"
            )
    for name in stateful:
        if name not in extra:
            found.append(
                f"extra '{name}' is there and not asked for: pass {name}=..., or {name}=None to leave it aside"
            )
    return found


def state_for(saved: Saved, shared: Mapping[str, Any], opt: SignA, policy: Policy) -> dict[str, Any]:
    """What is saved as this rank's state_dict; ``shared`` is what all ranks have alike."""
    state = {}
    for route in opt.routing:
        name, views = route.named.name, opt.state[route.named.parameter]
        found = {**shared["state"][name], **worker_state(saved, opt, route, policy)}
        if any(address.startswith("server.") for address in views):
            found = {**saved.server(name), **found}
        state[name] = {address: found[address] for address in views if address in found}
    header = {**shared["signa"], "workers": opt.transport.workers}
    return {"signa": header, "state": state, "param_groups": shared["param_groups"]}


__all__ = ["WorldChange", "compare", "load_checkpoint", "run_differences", "state_for"]
