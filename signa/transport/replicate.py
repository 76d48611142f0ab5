"""Models that are equal on all ranks before training begins."""

from __future__ import annotations

from torch import nn

from ..errors import a_or_an
from . import digest
from .agreement import require_same
from .group import Group


def replicate(model: nn.Module, group: Group) -> None:
    """Give every rank the parameters and buffers of rank 0; collective. Call it before ``signa.build``.

    A sharded model gets the shards of the group's rank 0, node 0; what is not sharded comes from that node's rank 0.

    Raises:
        LayoutMismatch: the models differ in names, shapes or dtypes.
        UnsupportedParameter: the model is sharded and the group is not, or not as the model is.
    """
    given: tuple[object, object] = (model, group)
    if not isinstance(given[0], nn.Module) or not isinstance(given[1], Group):
        what = " and ".join(a_or_an(type(thing).__name__) for thing in given)
        raise TypeError(f"signa.replicate takes a model and a signa.Group, got {what}: write replicate(model, group)")
    homes = group.homes()
    homes.admit({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})
    tensors = [*model.named_parameters(), *model.named_buffers()]
    layout = "\n".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors)
    parts = [homes.part(tensor) for _, tensor in tensors]
    if group.node is not None:
        require_same(group.node.ranks, {"model": layout}, "signa.replicate()")
        whole = [part for part, (_, tensor) in zip(parts, tensors, strict=True) if not hasattr(tensor, "placements")]
        digest.broadcast(whole, group.node.ranks, "replicate")
    require_same(group.ranks, {"model": layout}, "signa.replicate()")
    digest.broadcast(parts, group.ranks, "replicate")


__all__ = ["replicate"]
