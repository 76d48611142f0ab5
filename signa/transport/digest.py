"""64 bits that stand for a tensor, and models that are equal everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..coins import mix_words
from ..errors import ReplicaDrift
from .payload import raw
from .ranks import Ranks

_CHUNK = 1 << 18
_ODD = -7046029254386353131  # splitmix64's increment, as a signed number


def digest(x: Tensor) -> Tensor:
    """``sum_i mix(w_i + i c) mod 2^64`` over the tensor's 64-bit words w: changes with any bit and any order."""
    data = raw(x.detach())
    data = torch.nn.functional.pad(data, (0, -len(data) % 8)).view(torch.int64)
    total = torch.full((), x.numel(), dtype=torch.int64, device=x.device)
    for a in range(0, len(data), _CHUNK):
        part = data[a : a + _CHUNK]
        counter = torch.arange(a + 1, a + 1 + len(part), device=x.device) * _ODD
        total += mix_words(part ^ mix_words(counter)).sum()
    return total


def compare(replicas: Mapping[str, Tensor], ranks: Ranks, step: int) -> None:
    """Refuse replicas that are not equal bit for bit.

    Raises:
        ReplicaDrift: with the first names that differ, and where.
    """
    if not replicas or ranks.size == 1:
        return
    device = next(iter(replicas.values())).device
    names = sorted(replicas)
    own = torch.stack([digest(replicas[name]).to(device) for name in names]).to(ranks.home(device))
    what = f"step {step}, the comparison of replicas"
    came = ranks.gather(own.view(torch.uint8), [8 * len(names)] * ranks.size, what)
    table = torch.stack([part.view(torch.int64).cpu() for part in came])
    alike = (table[:, None] == table).sum(1)  # how many ranks have what this one has
    first = torch.arange(ranks.size, 0, -1)[:, None]  # where as many have another value, the lower rank's counts
    leader = (alike * (ranks.size + 1) + first).argmax(0, keepdim=True)
    apart = (table != table.gather(0, leader)).nonzero().tolist()
    if not apart:
        return
    found: dict[str, list[int]] = {}
    for rank, at in sorted(apart, key=lambda pair: (pair[1], pair[0])):
        found.setdefault(names[at], []).append(rank)
    shown = [f"'{name}' on rank {', '.join(map(str, where))}" for name, where in list(found.items())[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    remedy = "call signa.replicate(model, group) before signa.build" if step == 0 else "go on from the last checkpoint"
    raise ranks.meet(ReplicaDrift, f"the replicas differ at step {step}: {', '.join(shown)}{more}: {remedy}")


@torch.no_grad()
def broadcast(tensors: list[Tensor], ranks: Ranks, what: str) -> None:
    """Rank 0's values, one message for each dtype and device."""
    tensors = [tensor for tensor in tensors if tensor.numel()]
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for (_, device), group in alike.items():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        wire = raw(flat).to(ranks.home(device))
        ranks.broadcast(wire, what)
        parts = wire.to(device).view(flat.dtype).split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


__all__ = ["broadcast", "compare", "digest"]
