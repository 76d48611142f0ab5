"""What several commands share: their options, and how a spec, a method, a model or a size is read from a word."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from ..lab.ablation import Ablation
    from ..routing import Named
    from ..rule import Registry
    from ..sentence import Method
    from ..spec import Spec

__all__ = [
    "BENCHMARKS",
    "KINDS",
    "MODELS",
    "SORTS",
    "AsJson",
    "Assign",
    "Plugins",
    "assignment",
    "build_module",
    "experiment_of",
    "laboratory",
    "leads",
    "method_of",
    "model_of",
    "one_of",
    "print_json",
    "ranks",
    "refuse_paths",
    "size_of",
    "spec_of",
    "stem",
    "styled",
    "verb",
    "write_file",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class _Verb(TyperCommand):
    """A command that says everything that is missing at once, with a line that works."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, but for what it says of a missing word."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if type(error).__name__ != "MissingParameter":  # typer has no name for it
                raise
            given = self.make_parser(ctx).parse_args(words)[0]
            lacking = [
                each
                for each in self.get_params(ctx)
                if each.required and not isinstance(given.get(str(each.name)), str)
            ]
            names = [each.opts[0] if each.param_type_name == "option" else str(each.metavar) for each in lacking]
            return ctx.fail(f"missing {', '.join(names)}\n{self.epilog}")


def verb(app: typer.Typer, example: str, name: str | None = None) -> Callable[[Any], Any]:
    """Registers a command with a line that works, which stands in its help and in what is said of missing words."""
    return app.command(name, cls=_Verb, epilog=f"Example: signa {example}")


