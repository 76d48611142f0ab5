"""Which parameter goes to which group, and how it becomes matrices."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from math import prod
from typing import Any, NamedTuple

import torch
from einops import EinopsError, rearrange
from torch import Tensor, nn

from .errors import RoutingError, UnsupportedParameter
from .reading import validated
from .rule import closest
from .spec import ParamGroup, Spec
from .stage import Rate

#: A model, its parts (a pipeline's stages, each with names of its own), or (name, parameter) pairs.
Model = nn.Module | Sequence[nn.Module] | Iterable[tuple[str, Tensor]]
#: Keywords of rearrange, which takes the axes' lengths as keywords, too.
_EINOPS = {"tensor", "pattern", "reduction"}
_PREFIXES = ("_orig_mod.", "module.")
_COMPARE = {
    "==": operator.eq,
    "": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Named:
    """A parameter, the name it is known by, and what routing may ask about it."""

    name: str
    parameter: nn.Parameter | Tensor
    module: frozenset[str] = frozenset()
    tied: bool = False


def clean_name(name: str) -> str:
    """A parameter's name without what torch.compile and DDP put in front.

    >>> clean_name("module._orig_mod.h.0.fc.weight")
    'h.0.fc.weight'
    """
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod.", ".")


def parts_of(model: object) -> list[nn.Module]:
    """The modules that were given for a model; none where it was pairs.

    >>> parts_of(nn.ReLU()), parts_of([nn.ReLU(), nn.Tanh()]), parts_of(nn.Linear(1, 1).named_parameters())
    ([ReLU()], [ReLU(), Tanh()], [])
    """
    parts = [model] if isinstance(model, nn.Module) else model if isinstance(model, list | tuple) else []
    return [*parts] if all(isinstance(part, nn.Module) for part in parts) else []


def named_parameters(model: Model | Iterable[Named]) -> list[Named]:
    """Every parameter once, tied ones under their first name; a list of Named is as it is."""
    parts = parts_of(model)
    if not parts:
        pairs: list[Any] = list(model)  # type: ignore[arg-type]
        if pairs and all(isinstance(pair, Named) for pair in pairs):
            return pairs
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise RoutingError("SignA routes by name: pass the model, or model.named_parameters()")
        return _unique([Named(clean_name(name), parameter) for name, parameter in pairs])
    found = []
    for prefix, module in (item for part in parts for item in part.named_modules(remove_duplicate=False)):
        classes = frozenset(cls.__name__ for cls in type(module).__mro__)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.append(Named(clean_name(f"{prefix}.{name}" if prefix else name), parameter, classes))
    return _unique(found)


def _unique(found: list[Named]) -> list[Named]:
    first: dict[int, Named] = {}
    for named in found:
        seen = first.get(id(named.parameter))
        module = named.module | (seen.module if seen else frozenset())  # a tied weight belongs to all its owners
        tied = (seen is not None and seen.name != named.name) or bool(seen and seen.tied)
        first[id(named.parameter)] = Named((seen or named).name, named.parameter, module, tied)
    names = [named.name for named in first.values()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RoutingError(f"two parameters are called {', '.join(sorted(twice))}: give them different names")
    return list(first.values())


def check_parameter(name: str, parameter: Tensor) -> None:
    """Refuse what no method can update.

    Raises:
        UnsupportedParameter: naming the parameter, the reason and the remedy.
    """
    if not isinstance(parameter, Tensor):
        raise UnsupportedParameter(f"parameter '{name}' is no tensor: pass (name, parameter) pairs")
    real = parameter.is_floating_point() or parameter.is_complex()
    reasons = [
        (
            isinstance(parameter, nn.UninitializedParameter),
            "is not initialised (a lazy module)",
            "run a forward pass first",
        ),
        (parameter.layout != torch.strided, "is sparse", "use a dense parameter"),
        (parameter.is_complex(), "is complex", "torch.view_as_real(...)"),
        (parameter.is_meta, "has no storage (meta device)", "model.to_empty(...) first"),
        (not real, "holds no floating-point numbers", "set requires_grad=False, or convert it"),
        (not parameter.is_leaf, "is not a leaf of the graph", "pass the parameter itself"),
    ]
    for applies, what, instead in reasons:
        if applies:
            raise UnsupportedParameter(f"parameter '{name}' {what}: {instead}")


@dataclass(frozen=True)
class Layout:
    """How a parameter of one shape becomes ``count`` matrices of m x n: einops, so the swapped pattern is the inverse.

    >>> layout = Layout.of((6, 4), "(three h) i -> three h i", {"three": 3})
    >>> layout.count, layout.m, layout.n, layout.matrices(torch.zeros(5, 6, 4), lead=1).shape
    (3, 2, 4, torch.Size([5, 3, 2, 4]))
    """

    shape: tuple[int, ...]
    pattern: str
    batch: tuple[int, ...]
    m: int
    n: int
    sizes: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, shape: tuple[int, ...], pattern: str = "", sizes: dict[str, int] | None = None) -> Layout:
        """The layout of a parameter's shape; the default flattens all axes but the first (a conv is [out, in kh kw]).

        Raises:
            RoutingError: the pattern does not fit the shape.
        """
        if not pattern:
            axes = [f"a{i}" for i in range(len(shape))]
            pattern = f"{' '.join(axes)} -> {' '.join(axes[:1]) or '1'} ({' '.join(axes[1:])})"
            m, n = (shape[0], prod(shape[1:])) if shape else (1, 1)
            return cls(tuple(shape), pattern, (), m, n)
        pattern = _without_ellipsis(pattern, len(shape))
        if taken := (sizes or {}).keys() & _EINOPS:
            raise RoutingError(f"sizes: '{min(taken)}' is a word of einops' own: give the axis another name")
        try:
            out = rearrange(torch.empty(shape, device="meta"), pattern, **(sizes or {}))
        except (EinopsError, ValueError) as error:  # ValueError: no arrow, or two of them
            reason = str(error).splitlines()[-1].strip()
            raise RoutingError(
                f"matrix: '{pattern}' does not fit a parameter of shape {tuple(shape)}: {reason}"
            ) from None
        if out.ndim < 2:
            raise RoutingError(
                f"matrix: '{pattern}' leaves {out.ndim} axes of shape {tuple(shape)}: a matrix needs two"
            )
        *batch, m, n = out.shape
        left = pattern.split("->")[0]
        kept = tuple((name, size) for name, size in (sizes or {}).items() if re.search(rf"\b{name}\b", left))
        return cls(tuple(shape), pattern, tuple(batch), m, n, kept)

    @property
    def count(self) -> int:
        """How many matrices the parameter is."""
        return prod(self.batch)

    def matrices(self, x: Tensor, lead: int = 0) -> Tensor:
        """(*lead, *shape) to (*lead, count, m, n)."""
        if self.in_order:  # 10 times as fast as to read the pattern
            return x.reshape(*x.shape[:lead], self.count, self.m, self.n)
        left, right = self._sides
        out = rearrange(x, f"... {left} -> ... {right}", **dict(self.sizes))
        return out.reshape(*x.shape[:lead], self.count, self.m, self.n)

    def parameter(self, x: Tensor, lead: int = 0) -> Tensor:
        """(*lead, count, m, n) to (*lead, *shape), the inverse; a view where the pattern allows one."""
        if self.in_order:
            return x.reshape((*x.shape[:lead], *self.shape))
        left, right = self._sides
        x = x.reshape(*x.shape[:lead], *self.batch, self.m, self.n)
        return rearrange(x, f"... {right} -> ... {left}", **self._lengths)

    @cached_property
    def in_order(self) -> bool:
        """Whether the pattern leaves the entries in their order.

        >>> Layout.of((6, 4, 2), "o i k -> o (i k)").in_order, Layout.of((6, 4), "o i -> i o").in_order
        (True, False)
        """
        left, right = ([axis for axis in re.findall(r"\w+", side) if axis != "1"] for side in self._sides)
        return left == right

    @cached_property
    def _sides(self) -> tuple[str, str]:
        left, _, right = self.pattern.partition("->")
        return left, right

    @cached_property
    def _lengths(self) -> dict[str, int]:
        """Every named axis' length, so that the swapped pattern can split what the pattern joined."""
        given, lengths = dict(self.sizes), {}
        for token, size in zip(re.findall(r"\([^)]*\)|\S+", self._sides[0]), self.shape, strict=True):
            names = token.strip("()").split()
            rest = size // max(1, prod(given.get(name, 1) for name in names))
            lengths.update({name: given.get(name, rest) for name in names if not name.isdecimal()})
        return lengths


