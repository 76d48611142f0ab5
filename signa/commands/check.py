"""`signa check`: a spec, where its parameters go, and two steps of it; or a plug-in's components, law by law."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    A_SPEC,
    MODELS,
    AsJson,
    Plugins,
    counted,
    experiment_of,
    laboratory,
    model_of,
    one_of,
    print_json,
    verb,
)

if TYPE_CHECKING:
    from torch import nn

    from ..errors import SpecError
    from ..lab.ablation import Ablation
    from ..show import Entry
    from ..spec import Spec

#: More entries than these times workers are not tried: a quarter of a gigabyte of gradients alone.
_MOST = 2**26


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "check signmuon --model 64x64")(check)


def check(
    spec: Annotated[str, typer.Argument(help="A spec file, a preset's name, or a sentence.", **A_SPEC)] = "",
    model: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(*MODELS),
            help="Route and try MODULE:FUNCTION's torch.nn.Module, or route gpt2, 512x512*31, ...",
        ),
    ] = "",
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many take the trial steps.", show_default="train.workers, or 3")
    ] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Check a spec: it is valid, its parts compose, a model's parameters have a group, and two steps can be taken.

    With --plugin alone, put the file's components to the laws of their sort, a golden step and a pair of processes.
    """
    from ..errors import RoutingError, SpecError, UnsupportedParameter

    if not spec and not plugin:
        raise typer.BadParameter(
            "give a spec, or a plug-in: signa check signmuon, signa check --plugin my_lmo.py", param_hint="SPEC"
        )
    if not spec and (model or workers):
        hint = "--model" if model else "--workers"
        raise typer.BadParameter("it goes with a spec: give one", param_hint=hint)
    try:
        report = _check_spec(spec, model, workers, plugin or []) if spec else _check_plugins(plugin or [])
    except SpecError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": _problems(error)})
        raise typer.Exit(2) from None
    except (RoutingError, UnsupportedParameter) as error:
        if as_json:
            print_json({"ok": False, "problems": [{"what": str(error)}]})
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        print_json({"ok": report.ok, **report.data})
    else:
        typer.echo("\n".join(report.text))
    raise typer.Exit(0 if report.ok else 2)


@dataclass
class _Report:
    """What was found, as data and as text."""

    ok: bool = True
    data: dict[str, Any] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)


# A spec ---------------------------------------------------------------------------------------------------------------


def _check_spec(source: str, model: str, workers: int | None, plugins: list[Path]) -> _Report:
    """Load a spec, its `train:` and `ablate:` too where it has them, route a model, and take two steps."""
    from ..address import labels

    spec, section, arms = experiment_of(source, plugins)
    count = workers or spec.train.get("workers", 0)
    advice = [
        f"groups.{group.name or index}: {line}"
        for index, group in enumerate(spec.groups)
        for line in group.method.advice(count or 1)
    ]
    report = _Report(data={"id": spec.id, "groups": len(spec.groups), "advice": advice})
    fine = f"{source}: fine; spec {spec.id}, {counted(len(spec.groups), 'group')} ({', '.join(labels(spec.groups))})"
    if spec.train or section:
        whole = _id(spec, section)
        report.data["experiment"] = whole
        fine += f"; experiment {whole}, with {'train: and ablate:' if section else 'train:'}"
    if arms:
        report.data["arms"] = arms
        fine += f", {arms} arms"
    report.text += [fine, *(f"advice: {line}" for line in advice)]
    module = None
    if model:
        module = _route(report, spec, model)
    _try(report, spec, module, bool(model), count)
    return report


def _id(spec: Spec, section: Ablation | None) -> str:
    """Twelve hex digits of sha256 over everything that the file says: the groups, `train:` and `ablate:`."""
    from ..rule import plain

    told = {"spec": spec.canonical(), "train": plain(spec.train), "ablate": plain(section) if section else None}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _route(report: _Report, spec: Spec, model: str) -> nn.Module | None:
    """Where a model's parameters go, and what a step costs, by arithmetic (no optimizer state is made)."""
    from ..routing import Routing

    named, module = model_of(model)
    routing = Routing.of(spec, module if module is not None else named)
    up, down, _ = routing.bits()
    report.data["routes"] = [
        {"parameter": r.named.name, "shape": r.layout.shape, "group": r.group, "matrices": r.layout.count}
        for r in routing
    ]
    report.data |= {"frozen": routing.frozen, "bits": {"up": up, "down": down}}
    bits = f"bits per parameter: {up:.4g} up, {down:.4g} down; float32 is 32 and 32"
    report.text += ["", str(routing), "", bits]
    return module


