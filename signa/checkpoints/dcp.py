"""The optimizer's state for torch.distributed.checkpoint (DCP): a key of its own for everything that differs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ..errors import StateError, a_or_an
from ..optim import SignA
from ..saving import FORMAT, differences, export_groups, export_header, export_layout, export_views
from .load import WorldChange, compare, run_differences, state_for
from .plain import plain

if TYPE_CHECKING:
    from torch.distributed.checkpoint.storage import StorageReader

FACTS = "signa"


class DCPState:
    """A SignA optimizer for ``torch.distributed.checkpoint``: a ``Stateful``, under any transport.

    DCP writes one copy of a key that several ranks hold, so what is not equal everywhere needs keys of its own:

    - ``PARAMETER/ADDRESS/WORKER``: a worker's state, from the process that has the worker;
    - ``PARAMETER/ADDRESS``: the server's state, from whoever owns it, and the replicas', which are equal;
    - ``signa``: spec, seed, step, the number of workers and the groups' scalars, as bytes without code.

    ``state_dict()`` copies what is here, so a load that is refused has written nothing, and ``async_save`` may take its
    time. The same N workers may come back on another number of processes, and go on bit for bit. The optimizer's
    state_dict hooks are run on loading alone.

    Args:
        opt: the optimizer.
        saved: the checkpoint (a folder, or a StorageReader) that ``dcp.load`` is about to read. What is in it is then
            held against the optimizer first, and N may differ. Such an object is for loading alone.
        key: where the optimizer stands in the dict that was saved.
        on_world_change: as in :func:`signa.load_checkpoint`, for another N; anything but ``error`` needs ``saved``.

    Raises:
        ValueError: no such policy, or one without ``saved``.

    >>> import signa
    >>> opt = signa.build("signmuon", torch.nn.Linear(4, 2, bias=False), transport=signa.Loopback(3))
    >>> list(DCPState(opt).state_dict())  # dcp.save({"optim": DCPState(opt)}, checkpoint_id=...)
    ['signa', 'weight/worker.momentum.m/0', 'weight/worker.momentum.m/1', 'weight/worker.momentum.m/2']
    """

    def __init__(
        self,
        opt: SignA,
        saved: str | os.PathLike[str] | StorageReader | None = None,
        *,
        key: str = "optim",
        on_world_change: WorldChange = "error",
    ) -> None:
        if not isinstance(opt, SignA):
            raise TypeError(f"DCPState is for a signa.SignA, got {a_or_an(type(opt).__name__)}")
        if on_world_change not in get_args(WorldChange):
            raise ValueError(f"on_world_change must be one of {', '.join(get_args(WorldChange))}: {on_world_change!r}")
        if on_world_change != "error" and saved is None:
            raise ValueError(
                f"on_world_change={on_world_change!r} needs to know how many workers there were: pass saved=, the "
                "folder or StorageReader that dcp.load is to read"
            )
        self.opt, self.saved, self.key, self.on_world_change = opt, saved, key, on_world_change

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """What is here, copied; with ``saved``, empty places for what this process needs of it.

        Raises:
            StateError: inside ``opt.exact()``, or what is saved is another run's. CheckpointError: a group holds more
                than plain data.
        """
        self.opt._engine.exact.refuse_inside("DCPState.state_dict()")
        if self.saved is None:
            return {FACTS: _packed(_facts(self.opt)), **_rows(self.opt)}
        facts, there = _read(self.saved, self.key)
        places: dict[str, Any] = {FACTS: _Unread()}

        def place(key: str, like: Tensor) -> Tensor:
            if f"{self.key}.{key}" not in there:  # a planner that allows partial loads would leave the zeros
                raise KeyError(key)
            return places.setdefault(key, like.new_zeros(like.shape))

        self._state(facts, place)
        return places

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What DCP has read, into the optimizer.

        Raises:
            StateError: it is of another optimizer, with all that differs; nothing is written then.
        """
        if not isinstance(packed := state_dict.get(FACTS), bytes):
            raise StateError(f"this state was not written by SignA (no '{FACTS}')")
        self.opt.load_state_dict(self._state(_unpacked(packed), lambda key, like: state_dict[key]))

    def _state(self, facts: Mapping[str, Any], get: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """This process' state_dict, of what ``get(key, like)`` gives."""
        opt, policy = self.opt, self.on_world_change
        try:
            problems = _differences(facts, opt, policy)
            if not problems:
                source = _Source(opt, facts["workers"], get)
                shared = {"signa": facts, "param_groups": facts["param_groups"], "state": source.replicas()}
                state = state_for(source, shared, opt, "remap" if policy == "error" else policy)
                problems = differences(opt, state)
        except (KeyError, TypeError, AttributeError) as error:
            problems = [f"it is damaged, or not all of it is there ({type(error).__name__}: {error})"]
        if problems:
            raise StateError("this state does not fit the optimizer:\n  " + "\n  ".join(problems))
        return state


class _Source:
    """A checkpoint as :func:`.load.state_for` asks for it, by DCP's keys."""

    def __init__(self, opt: SignA, workers: int, get: Callable[[str, Tensor], Tensor]) -> None:
        self.workers, self._get = workers, get
        self._views = export_views(opt, "worker", "server", "replica")

    def row(self, worker: int, parameter: str, address: str) -> Tensor:
        return self._get(_key(parameter, address, worker), self._views[parameter][address][0])

    def server(self, parameter: str) -> dict[str, Tensor]:
        return self._of("server.", parameter)

    def replicas(self) -> dict[str, dict[str, Tensor]]:
        return {name: self._of("replica.", name) for name in self._views}

    def _of(self, owner: str, parameter: str) -> dict[str, Tensor]:
        views = self._views[parameter].items()
        return {a: self._get(_key(parameter, a), view) for a, view in views if a.startswith(owner)}


class _Unread(bytes):
    """Where facts are to be read to. Saved by mistake, it refuses, for what stands beside it is empty."""

    def __reduce__(self) -> Any:
        raise StateError(
            "a DCPState with saved= is for loading, and its tensors are empty: save signa.checkpoints.DCPState(opt)"
        )


def _key(parameter: str, address: str, *worker: int) -> str:
    return "/".join([parameter, address, *map(str, worker)])


def _rows(opt: SignA) -> dict[str, Tensor]:
    """Copies of the state that is here; on a home rank alone there is any of a sharded parameter."""
    found: dict[str, Tensor] = {}
    for name, views in export_views(opt, "worker", "server", "replica").items():
        for address, view in views.items():
            if address.startswith("worker."):
                rows = zip(opt.transport.local, view, strict=True)
                found |= {_key(name, address, worker): row.clone() for worker, row in rows}
            else:
                found[_key(name, address)] = view.clone()
    return found


def _facts(opt: SignA) -> dict[str, Any]:
    return {**export_header(opt), "param_groups": export_groups(opt), "layout": export_layout(opt)}


def _differences(facts: Mapping[str, Any], opt: SignA, policy: WorldChange) -> list[str]:
    """All that tells the run that was saved from the optimizer's, the tensors aside."""
    if facts["format"] != FORMAT:
        return [f"its format is {facts['format']}, this version reads {FORMAT}"]
    found = run_differences(facts["workers"], facts["spec"], opt, policy)
    return [*found, *compare(facts["layout"], export_layout(opt)).values()]


def _packed(facts: Mapping[str, Any]) -> bytes:
    # One value: DCP would take a dict apart, and ask for the very same keys when it loads.
    buffer = io.BytesIO()
    torch.save(plain(facts, "the optimizer's groups"), buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise StateError(
            f"this state's '{FACTS}' is damaged, or was not read: {type(error).__name__}: {first}"
        ) from None
    return facts


def _read(saved: str | os.PathLike[str] | StorageReader, key: str) -> tuple[dict[str, Any], Collection[str]]:
    """The facts of a checkpoint, and all its keys. No process asks another, so any of them may read it."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.storage import StorageReader

    reader = saved if isinstance(saved, StorageReader) else FileSystemReader(saved)
    metadata = reader.read_metadata()
    facts, there = f"{key}.{FACTS}", metadata.state_dict_metadata
    if facts not in there:
        others = sorted(name.removesuffix(f".{FACTS}") for name in there if name.endswith(f".{FACTS}"))
        names = ", ".join(f"key={name!r}" for name in others) or "none"
        raise StateError(f"no state of SignA is called '{key}' there; there is: {names}")
    found: dict[str, Any] = {facts: b""}
    planner = DefaultLoadPlanner()
    planner.set_up_planner(found, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(reader.prepare_global_plan([plan])[0], planner).wait()
    return _unpacked(found[facts]), there


__all__ = ["DCPState"]
