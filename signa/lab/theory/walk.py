"""Running a composed method on a formula: the optimizer itself, on one matrix or on thousands beside each other."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...building import build
from ...errors import Advice
from ...sentence import Method

__all__ = ["EXACT", "Margins", "margins", "remembers", "walk", "with_momentum", "with_oracle"]

#: The rank-truncated SVD, for :func:`with_oracle`.
EXACT: dict[str, Any] = {"schedule": "exact"}


def with_oracle(method: Method, oracle: dict[str, Any]) -> Method:
    """The method with other numbers in every ``spectral`` stage; its radius stays.

    >>> from signa import presets
    >>> print(with_oracle(presets.get("muon").method, {"schedule": "jordan5", "steps": 10}).server[0])
    spectral(schedule=jordan5, steps=10, normalisation=frobenius)
    """
    return method.replace(
        {
            address: {"kind": "spectral", "radius": stage.radius, **oracle}  # type: ignore[attr-defined]
            for part in ("worker", "server", "replica")
            for address, stage in method.stages(part)
            if stage.kind == "spectral"
        }
    )


def with_momentum(method: Method, beta: float, *, nesterov: bool = False) -> Method:
    """The method with beta, and nu = beta (Nesterov) or 1, in every ``momentum`` stage.

    >>> from signa import presets
    >>> print(with_momentum(presets.get("lion").method, 0.5, nesterov=True))
    momentum(beta=0.5, nu=beta) | identity | mean |  | identity | linf step
    """
    return method.replace(
        {
            f"{address}.{field}": value
            for part in ("worker", "server", "replica")
            for address, stage in method.stages(part)
            if stage.kind == "momentum"
            for field, value in (("beta", beta), ("nu", "beta" if nesterov else 1.0))
        }
    )


def walk(
    method: Method,
    gradient: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    steps: int,
    *,
    lr: float = 1.0,
    seed: int = 0,
) -> list[Tensor]:
    """X_0 = 0, X_1, ..., X_steps in float64, by the optimizer itself: one worker, no layer scaling, no decay.

    The gradient is taken at the replicas' model; where the server keeps an exact one (EF21-P), the path is that.

    Shapes: (m, n), or (B, m, n) for B matrices that know nothing of each other.

    >>> from signa import presets
    >>> walk(presets.get("signsgd").method, lambda X: torch.tensor([[2.0, -3.0]]), (1, 2), 2)[-1]
    tensor([[-2.,  2.]], dtype=torch.float64)
    """
    X = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    group = {"method": method, "lr": lr, "scaling": "none"}
    if len(shape) == 3:
        group["matrix"] = "b m n -> b m n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Advice)  # that a method can fail is what is looked for here
        opt = build({"groups": [group]}, [("X", X)], seed=seed)
    path = [X.detach().clone()]
    for _ in range(steps):
        X.grad = gradient(X.detach()).to(torch.float64)
        opt.step()
        with opt.exact():
            path.append(X.detach().clone())
    return path


class Margins(NamedTuple):
    """What a constant gradient G does to f = <G, W>: the angle, the descent and the direction of each of B matrices."""

    cosine: Tensor  # (B,)
    late: Tensor  # (B,): the cosine over the last half of the steps, the middle one included
    descent: Tensor  # (B,)
    direction: Tensor  # (B, m, n)


def margins(method: Method, G: Tensor, steps: int = 1, *, seed: int = 0) -> Margins:
    """``sum_t <G, d_t> / (||G||_F sum_t ||d_t||_F)`` for each of B constant gradients, from a fresh state.

    Negative: over these steps the method ascends on f(W) = <G, W>. One step is the cosine of the angle between G and
    d. ``late`` is the same sum over the last half, which a memory that has yet to settle makes another. ``descent`` and
    ``direction`` are the averages of <G, d_t> and d_t. A gradient of zeros, or one that moves nothing, has 0.

    Shapes: (B, m, n) -> (B,), (B,), (B,), (B, m, n).

    >>> from signa import presets
    >>> margins(presets.get("signsgd").method, torch.tensor([[[3.0, 4.0]]])).cosine
    tensor([0.9899], dtype=torch.float64)
    """
    G = G.to(torch.float64)
    path = walk(method, lambda _: G.clone(), tuple(G.shape), steps, seed=seed)
    direction = (path[0] - path[-1]) / steps
    descent = (G * direction).sum((-2, -1))
    return Margins(_cosine(G, path), _cosine(G, path[steps // 2 :]), descent, direction)


def _cosine(G: Tensor, path: list[Tensor]) -> Tensor:
    """Of a stretch of a path: <G, what was gone> over ||G||_F times its length."""
    lengths = torch.stack([torch.linalg.matrix_norm(before - after) for before, after in itertools.pairwise(path)])
    size = torch.linalg.matrix_norm(G) * lengths.sum(0)
    return torch.where(size > 0, (G * (path[0] - path[-1])).sum((-2, -1)) / torch.where(size > 0, size, 1), 0)


def remembers(method: Method) -> bool:
    """Whether a step depends on earlier ones by more than momentum, which a constant gradient cannot tell from none.

    >>> from signa import presets
    >>> [name for name in presets.names() if remembers(presets.get(name).method)]
    ['adamw', 'doublesqueeze', 'ef21muonsign', 'ef21muonusign', 'ef21signmuon', 'ef_signsgd']
    """
    nothing = torch.zeros(1, 1, 1)
    stateful = any(
        stage.kind not in ("momentum", "step") and stage.init(nothing)
        for part in ("worker", "server", "replica")
        for _, stage in method.stages(part)
    )
    return stateful or any(channel.feedback.kind != "none" for channel in (method.up, method.down))
