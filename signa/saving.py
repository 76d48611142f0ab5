"""The optimizer's state as plain data, and back, by parameter name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .errors import StateError
from .rows import Buffers, describe
from .rule import closest

if TYPE_CHECKING:
    from .optim import SignA

FORMAT = 1
_KEEP = ("params", "signa_names")


def export_header(opt: SignA) -> dict[str, Any]:
    """What wrote a state, and where it stands."""
    from . import __version__

    orthogonalisers = {
        str(index): stage.model_dump()
        for index, group in enumerate(opt.spec.groups)
        for part in ("worker", "server", "replica")
        for _, stage in group.method.stages(part)
        if stage.kind == "spectral"
    }
    return {
        "format": FORMAT,
        "version": __version__,
        "spec": json.loads(opt.spec.canonical()),
        "spec_id": opt.spec.id,
        "orthogonalisers": orthogonalisers,
        "seed": opt.seed,
        "step": opt.steps,
        "workers": opt.transport.workers,
        "nonfinite": [[worker, name, count] for (worker, name), count in sorted(opt.nonfinite_counts.items())],
    }


def export_groups(opt: SignA) -> list[dict[str, Any]]:
    """The groups' scalars and the names of their parameters."""
    return [
        {key: _plain(value) for key, value in group.items() if key not in _KEEP}
        | {"params": list(group["signa_names"])}
        for group in opt.param_groups
    ]


def export_layout(opt: SignA) -> dict[str, str]:
    """What the parameters are like, by name: ``(6, 8) float32``."""
    return {
        name: f"{tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}"
        for name, p in ((route.named.name, route.named.parameter) for route in opt.routing)
    }


def export_facts(opt: SignA, buffers: Buffers) -> dict[str, str]:
    """What every process must have in common, as text."""
    from . import __version__

    layout = export_layout(opt)
    routes = {route.named.name: route for route in opt.routing}
    devices = sorted({str(route.named.parameter.device) for route in opt.routing})
    lines = [
        f"{name} {layout[name]} in group {routes[name].group}"
        f" on device {devices.index(str(routes[name].named.parameter.device))}"
        for name in sorted(layout)
    ]
    order = {} if opt.transport.line is None else {"order of the parameters": " ".join(layout)}  # as they are sent
    return order | {
        "version": f"signa {__version__}",
        "spec": opt.spec.canonical(),
        "seed": str(opt.seed),
        "nonfinite": opt.nonfinite,
        "parameters": "\n".join(lines),
        "buffers": "\n".join(describe(module, name) for module, name in buffers),
    }


def export_views(opt: SignA, *owners: str) -> dict[str, dict[str, Tensor]]:
    """State by name and address, not copied: what belongs to these of ``worker``, ``server``, ``replica``."""
    return {
        route.named.name: {
            address: view
            for address, view in opt.state[route.named.parameter].items()
            if address.partition(".")[0] in owners
        }
        for route in opt.routing
    }


def export_state(opt: SignA) -> dict[str, Any]:
    """Header, per-parameter tensors (cloned: a view would drag its whole stack along), and the groups' scalars."""
    views = export_views(opt, "worker", "server", "replica")
    state = {name: {address: view.clone() for address, view in own.items()} for name, own in views.items()}
    return {"signa": export_header(opt), "state": state, "param_groups": export_groups(opt)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def import_state(opt: SignA, data: Mapping[str, Any]) -> None:
    """Check everything, then write everything."""
    if problems := differences(opt, data):
        raise StateError("this state does not fit the optimizer:\n  " + "\n  ".join(problems))
    header = data["signa"]
    counts = {(worker, name): count for worker, name, count in header.get("nonfinite", ())}
    opt.steps, opt.seed = header["step"], header["seed"]
    opt.nonfinite_counts.clear()
    opt.nonfinite_counts.update(counts)
    for route in opt.routing:
        for address, view in opt.state[route.named.parameter].items():
            view.copy_(data["state"][route.named.name][address])
    for group, saved in zip(opt.param_groups, data["param_groups"], strict=True):
        for key, value in saved.items():
            if isinstance(group.get(key), Tensor):  # a captured step reads it where it is
                group[key].fill_(value)
            elif key not in _KEEP:
                group[key] = value


def differences(opt: SignA, data: Mapping[str, Any]) -> list[str]:
    """All that keeps a state from being loaded."""
    try:
        return list(_differences(opt, data))
    except (KeyError, TypeError, AttributeError) as error:
        return [f"it is damaged ({type(error).__name__}: {error})"]


def _differences(opt: SignA, data: Mapping[str, Any]) -> list[str]:
    header = data.get("signa")
    if not isinstance(header, Mapping):
        return ["it was not written by SignA (no 'signa' header)"]
    if header.get("format") != FORMAT:
        return [f"its format is {header.get('format')}, this version reads {FORMAT}"]
    parts = {"state": data, "param_groups": data, **dict.fromkeys(("step", "seed", "workers", "spec"), header)}
    if missing := [name for name, part in parts.items() if name not in part]:
        return [f"it is incomplete: {', '.join(missing)} missing"]
    found = [f"{key}: {header[key]!r} is no integer" for key in ("step", "seed") if not isinstance(header[key], int)]
    if header["workers"] != opt.transport.workers:
        found.append(f"workers: {header['workers']} there, {opt.transport.workers} here")
    found += spec_differences(opt, header["spec"])
    saved, own = data["state"], {route.named.name: route.named.parameter for route in opt.routing}
    for name in sorted(set(saved) - set(own)):
        found.append(f"'{name}' is there and not here: {closest(name, list(own))}")
    for name in sorted(set(own) - set(saved)):
        found.append(f"'{name}' is here and not there")
    for name in sorted(set(own) & set(saved)):
        for address, view in opt.state[own[name]].items():
            value = saved[name].get(address)
            if not isinstance(value, Tensor) or value.shape != view.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
                found.append(f"'{name}' {address}: {shape} there, {tuple(view.shape)} here")
    groups = [group["params"] for group in data["param_groups"]]
    if len(groups) != len(opt.param_groups) or any(
        set(there) != set(here["signa_names"]) for there, here in zip(groups, opt.param_groups, strict=False)
    ):
        found.append("the parameters are grouped otherwise")
    return found


#: What may differ between the spec that wrote a state and the one that reads it: it is in the state's own groups.
_FREE = ("lr", "weight_decay", "name", "match", "module", "ndim", "tied", "optional")


def spec_differences(opt: SignA, spec: Mapping[str, Any]) -> list[str]:
    """What makes the trajectory of a spec (its canonical data) another one than this optimizer's."""
    return _spec_differences(spec["groups"], json.loads(opt.spec.canonical())["groups"], "groups")


def _spec_differences(there: Any, here: Any, address: str) -> list[str]:
    """Addresses of everything that makes another trajectory: the methods, scalings and layouts."""
    if isinstance(there, dict) and isinstance(here, dict):
        free = _FREE if address.count(".") == 1 else ()
        keys = [key for key in {**there, **here} if key not in free]
        return [line for key in keys for line in _spec_differences(there.get(key), here.get(key), f"{address}.{key}")]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return [line for index, (a, b) in pairs for line in _spec_differences(a, b, f"{address}.{index}")]
    return [] if there == here else [f"{address}: {there!r} there, {here!r} here"]


__all__ = [
    "FORMAT",
    "differences",
    "export_facts",
    "export_groups",
    "export_header",
    "export_layout",
    "export_state",
    "export_views",
    "import_state",
    "spec_differences",
]
