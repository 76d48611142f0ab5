"""The public names and the command line, from their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import typer
from typer.testing import CliRunner

from .parts import ROOT
from .words import code, markdown, prose, table

#: The modules that users import from. A page each.
MODULES = (
    "signa", "signa.errors", "signa.signal", "signa.stages", "signa.compressors", "signa.aggregators", "signa.lmo",
    "signa.presets", "signa.transport", "signa.checkpoints", "signa.theory", "signa.planner", "signa.testing",
    "signa.lab.tasks", "signa.lab.ablation", "signa.lab.diagnostics", "signa.flower",
)  # fmt: skip


def pages() -> dict[str, str]:
    """A page for each module, one for the commands, and one that lists them."""
    found = {f"api/{name}.md": _module(name) for name in MODULES}
    rows = [(f"[`{name}`]({name}.md)", prose(_first(importlib.import_module(name)))) for name in MODULES]
    rows.append(("[`signa` on the command line](commands.md)", "every command with its options"))
    head = "# API\n\nWhat a module exports, from its docstrings. Names that are not here may change without notice.\n\n"
    return {"api/index.md": head + table(("module", "holds"), rows) + "\n", "api/commands.md": _commands(), **found}


def public(module: ModuleType) -> dict[str, Any]:
    """What a module exports: its ``__all__``, or what it defines itself."""
    own = [
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", "") == module.__name__
    ]
    return {
        name: getattr(module, name) for name in sorted(getattr(module, "__all__", own), key=str.lower) if name[0] != "_"
    }


def _first(value: object) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


def _module(name: str) -> str:
    module = importlib.import_module(name)
    parts = [f"# {name}", markdown(module.__doc__)]
    for key, value in public(module).items():
        parts += _thing(key, value)
    return "\n\n".join(filter(None, parts)) + "\n"


def _thing(name: str, value: Any) -> list[str]:
    """A class with its methods, a function, a registry, or a constant."""
    if inspect.ismodule(value):
        page = f"{value.__name__}.md" if value.__name__ in MODULES else ""
        return [f"## {name}", (f"The module [`{value.__name__}`]({page}). " if page else "") + prose(_first(value))]
    if inspect.isclass(value):
        return [f"## {name}", _call(name, value), markdown(value.__doc__), *_methods(value), _place(value)]
    if inspect.isroutine(value):
        return [f"## {name}", _call(name, value), markdown(value.__doc__), _place(value)]
    kind = type(value)
    of = "" if kind.__module__ == "builtins" else f" {prose(_first(value) if value.__doc__ else '')}"
    return [f"## {name}", f"{code(f'{name}: {kind.__name__}')}{of}"]


def _call(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    text = _unquoted(f"{name}{signature}")
    if len(text) > 90:
        inside = "".join(f"    {line},\n" for line in _lines(signature))
        text = _unquoted(f"{name}(\n{inside}){str(signature.replace(parameters=[]))[2:]}")
    return f"```python\n{text}\n```"


def _unquoted(text: str) -> str:
    """Annotations are text; a default that is text keeps its quotation marks."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _lines(signature: inspect.Signature) -> list[str]:
    """A parameter a line, and the bare star before those that go by keyword alone."""
    lines, kinds = [], [p.kind for p in signature.parameters.values()]
    for place, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY and not {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & {
            *kinds[:place]
        }:
            lines.append("*")
        lines.append(str(parameter))
    return lines


def _methods(cls: type[Any]) -> list[str]:
    """The class's own public methods, without those of its bases."""
    parts: list[str] = []
    for name, item in vars(cls).items():
        method = getattr(item, "fget", None) or getattr(item, "func", None) or getattr(item, "__func__", item)
        if name[0] == "_" or not inspect.isfunction(method) or not method.__doc__:
            continue
        asked = isinstance(item, property) or hasattr(item, "func")
        parts += [f"### {cls.__name__}.{name}", "" if asked else _call(name, method), markdown(method.__doc__)]
    return parts


def _place(value: Any) -> str:
    try:
        path, line = inspect.getsourcefile(value) or "", inspect.getsourcelines(value)[1]
    except (OSError, TypeError):
        return ""
    if not path.startswith(str(ROOT / "signa")):
        return ""
    path = path[len(str(ROOT)) + 1 :]
    return f"[{path}, line {line}](repo:{path}#L{line}){{ .place }}"


def _commands() -> str:
    from signa import cli

    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    parts = ["# The command line"]
    for name in verbs:
        said = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
        parts += [f"## signa {name}", f"```text\n{said.strip()}\n```"]
    return "\n\n".join(parts) + "\n"