def counted(number: int, noun: str) -> str:
    """``1 group``, ``2 groups``.

    >>> counted(1, "group"), counted(1200, "group")
    ('1 group', '1,200 groups')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _presets(incomplete: str) -> list[str]:
    """What a shell offers behind a half-written name: shipped presets, by their files, for torch takes seconds."""
    names = sorted(file.stem for file in (Path(__file__).parents[1] / "presets").glob("*.yaml"))
    files = [str(path) for pattern in ("*.yaml", "*.yml", "*.toml", "*.json") for path in sorted(Path().glob(pattern))]
    return [name for name in (*names, *files) if name.startswith(incomplete)]


def one_of(*names: str) -> Callable[[str], list[str]]:
    """The shell's completion of a word that is one of these."""

    def completed(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return completed


#: What the shell offers where torch would take seconds to say it; a test compares them with what there is.
SORTS = (
    "aggregators", "compressors", "feedbacks", "iterations", "lmos", "networks", "presets", "scalings", "schedules",
    "splits", "stages", "tasks",
)  # fmt: skip
MODELS = (
    "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl", "llama70b", "llama7b", "resnet18", "resnet50", "tinyllama",
)  # fmt: skip
BENCHMARKS = ("exchange", "pack", "simulate", "spectral", "step", "vote")
KINDS = ("aggregator", "compressor", "lmo", "stage")
#: The metavar, and the shell's completion, of a word that is read by :func:`spec_of`.
A_SPEC: dict[str, Any] = {"metavar": "SPEC", "autocompletion": _presets, "show_default": False}
Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file of components; may be repeated.")]
Assign = Annotated[list[str] | None, typer.Option("--set", metavar="ADDRESS=VALUE", help="Change an entry.")]
_LR = 0.02  # of a sentence's matrices, where the command has none of its own


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return max(1, int(size)) if (size := os.environ.get("WORLD_SIZE", "")).isdecimal() else 1


def leads() -> bool:
    """Whether this process prints."""
    return ranks() == 1 or os.environ.get("RANK", "0") == "0"


def print_json(data: Any) -> None:
    """JSON with two spaces, as every ``--json`` prints it."""
    typer.echo(json.dumps(data, indent=2))


def write_file(path: Path, text: str) -> None:
    """The file that the caller named, whole.

    Raises:
        SpecError: it cannot be written.
    """
    from ..lab.refusal import denied

    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise denied(f"{path} cannot be written", error, instead="name another file") from None


def styled(text: str, **how: Any) -> str:
    """Coloured text, which `typer.echo` makes plain where there is no terminal; plain at once if NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, **how)


def assignment(text: str) -> tuple[str, Any]:
    """``a.b=0.1`` as ("a.b", 0.1)."""
    from ..sources import read_value

    address, equals, value = text.partition("=")
    if not (equals and address.strip()):
        raise typer.BadParameter(f"'{text}' is not ADDRESS=VALUE", param_hint="--set")
    return address.strip(), read_value(value.strip())


def stem(source: str) -> str:
    """A folder's name from a file's or a preset's.

    >>> stem("specs/my run.yaml"), stem("momentum | sign")
    ('my-run', 'momentum-sign')
    """
    return re.sub(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+", "-", Path(source).stem).strip("-._")[:80] or "run"


def size_of(text: str, hint: str = "--shape") -> tuple[int, int]:
    """``120x4608`` as (120, 4608)."""
    m, cross, n = text.lower().partition("x")
    if not (cross and all(re.fullmatch(r"0{0,9}[1-9][0-9]{0,9}", length) for length in (m, n))):
        raise typer.BadParameter(f"'{text}' is not MxN", param_hint=hint)
    return int(m), int(n)


def spec_of(text: str, plugins: Sequence[Path] = ()) -> Spec:
    """A spec file, a preset's name, or a sentence, which then stands for a model's matrices.

    Raises:
        SpecError: everything that is wrong with it.
    """
    from ..plugin import load_plugins
    from ..spec import Spec, for_preset
    from ..written import is_sentence, read_method

    load_plugins(plugins)
    if is_sentence(text):
        return for_preset(read_method(text), _LR)
    refuse_paths(text)
    return Spec.load(text, plugins=plugins)


def refuse_paths(text: str) -> None:
    """A word that names no preset, but a folder, or nearly a spec file.

    Raises:
        SpecError: saying which file was probably meant.
    """
    from ..lab.refusal import refusal
    from ..presets.registry import presets, unknown_preset
    from ..sources import beside, is_source

    if Path(text).suffix or presets.canonical(text) in presets.names():
        return
    near = beside(Path(text), is_source)
    if os.path.isdir(text):
        inside = Path(text) / "spec.yaml"
        near = f"name the file in it: {inside}" if is_source(str(inside)) else near or "name a spec file"
        raise refusal(f"'{text}' is a folder", because="a spec is a file, a preset's name or a sentence", instead=near)
    if near and not unknown_preset(text).instead.startswith("did"):
        raise refusal(f"there is no preset and no file '{text}'", instead=near)


def experiment_of(source: str, plugins: list[Path]) -> tuple[Spec, Ablation | None, int]:
    """A spec with its settings written out, its section `ablate:`, and how many arms that has."""
    from ..sources import read
    from ..written import is_sentence

    path = Path(source)
    if is_sentence(source) or not path.suffix:
        return spec_of(source, plugins), None, 0
    data = read(path)[0]
    if isinstance(data, dict) and data.keys() & {"spec", "ablate"}:
        from ..lab.ablation import load_ablation, make_plan

        base, section = load_ablation(source, plugins=plugins)
        return base, section, len(make_plan(base, section, name=path.stem).arms)
    spec = spec_of(source, plugins)
    if spec.train:
        from ..lab.settings import load_experiment

        spec = load_experiment(source, plugins=plugins)
    return spec, None, 0


def method_of(text: str, group: str = "", plugins: Sequence[Path] = ()) -> Method:
    """One method: a preset's, a sentence's, or that of a spec file's group.

    Raises:
        SpecError: everything that is wrong with it; a file has several groups, and none is named.
    """
    from ..lab.refusal import refusal
    from ..plugin import load_plugins
    from ..presets.registry import method
    from ..spec import Spec
    from ..written import is_sentence, read_method

    load_plugins(plugins)
    if is_sentence(text) or not Path(text).suffix:
        if group:
            raise refusal("--group does not go with a name", because="it is one method", instead="leave it out")
        if is_sentence(text):
            return read_method(text)
        refuse_paths(text)
        return method(text)
    groups = Spec.load(text, plugins=plugins).groups
    names = {name: each.method for index, each in enumerate(groups) for name in (str(index), each.name) if name}
    if len(groups) == 1 and not group:
        return groups[0].method
    if group not in names:
        raise refusal(
            f"'{group}' is no group of {text}" if group else f"{text} has {len(groups)} groups",
            because="this is about one method",
            instead=f"give --group, one of {', '.join(each.name or str(i) for i, each in enumerate(groups))}",
        )
    return names[group]


def model_of(text: str) -> tuple[list[Named], nn.Module | None]:
    """A model's parameters by its name, its shapes or a file of them, or MODULE:FUNCTION, and then the module too."""
    from ..planner import of_module, of_text

    if ":" not in text:
        return of_text(text), None
    module = build_module(text)
    return of_module(module), module


def build_module(target: str) -> nn.Module:
    """The model that ``module:function`` returns. This runs the caller's own code, which is what --model asks for."""
    from importlib import import_module

    from torch import nn

    from ..errors import a_or_an
    from ..lab.refusal import refusal

    module, colon, name = target.partition(":")
    if not (colon and module and name):
        raise typer.BadParameter(f"'{target}' is not MODULE:FUNCTION", param_hint="--model")
    sys.path.insert(0, "")
    try:
        built = getattr(import_module(module), name)()
    except Exception as error:
        raise refusal(f"--model {target}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(built, nn.Module):
        what = f"--model {target} returned {a_or_an(type(built).__name__)}"
        raise refusal(what, instead="return a torch.nn.Module")
    return built


def laboratory() -> dict[str, Registry[Any]]:
    """The registries of `train:`."""
    from ..lab.datasets import splits
    from ..lab.models import networks
    from ..lab.schedules import schedules
    from ..lab.tasks import tasks

    return {"schedules": schedules, "tasks": tasks, "networks": networks, "splits": splits}