def _try(report: _Report, spec: Spec, module: nn.Module | None, routed: bool, workers: int) -> None:
    """Two steps along Gaussian gradients: of the model, or of a small matrix for every group where there is none."""
    if routed and module is None:
        tried, said = None, "left out: the model is known by its shapes alone; MODULE:FUNCTION would be tried"
    elif module is not None:
        entries = sum(p.numel() for p in module.parameters() if p.requires_grad) * (workers or 3)
        if entries > _MOST:
            tried, said = None, f"left out: {entries:,} entries of gradients are more than a check should hold"
        else:
            tried, said = _stepped(spec, module, workers)
    else:
        tried, said = _stand_ins(spec, workers)
    report.ok = report.ok and tried is not False
    report.data["dry_run"] = {"ok": tried, "what": said}
    report.text.append(f"dry run: {said}")


def _stand_ins(spec: Spec, workers: int) -> tuple[bool, str]:
    """Every group's method on a 12 x 8 matrix."""
    import torch
    from torch import nn

    said = ""
    for index, group in enumerate(spec.groups):
        own = {"lr": group.lr, "weight_decay": group.weight_decay, "scaling": group.scaling, "method": group.method}
        generator = torch.Generator().manual_seed(index)
        matrix = nn.ParameterDict({"matrix": nn.Parameter(torch.randn(12, 8, generator=generator))})
        fine, said = _stepped({"groups": [own]}, matrix, workers)
        if not fine:
            return False, f"groups.{group.name or index}: {said}"
    return True, f"{said}, on a 12x8 matrix for each group"


def _stepped(spec: Any, module: nn.Module, workers: int) -> tuple[bool, str]:
    """Whether two steps leave every parameter finite and none as it was, and that in words."""
    import warnings

    import torch

    from ..building import build
    from ..errors import Advice, SignaError
    from ..transport import Loopback

    count, steps = workers or 3, 2
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Advice)  # the check lists it
            optimizer = build(spec, module, transport=Loopback(count))
            for _ in range(steps):
                optimizer.zero_grad()
                for worker in range(count):
                    with optimizer.worker(worker):
                        for p in module.parameters():
                            g = torch.randn(p.shape, generator=generator).to(p)
                            p.grad = g if p.requires_grad else None
                optimizer.step()
    except SignaError as error:
        remedy = "" if workers else f"\n  (tried with {count} workers: --workers N says how many)"
        return False, f"{error}{remedy}"
    except Exception as error:  # of a component that is not ours, or of a model's own hooks
        return False, f"{type(error).__name__}: {error}"
    after = {name: p.detach() for name, p in module.named_parameters()}
    if wild := [name for name in before if not torch.isfinite(after[name]).all()]:
        return False, f"{', '.join(wild[:3])}: not finite after {steps} steps of {count} workers"
    still = [name for name in before if before[name].numel() and torch.equal(before[name], after[name])]
    moved = f"; not moved: {', '.join(still[:3])}, of {len(still)}" if still else " and moved"
    return True, f"{counted(steps, 'step')} of {counted(count, 'worker')}, every parameter finite{moved}"


# A plug-in ------------------------------------------------------------------------------------------------------------


def _check_plugins(plugins: list[Path]) -> _Report:
    """Put every component that the plug-ins register to the laws of its sort, and to the trials."""
    from ..errors import Problem, SpecError
    from ..plugin import load_plugins
    from ..show import catalogue

    more = laboratory()
    before = {(entry.sort, entry.name) for entry in catalogue(more=more)}
    load_plugins(plugins)
    new = [entry for entry in catalogue(more=more) if (entry.sort, entry.name) not in before]
    if not new:
        what = f"{', '.join(map(str, plugins))}: no component is registered there, so there is nothing to check"
        raise SpecError([Problem(what, instead="put @signa.lmos.register, or that of another sort, above the class")])
    found = [{"sort": entry.sort, "name": entry.name, **_held(entry, entry.sort in more)} for entry in new]
    text = [f"{item['name']} ({item['sort']}): {item['what']}" for item in found]
    return _Report(all(item["ok"] for item in found), {"components": found}, text)


def _held(entry: Entry, lawless: bool) -> dict[str, Any]:
    """Whether a component keeps its laws, and that in words."""
    from ..errors import SpecError
    from ..testing import TRIALS, check_component, laws

    if lawless or not isinstance(entry.item, type):
        said = "registered; there are no laws of its sort" if lawless else "composes"
        return {"ok": True, "what": said}
    if missing := sorted(getattr(entry.item, "__abstractmethods__", ())):
        return {"ok": False, "what": f"lacks {' and '.join(missing)}: write {'it' if len(missing) == 1 else 'them'}"}
    try:
        rule = entry.item()
    except (SpecError, ValueError, TypeError) as error:
        said = str(error).splitlines()[0]
        return {"ok": False, "what": f"cannot be tried without its fields ({said}): give them defaults"}
    try:
        check_component(rule)
    except AssertionError as error:
        return {"ok": False, "what": str(error)}
    return {"ok": True, "what": f"keeps the {len(laws(rule))} laws of its sort, and passes {' and '.join(TRIALS)}"}


def _problems(error: SpecError) -> list[dict[str, Any]]:
    problems = [asdict(problem) for problem in error.problems]
    return [{key: value for key, value in problem.items() if value not in ("", 0, ())} for problem in problems]