def _without_ellipsis(pattern: str, ndim: int) -> str:
    """A pattern whose ``...`` is spelled out, since a layout puts its own in front.

    >>> _without_ellipsis("o i ... -> o (i ...)", 4)
    'o i e0 e1 -> o (i e0 e1)'
    """
    named = len(re.findall(r"\([^)]*\)|[^\s.]+", pattern.split("->")[0]))
    return pattern.replace("...", " ".join(f"e{i}" for i in range(max(0, ndim - named))))


@dataclass(frozen=True)
class Route:
    """One parameter and where it goes."""

    named: Named
    group: int
    layout: Layout


class Bits(NamedTuple):
    """Logical bits per parameter and worker, sent and received, over the whole model; round_trip is how many times
    fewer both together are than float32 both ways."""

    up: float
    down: float
    round_trip: float


class Routing(tuple[Route, ...]):
    """The table of what goes where; prints as one."""

    spec: Spec
    frozen: tuple[str, ...]

    @classmethod
    def of(cls, spec: Spec, model: Model | Iterable[Named]) -> Routing:
        """Route every parameter that requires a gradient; frozen ones are listed and left alone.

        Raises:
            RoutingError: nothing takes a parameter, a group that is not optional takes nothing, a pattern does not fit.
            UnsupportedParameter: a sparse, complex, integer or meta parameter.
        """
        routes, frozen = [], []
        named = named_parameters(model)
        for item in named:
            if isinstance(item.parameter, Tensor) and not item.parameter.requires_grad:
                frozen.append(item.name)
                continue
            check_parameter(item.name, item.parameter)
            index = next((i for i, group in enumerate(spec.groups) if takes(group, item)), None)
            if index is None:
                raise RoutingError(
                    f"no group takes parameter '{item.name}' (shape {tuple(item.parameter.shape)}): "
                    "end the groups with {match: ['*'], method: adamw, lr: 3.0e-4}"
                )
            routes.append(Route(item, index, layout(spec.groups[index], item)))
        for index, group in enumerate(spec.groups):
            if not group.optional and all(route.group != index for route in routes):
                raise RoutingError(_nothing(index, group, named, routes))
        if not routes:
            raise RoutingError("there is nothing to optimize: no parameter requires a gradient")
        table = cls(routes)
        table.spec, table.frozen = spec, tuple(frozen)
        return table

    def __str__(self) -> str:
        """Name, shape, matrices, group and method of every parameter."""
        rows = [("parameter", "shape", "matrices", "group", "method")]
        for route in self:
            group = self.spec.groups[route.group]
            shape = "x".join(map(str, route.layout.shape)) or "scalar"
            matrices = f"{route.layout.count} of {route.layout.m}x{route.layout.n}"
            rows.append((route.named.name, shape, matrices, group.name or str(route.group), str(group.method)))
        rows += [(name, "", "", "-", "frozen: not optimized") for name in self.frozen]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
        )

    def filled(self) -> list[tuple[ParamGroup, list[Route]]]:
        """The groups that have parameters, with their routes."""
        members = [[route for route in self if route.group == index] for index in range(len(self.spec.groups))]
        return [(self.spec.groups[index], routes) for index, routes in enumerate(members) if routes]

    def bits(self) -> Bits:
        """Logical bits over all parameters, worked out from the methods."""
        up = down = total = 0.0
        for route in self:
            layout, method = route.layout, self.spec.groups[route.group].method
            if entries := layout.count * layout.m * layout.n:
                bits = method.bits(layout.m, layout.n)
                up, down, total = up + bits.up * entries, down + bits.down * entries, total + entries
        return Bits(up / total, down / total, 64 * total / (up + down)) if total else Bits(0.0, 0.0, 1.0)

    def grown(self, param_group: Mapping[str, Any]) -> tuple[Routing, ParamGroup, list[Route]]:
        """The routing with one more group, as ``add_param_group`` of torch is given it, that group, and its routes.

        Raises:
            SpecError, RoutingError, UnsupportedParameter: the group or one of its parameters is wrong.
        """
        given, number = param_group["params"], len(self.spec.groups)
        given = [given] if isinstance(given, Tensor) else list(given)
        pairs = [
            tuple(pair) if isinstance(pair, tuple | list) else (f"added.{number}.{i}", pair)
            for i, pair in enumerate(given)
        ]
        named = [Named(clean_name(name), parameter) for name, parameter in pairs]
        fields = {key: value for key, value in param_group.items() if key not in ("params", "name", "param_names")}
        match = [escape(item.name) for item in named]
        group = validated(ParamGroup, {"name": param_group.get("name", ""), "match": match, **fields})
        names, seen = {route.named.name for route in self}, {id(route.named.parameter) for route in self}
        for item in named:
            check_parameter(item.name, item.parameter)
            if id(item.parameter) in seen or item.name in names:
                raise RoutingError(f"parameter '{item.name}' is optimized already, or stands twice: leave it out")
            names.add(item.name)
            seen.add(id(item.parameter))
        routes = [Route(item, number, layout(group, item)) for item in named]
        routing = Routing([*self, *routes])
        routing.spec = validated(Spec, {**dict(self.spec), "groups": (*self.spec.groups, group)})
        routing.frozen = self.frozen
        return routing, group, routes


