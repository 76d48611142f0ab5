"""Writing a checkpoint: every process its own part, and one rename when all of it is on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import CheckpointError, a_or_an
from ..optim import SignA
from ..routing import clean_name
from ..saving import export_groups, export_header, export_layout, export_views
from . import files
from .plain import cuda_devices, plain, random_states
from .world import World

RESERVED = ("keep", "on_world_change", "step")


def save_checkpoint(
    directory: str | os.PathLike[str], model: nn.Module, opt: SignA, *, keep: int | None = None, **extra: Any
) -> Path:
    """Write ``directory/step-00000123``, which is complete or not there at all. Collective under ``Group``.

    It holds the model, the optimizer's whole state (each worker's by its number), the random generators' states (torch,
    CUDA, numpy, Python) of every rank, and what is passed by name: objects with a ``state_dict()`` (schedulers, a
    GradScaler, samplers), or plain data (numbers, strings, lists, dicts, tensors). Extras are each rank's own. Call it
    between ``opt.step()`` and the next backward pass, since gradients are not saved. No other run may save into the
    same directory at the same time.

    Every file is synced and hashed, the manifest is written last, and a rename makes the checkpoint visible. What an
    earlier save left unfinished is removed. The optimizer's state_dict hooks are not run.

    Args:
        directory: holds the run's checkpoints; shared by all ranks' hosts.
        keep: after this one is complete, delete those of earlier steps but for the newest ``keep - 1``; None deletes
            none.

    Returns:
        the checkpoint's folder.

    Raises:
        CheckpointError: it cannot be written (a full disk, a folder that is not shared, one that exists), or something
            could not be read back without running code. On every rank, and no unfinished checkpoint is visible.
        ReplicaDrift: the ranks' models differ. ValueError: keep is less than 1.

    >>> import signa, tempfile
    >>> model = nn.Linear(4, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(folder, model, signa.build("signmuon", model), epoch=3).name
    'step-00000000'
    """
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ValueError(f"keep must be an integer from 1 on, or None to keep all, got {keep!r}")
    check_arguments(model, opt)
    folder, name = Path(directory), files.step_name(opt.steps)
    world = World(opt.transport, "save_checkpoint", f"cannot save a checkpoint of step {opt.steps} to '{folder}'")
    with world.step(opt.steps):
        own: dict[str, Any] = {}
        shared: dict[str, Any] = {}

        def prepare() -> dict[str, Any]:
            own.update(_own(opt, model, extra))
            shared.update(_shared(opt, model) if world.rank == 0 else {})
            return {"step": opt.steps, "extra": sorted(extra), "keep": keep, "server": sorted(own["server"])}

        facts = world.together(prepare, "preparing")
        _refuse_differences(world, facts)
        opt.transport.compare(opt.replicas(), opt.steps)
        owned = _owners([fact["server"] for fact in facts])
        contents = {files.rank_name(world.rank): {**own, "server": {n: own["server"][n] for n in owned[world.rank]}}}
        if world.rank == 0:
            contents[files.SHARED] = shared
        told = world.together(lambda: files.begin(folder, name) if world.rank == 0 else "", "beginning")
        temporary = str(told[0])
        try:
            _write(world, opt, folder, temporary, contents, owned)
        finally:
            if world.rank == 0:
                files.discard(folder, temporary)
        if keep is not None and world.rank == 0:
            files.prune(folder, opt.steps, keep)
    return folder / name


def _write(
    world: World,
    opt: SignA,
    folder: Path,
    temporary: str,
    contents: Mapping[str, Mapping[str, Any]],
    owned: Sequence[Sequence[str]],
) -> None:
    """Everybody's files, then the manifest and the new name."""
    path = folder / temporary

    def write() -> dict[str, Any]:
        if not path.is_dir():
            raise CheckpointError(f"'{path}', which rank 0 made, is not here: use a directory that all ranks share")
        return {file: files.write_file(path / file, content) for file, content in contents.items()}

    written = world.together(write, "writing", slow=True)

    def commit() -> None:
        if world.rank == 0:
            files.commit(folder, temporary, files.step_name(opt.steps), _manifest(world, opt, written, owned))

    world.together(commit, "committing", slow=True)


def _manifest(
    world: World, opt: SignA, written: Sequence[Mapping[str, Any]], owned: Sequence[Sequence[str]]
) -> dict[str, Any]:
    found = {file: dict(facts) for own in written for file, facts in own.items()}
    first = 0
    for rank, count in enumerate(world.held):
        found[files.rank_name(rank)] |= {"workers": list(range(first, first + count)), "server": list(owned[rank])}
        first += count
    return {
        "format": files.FORMAT,
        "signa": __version__,
        "torch": torch.__version__,
        "step": opt.steps,
        "world": list(world.held),
        "workers": opt.transport.workers,
        "spec_id": opt.spec.id,
        "layout": export_layout(opt),
        "files": found,
    }


def _own(opt: SignA, model: nn.Module, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What this rank saves, as copies, before anything is written."""
    opt._engine.exact.refuse_inside("save_checkpoint()")
    if opt._rows.pending:
        raise CheckpointError("a worker's block has left gradients that no step has used: save behind opt.step()")
    check_model(opt, model)
    if taken := sorted(set(extra) & set(RESERVED)):
        raise CheckpointError(f"an extra cannot be called '{taken[0]}': give it another name")
    stateful = {name: item for name, item in extra.items() if callable(getattr(item, "state_dict", None))}
    server = {name: state for name, state in export_views(opt, "server").items() if state}
    return {
        "worker": plain(export_views(opt, "worker"), "the workers' state"),
        "server": plain(server, "the server's state"),
        "random": random_states(cuda_devices([route.named.parameter for route in opt.routing])),
        "stateful": {name: plain(item.state_dict(), f"{name}.state_dict()") for name, item in stateful.items()},
        "plain": {name: plain(item, name) for name, item in extra.items() if name not in stateful},
    }


def _shared(opt: SignA, model: nn.Module) -> dict[str, Any]:
    """What is equal everywhere."""
    return {
        "signa": export_header(opt),
        "param_groups": plain(export_groups(opt), "param_groups"),
        "state": plain(export_views(opt, "replica"), "the replicas' state"),
        "model": plain(model_state(model), "the model's state_dict()"),
    }


def check_arguments(model: Any, opt: Any) -> None:
    """Refuse what is no optimizer of ours."""
    if not isinstance(opt, SignA):
        got = f"{a_or_an(type(model).__name__)} and {a_or_an(type(opt).__name__)}"
        raise TypeError(f"a checkpoint is of a model and its signa.SignA, in this order, got {got}")


def model_state(model: nn.Module) -> dict[str, Any]:
    """The model's state by the names it has without DDP and torch.compile."""
    found: dict[str, str] = {}
    state = model.state_dict()
    for name in state:
        clean = clean_name(name)
        if clean in found:
            raise CheckpointError(
                f"the model's '{found[clean]}' and '{name}' are both '{clean}' without the prefixes of DDP and "
                "torch.compile: rename one of them"
            )
        found[clean] = name
    return {clean: state[name] for clean, name in found.items()}


def check_model(opt: SignA, model: nn.Module) -> None:
    """Refuse a model that is not the optimizer's: it would not be saved, or not be loaded.

    Raises:
        CheckpointError: naming what is missing.
    """
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"the model must be an nn.Module, got {a_or_an(type(model).__name__)}")
    there: set[int] = {id(parameter) for parameter in model.parameters()}
    missing: list[str] = [route.named.name for route in opt.routing if id(route.named.parameter) not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = "', '".join(missing[:3])
        raise CheckpointError(f"the optimizer's '{names}'{more} are not parameters of this model: pass its own model")


def _refuse_differences(world: World, facts: Sequence[Mapping[str, Any]]) -> None:
    for key in ("step", "extra", "keep"):
        found: dict[str, list[int]] = {}
        for rank, fact in enumerate(facts):
            found.setdefault(f"{key} is {fact[key]!r}", []).append(rank)
        if len(found) > 1:
            raise world.refusal(found)


def _owners(holders: Sequence[Sequence[str]]) -> list[list[str]]:
    """Whose file gets which parameter's server state: the first rank that has it."""
    seen: set[str] = set()
    owned = []
    for names in holders:
        owned.append([name for name in names if name not in seen])
        seen.update(names)
    return owned


__all__ = ["check_model", "model_state", "save_checkpoint"]
