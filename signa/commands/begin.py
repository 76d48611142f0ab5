"""`signa init` and `signa new`: files to begin with, which work as they are."""

from __future__ import annotations

import keyword
import os
import re
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import A_SPEC, KINDS, Plugins, one_of, verb

if TYPE_CHECKING:
    from ..rule import Registry

_NAME = r"[a-z][a-z0-9_]*"  # what a spec can call a component
_TEMPLATES = Path(__file__).parent / "templates"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    verb(app, "init my-project --method signmuon")(init)
    verb(app, "new lmo hadamard")(new)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the files go; made where it is not there.")
    ] = Path(),
    method: Annotated[
        str, typer.Option(help="Of the matrices: a preset's name, or a sentence.", **{**A_SPEC, "show_default": True})
    ] = "signmuon",
    workers: Annotated[int, typer.Option(min=1, help="How many vote.")] = 5,
    plugin: Plugins = None,
) -> None:
    """Begin a project: a spec, its schema for the editor, and a training script of twenty lines.

    The spec is one for `signa train`, and the script uses it for a model of your own; change both.
    """
    import json

    from ..lab.json_schema import document
    from ..presets.registry import presets
    from ..rule import plain
    from ..spec import dump_yaml
    from ..written import is_sentence
    from .common import method_of

    chosen = method_of(method, plugins=plugin or [])
    if is_sentence(method):
        rate, parts = 0.02, dump_yaml(plain(chosen, resolved=False)).rstrip().replace("\n", "\n    ")
    else:
        name = presets.canonical(method)
        rate, parts = presets.get(name).lr, f"method: {name}"
    words = {"method": parts, "lr": repr(rate), "workers": str(workers), "sentence": str(chosen)}
    _write(
        folder,
        {
            "spec.yaml": _filled("spec.yaml", words),
            "signa.schema.json": json.dumps(document(), indent=2) + "\n",
            "train.py": _filled("train.py", words),
        },
    )
    at = "" if folder == Path() else f"{folder}/"
    typer.echo(
        f"next:\n  signa check {at}spec.yaml\n  signa train {at}spec.yaml      # a small GPT on Shakespeare\n"
        f"  python {at}train.py            # the same optimizer in a loop of your own"
    )


def new(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="lmo, compressor, aggregator or stage.", autocompletion=one_of(*KINDS))
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What specs will call it: hadamard, top_rows.")],
    out: Annotated[Path, typer.Option(help="The folder for its three files.")] = Path(),
) -> None:
    """Begin a component of your own: NAME.py, test_NAME.py with every law, and a page; all work as they are."""
    from ..lab.records import run_named

    taken = _registry(kind).names()
    if not re.fullmatch(_NAME, name) or keyword.iskeyword(name):
        near = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).strip("_").lower()
        fits = re.fullmatch(_NAME, near) and not keyword.iskeyword(near)
        write = near if fits else "it in small letters, digits and _"
        raise typer.BadParameter(f"'{name}' is no name for specs: write {write}")
    run_named(name)  # on Windows con.py is a device
    if name in taken:
        raise typer.BadParameter(f"the name '{name}' is taken: see signa show {name}")
    if name in sys.stdlib_module_names or name in ("torch", "signa", "numpy", "pytest"):
        raise typer.BadParameter(f"{name}.py would hide the module '{name}': choose another name")
    words = {"name": name, "Class": "".join(part.capitalize() for part in name.split("_")), "kind": kind}
    texts = {
        f"{name}.py": _filled(f"{kind}.py", words),
        f"test_{name}.py": _filled(f"test_{kind}.py", words),
        f"{name}.md": _filled(f"{kind}.md", words),
    }
    _write(out, texts)
    at = "" if out == Path() else f"{out}/"
    typer.echo(f"next:\n  signa check --plugin {at}{name}.py\n  python -m pytest {at}test_{name}.py")


def _registry(kind: str) -> Registry[Any]:
    """The registry of a kind that has a template.

    Raises:
        SpecError: there is none.
    """
    from ..aggregators import aggregators
    from ..compressors import compressors
    from ..lab.refusal import refusal
    from ..rule import closest
    from ..stage import stages

    # An LMO is a stage, and shares its names.
    found: dict[str, Registry[Any]] = {"lmo": stages, "compressor": compressors, "aggregator": aggregators}
    found |= {"stage": stages}
    if kind not in found:
        raise refusal(f"there is no template for a '{kind}'", instead=closest(kind, list(found)))
    return found[kind]


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Every file, or none where one is there already.

    Raises:
        SpecError: naming what is in the way.
    """
    from ..lab.refusal import denied, refusal

    there = [name for name in texts if os.path.lexists(folder / name)]  # a link that leads nowhere is in the way, too
    if there:
        raise refusal(
            f"{', '.join(str(folder / name) for name in there)} would be written over",
            because="nothing of yours is replaced",
            instead="name another folder, or move the file away",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:  # never through what appeared meanwhile
                file.write(text)
            typer.echo(f"wrote {folder / name}")
    except (OSError, ValueError) as error:
        raise denied(f"{folder} cannot be written", error, instead="name another folder") from None
