"""The processes that torchrun starts: who they are, and their process group from its beginning to its end."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, NamedTuple

from torch import distributed as dist

from ..errors import PeerLost


class Launched(NamedTuple):
    """This process among those that were started together; ``local_*`` count those of this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched() -> Launched | None:
    """What the process group says, or torchrun's environment where there is none yet; None for a single process."""
    number = {name: _number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    rank, size = number["RANK"] or 0, number["WORLD_SIZE"] or 1
    if dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        return None
    local_rank, local_size = number["LOCAL_RANK"], number["LOCAL_WORLD_SIZE"]
    return Launched(rank, size, rank if local_rank is None else local_rank, local_size or size)


def backends() -> dict[str, bool]:
    """torch.distributed's backends, and whether this torch was built with them."""
    if not dist.is_available():
        return {"gloo": False, "nccl": False, "mpi": False}
    return {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(), "mpi": dist.is_mpi_available()}


def join(backend: str, timeout: float) -> bool:
    """Initialise the default process group from torchrun's environment; False where somebody has done so already.

    Raises:
        PeerLost: the others did not come.
    """
    if dist.is_initialized():
        return False
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except ValueError as error:  # a variable of the environment is not there
        raise PeerLost(f"{error}: start with torchrun --nproc-per-node=N, or unset WORLD_SIZE") from error
    except RuntimeError as error:
        said = str(error).splitlines()[0][:200]
        raise PeerLost(f"the ranks did not come together within {timeout:g} s ({said})") from error
    return True


def leave() -> None:
    """Destroy the default process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def process_group_of(given: Any) -> Any:
    """Of a DeviceMesh, or the thing itself."""
    group = given.get_group() if hasattr(given, "get_group") else given
    if not callable(getattr(group, "rank", None)):
        what = f"{given!r} is no process group"
        raise TypeError(f"{what}: pass one of torch.distributed, a DeviceMesh, or nothing for the default group")
    return group


def store_of(group: Any) -> Any:
    """The group's own store, in which its names meet no other group's."""
    try:
        return group.get_group_store()
    except (AttributeError, RuntimeError):
        from torch.distributed import distributed_c10d

        try:
            return distributed_c10d._get_process_group_store(group)
        except (AttributeError, KeyError, ValueError) as error:
            raise ValueError("torch does not know this process group's store: pass Group(group, store=...)") from error


__all__ = ["Launched", "backends", "join", "launched", "leave", "process_group_of", "store_of"]
