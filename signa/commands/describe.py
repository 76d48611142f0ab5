"""`signa list`, `show`, `check` and `schema`: what there is, and what it comes to."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from ..errors import SpecError
    from ..rule import Registry
    from ..spec import Spec

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file of components; may be repeated.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("list")(list_command)
    app.command()(show)
    app.command()(check)
    app.command()(schema)


def list_command(
    sort: Annotated[str, typer.Argument(help="presets, lmos, stages, compressors, aggregators, ...")] = "",
    pattern: Annotated[str, typer.Argument(metavar="GLOB", help="Names to list: 'ef21*'.")] = "*",
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List everything that has a name, with a line about each."""
    from ..plugin import load_plugins
    from ..show import catalogue, list_text

    load_plugins(plugin or [])
    entries = catalogue(sort, pattern, _laboratory())
    if as_json:
        _print_json([{"sort": e.sort, "name": e.name, "summary": e.summary} for e in entries])
    elif entries:
        typer.echo(list_text(entries))


def show(
    what: Annotated[str, typer.Argument(metavar="NAME|SPEC", help="A name of `signa list`, or a spec file.")],
    shape: Annotated[str, typer.Option(help="The matrix that bits and lam are worked out for.")] = "768x768",
    theory: Annotated[bool, typer.Option(help="Add what is proven of it, and what speaks against it.")] = False,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Show what a preset, a component or a spec comes to: formula, trace, bits, and the YAML it equals."""
    from .. import show as text
    from ..plugin import load_plugins
    from ..spec import Spec

    size = _shape(shape)
    if Path(what).suffix:
        spec = Spec.load(what, plugins=plugin or [])
        groups = [text.describe_group(index, group, size, proofs=theory) for index, group in enumerate(spec.groups)]
        if as_json:
            _print_json({"id": spec.id, "groups": groups})
        else:
            typer.echo(text.spec_text(spec, size, proofs=theory))
        return
    load_plugins(plugin or [])
    found = [text.describe(entry, size, proofs=theory) for entry in text.find(what, _laboratory())]
    if as_json:
        _print_json(found)
    else:
        typer.echo("\n\n\n".join(map(text.show_text, found)))


def check(
    spec: Annotated[str, typer.Argument(help="A spec file or a preset's name.", show_default=False)] = "",
    model: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Route what this function returns, a torch.nn.Module.")
    ] = "",
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Check a spec, and with --model where its parameters go; with --plugin alone, put its components to the laws."""
    from ..errors import RoutingError, SpecError, UnsupportedParameter

    if not spec and not plugin:
        raise typer.BadParameter("give a spec, or a plug-in", param_hint="SPEC")
    try:
        if spec:
            report = _check_spec(spec, model, plugin or [])
        else:
            report = _check_laws(plugin or [])
    except SpecError as error:
        if not as_json:
            raise
        _print_json({"ok": False, "problems": _problems(error)})
        raise typer.Exit(2) from None
    except (RoutingError, UnsupportedParameter) as error:
        if as_json:
            _print_json({"ok": False, "problems": [{"what": str(error)}]})
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        _print_json({key: value for key, value in report.items() if key != "text"})
    else:
        typer.echo("\n".join(report["text"]))
    raise typer.Exit(0 if report["ok"] else 2)


def schema(
    out: Annotated[Path | None, typer.Option(help="Write to this file.", show_default="standard output")] = None,
    plugin: Plugins = None,
) -> None:
    """Print the JSON Schema of spec files, for editors: it lists what is registered, plug-ins included."""
    from ..plugin import load_plugins
    from ..spec import schema as document

    load_plugins(plugin or [])
    text = json.dumps(document(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        typer.echo(f"wrote {out}; begin a spec with\n# yaml-language-server: $schema={out}")


def _check_spec(source: str, model: str, plugins: list[Path]) -> dict[str, Any]:
    """Load a spec, its `train:` and `ablate:` too where it has them, and route a model."""
    spec, arms = _loaded(source, plugins)
    workers = spec.train.get("workers", 1)
    advice = [
        f"groups.{group.name or index}: {line}"
        for index, group in enumerate(spec.groups)
        for line in group.method.advice(workers)
    ]
    report: dict[str, Any] = {"ok": True, "id": spec.id, "groups": len(spec.groups), "advice": advice}
    fine = f"{source}: fine; spec {spec.id}, {len(spec.groups)} groups" + (f", {arms} arms" if arms else "")
    text = [fine, *(f"advice: {line}" for line in advice)]
    report |= {"arms": arms} if arms else {}
    if model:
        report |= _routed(spec, _build(model))
        up, down = report["bits"]["up"], report["bits"]["down"]
        text += ["", report.pop("table"), "", f"bits per parameter: {up:.4g} up, {down:.4g} down; float32 is 32 and 32"]
    return {**report, "text": text}


def _loaded(source: str, plugins: list[Path]) -> tuple[Spec, int]:
    """A spec, and how many arms its ablation has; 0 where it is none."""
    from ..sources import read
    from ..spec import Spec

    path = Path(source)
    data = read(path)[0] if path.suffix else {}
    if isinstance(data, dict) and data.keys() & {"spec", "ablate"}:
        from ..lab.ablation import load_ablation, make_plan

        base, section = load_ablation(source, plugins=plugins)
        return base, len(make_plan(base, section, name=path.stem).arms)
    spec = Spec.load(source, plugins=plugins)
    if spec.train and path.suffix:
        from ..lab.settings import load_experiment

        load_experiment(source, plugins=plugins)
    return spec, 0


def _routed(spec: Spec, model: nn.Module) -> dict[str, Any]:
    """Where a model's parameters go, and what a step costs, by arithmetic (no optimizer state is made)."""
    from ..routing import Routing

    routing = Routing.of(spec, model)
    up, down, _ = routing.bits()
    routes = [
        {"parameter": r.named.name, "shape": r.layout.shape, "group": r.group, "matrices": r.layout.count}
        for r in routing
    ]
    return {"table": str(routing), "routes": routes, "frozen": routing.frozen, "bits": {"up": up, "down": down}}


def _build(target: str) -> nn.Module:
    """The model that `module:function` returns. This runs the caller's own code, which is what --model asks for."""
    from importlib import import_module

    from torch import nn

    module, colon, name = target.partition(":")
    if not (colon and module and name):
        raise typer.BadParameter(f"'{target}' is not MODULE:FUNCTION", param_hint="--model")
    sys.path.insert(0, "")
    try:
        built = getattr(import_module(module), name)()
    except Exception as error:
        raise _refusal(f"--model {target}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(built, nn.Module):
        raise _refusal(f"--model {target} returned a {type(built).__name__}", instead="return a torch.nn.Module")
    return built


def _check_laws(plugins: list[Path]) -> dict[str, Any]:
    """Put every component that the plug-ins register to the laws of its sort."""
    from ..plugin import load_plugins
    from ..show import catalogue
    from ..testing import check_component, laws

    more = _laboratory()
    before = {(entry.sort, entry.name) for entry in catalogue(more=more)}
    load_plugins(plugins)
    results: list[dict[str, Any]] = []
    text = []
    for entry in catalogue(more=more):
        if (entry.sort, entry.name) in before:
            continue
        result: dict[str, Any] = {"sort": entry.sort, "name": entry.name, "ok": True}
        if entry.sort in more:
            said = "registered; there are no laws of its sort"
        elif isinstance(entry.item, type):
            try:
                rule = entry.item()
                check_component(rule)
                said = f"keeps the {len(laws(rule))} laws of its sort"
            except AssertionError as error:
                result |= {"ok": False, "what": str(error)}
                said = str(error)
            except (ValueError, TypeError) as error:
                said = f"not tried: {str(error).splitlines()[0]}"
        else:
            said = "composes"
        results.append(result)
        text.append(f"{entry.name} ({entry.sort}): {said}")
    names = ", ".join(map(str, plugins))
    text = text or [f"{names}: registers nothing"]
    return {"ok": all(result["ok"] for result in results), "components": results, "text": text}


def _laboratory() -> dict[str, Registry[Any]]:
    """The registries of `train:`."""
    from ..lab.datasets import splits
    from ..lab.models import networks
    from ..lab.schedules import schedules
    from ..lab.tasks import tasks

    return {"schedules": schedules, "tasks": tasks, "networks": networks, "splits": splits}


def _shape(text: str) -> tuple[int, int]:
    """`120x4608` as (120, 4608)."""
    m, cross, n = text.lower().partition("x")
    if not (cross and m.isdecimal() and n.isdecimal() and int(m) and int(n)):
        raise typer.BadParameter(f"'{text}' is not MxN", param_hint="--shape")
    return int(m), int(n)


def _problems(error: SpecError) -> list[dict[str, Any]]:
    problems = [asdict(problem) for problem in error.problems]
    return [{key: value for key, value in problem.items() if value not in ("", 0, ())} for problem in problems]


def _refusal(what: str, instead: str = "") -> SpecError:
    from ..errors import Problem, SpecError

    return SpecError([Problem(what, instead=instead)])


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))