def torch_group(group: ParamGroup, routes: Sequence[Route], rate: Callable[[float], Rate] = float) -> dict[str, Any]:
    """A group and its parameters as ``torch.optim`` has them; ``rate`` makes a learning rate what a step takes."""
    return {
        "params": [route.named.parameter for route in routes],
        "name": group.name or "+".join(group.match) or "group",
        "lr": rate(group.lr),
        "weight_decay": group.weight_decay,
        "signa_names": [route.named.name for route in routes],
    }


def takes(group: ParamGroup, item: Named) -> bool:
    """Whether a group's conditions hold for a parameter."""
    sign, number = re.fullmatch(r"([<>=]*)(\d+)", group.ndim or ">=0").groups()  # type: ignore[union-attr]
    return (
        (not group.match or any(fnmatchcase(item.name, pattern) for pattern in group.match))
        and _COMPARE[sign](item.parameter.ndim, int(number))
        and (not group.module or not item.module.isdisjoint(group.module))
        and (group.tied is None or group.tied == item.tied)
    )


def layout(group: ParamGroup, item: Named) -> Layout:
    """The matrix layout of a parameter in its group; errors name both."""
    try:
        return Layout.of(tuple(item.parameter.shape), group.matrix, group.sizes)
    except RoutingError as error:
        raise RoutingError(f"parameter '{item.name}': {error}") from None


def _nothing(index: int, group: ParamGroup, named: list[Named], routes: list[Route]) -> str:
    label = f"group {group.name or index}"
    eligible = [item for item in named if item.parameter.requires_grad and takes(group, item)]
    if eligible:
        earlier = next(route.group for route in routes if route.named is eligible[0])
        return (
            f"{label} takes no parameter: group {earlier} comes first and takes '{eligible[0].name}': "
            "put the narrower group in front, or set 'optional: true'"
        )
    near = closest(group.match[0].strip("*"), [item.name for item in named]) if group.match else ""
    remedy = near if near.endswith("?") else "correct its conditions, or set 'optional: true'"
    return f"{label} takes no parameter: its conditions fit none: {remedy}"
