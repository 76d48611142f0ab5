"""The command line. Importing it is cheap: torch, rich and the optimizer are imported by the commands they serve."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import commands

if TYPE_CHECKING:
    from rich.console import Console

    from .lab.runner import Reporter, Result

__all__ = ["app", "main", "train"]

app = typer.Typer(
    name="signa", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@app.callback()
def signa() -> None:
    """SignA: distributed optimizers, each one sentence made of small parts."""


# Commands of other modules join here: `app.command()(module.function)`, the module being free of torch at import.
commands.register(app)


@app.command()
def train(
    spec: Annotated[str, typer.Argument(help="A spec file or a preset's name.", show_default="tiny-shakespeare")] = "",
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="ADDRESS=VALUE", help="Override one entry: groups.1.lr=0.05.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Simulated workers (train.workers).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (train.steps).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of model, batches and coins (train.seed).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (train.device).")] = None,
    out: Annotated[Path, typer.Option(help="The directory that holds the run folders.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="The run folder's name.", show_default="the spec's name")] = "",
    plugin: Annotated[list[Path] | None, typer.Option(help="A Python file of components; may be repeated.")] = None,
    compare: Annotated[
        str, typer.Option(metavar="NAMES", help="Run several methods: signmuon,muon,signsgd=0.01 (=learning rate).")
    ] = "",
) -> None:
    """Train a model: without arguments a character GPT by SignMuon, with five simulated workers voting."""
    flags = {"workers": workers, "steps": steps, "seed": seed, "device": device}
    changes = dict(_assignment(text) for text in assign or [])
    changes |= {f"train.{key}": value for key, value in flags.items() if value is not None}
    plugins = tuple(plugin or ())
    # Read when torch is loaded: how long an idle thread of libgomp spins. On two cores a step of the default takes
    # 0.25 s (0.5 s if threads sleep at once), and 0.6 s beside two other busy processes (5 s at the usual spin count).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

    from .lab import compare as lab_compare
    from .lab import runner
    from .lab.settings import load_experiment

    source = spec or _default_experiment(device)
    loaded = load_experiment(source, plugins=plugins, changes=changes)
    name = name or _stem(str(source)) + ("-compare" if compare else "")
    command = ["signa", *sys.argv[1:]]
    report, started = _reporter(), time.monotonic()
    if compare:
        methods = [word.strip() for word in compare.split(",") if word.strip()]
        lab_compare.refuse_changes(loaded, changes)
        folder, results = lab_compare.compare(
            loaded, methods, name=name, out=out, plugins=plugins, report=report, command=command
        )  # fmt: skip
        print("\n" + lab_compare.table(results))
    else:
        result = runner.train(loaded, name=name, out=out, plugins=plugins, report=report, command=command)
        folder = result.folder
        print(_closing(result))
    print(f"\n{folder} holds the spec, the metrics and the plot; {time.monotonic() - started:.0f} s in all")


def main() -> None:
    """Run the command line. A refusal goes to stderr and exits with 2, a failed run with 1, an interrupt with 130."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; what was measured stays in the run folder", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from .errors import SignaError, SpecError

        if not isinstance(error, SignaError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)


def _assignment(text: str) -> tuple[str, Any]:
    """`a.b=0.1` as ("a.b", 0.1)."""
    from .sources import read_value

    address, equals, value = text.partition("=")
    if not (equals and address.strip()):
        raise typer.BadParameter(f"'{text}' is not ADDRESS=VALUE", param_hint="--set")
    return address.strip(), read_value(value.strip())


def _default_experiment(device: str | None) -> Path:
    """The shipped spec for the device: the larger model where there is a GPU."""
    from .lab.runner import default_device

    gpu = (default_device() if device in (None, "auto") else str(device)).startswith("cuda")
    return Path(__file__).parent / "lab" / "data" / ("shakespeare_gpu.yaml" if gpu else "shakespeare.yaml")


def _stem(source: str) -> str:
    """A run name from a file's or a preset's name."""
    return re.sub(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+", "-", Path(source).stem).strip("-._")[:80] or "run"


def _closing(result: Result) -> str:
    """What a finished run says."""
    return "\n".join(
        [
            "",
            f"validation loss     {result.val_loss:.4f} nats per prediction, over the whole validation set",
            f"bits per parameter  {result.bits_up:.2f} up, {result.bits_down:.2f} down; float32 takes 32 and 32: "
            f"{result.round_trip:.1f} times less, round trip",
            f"seconds per step    {result.seconds_per_step:.3f} ({result.steps} steps, {result.workers} workers, "
            f"{result.parameters:,} parameters, {result.tokens:,} training tokens)",
            "",
            *(f"  | {line}" for line in result.sample.splitlines()),
        ]
    )


def _reporter() -> Reporter:
    """A live line on a terminal where rich is installed, sparse plain lines elsewhere."""
    try:
        from rich.console import Console
    except ImportError:
        return _Lines()
    console = Console()
    return _Live(console) if console.is_terminal else _Lines()


class _Live:
    """One line that moves: step, losses, time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seen = {"train": "", "val": ""}

    def start(self, name: str, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        left = TimeRemainingColumn(elapsed_when_finished=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            left,
            TextColumn("{task.fields[losses]}"),
        )
        self.seen = {"train": "", "val": ""}
        self.bar = Progress(*columns, console=self.console)
        self.bar.start()
        self.task = self.bar.add_task(name, total=steps, losses="")

    def progress(self, step: int, *, train_loss: float | None = None, val_loss: float | None = None) -> None:
        for key, value in (("train", train_loss), ("val", val_loss)):
            self.seen[key] = f"{key} {value:.3f}" if value is not None else self.seen[key]
        self.bar.update(self.task, completed=step, losses="  ".join(filter(None, self.seen.values())))

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        self.bar.stop()


class _Lines:
    """A line at each evaluation, for logs and pipes."""

    def start(self, name: str, steps: int) -> None:
        self.name, self.steps, self.loss, self.begun = name, steps, "", time.monotonic()
        print(f"{name}: {steps} steps", flush=True)

    def progress(self, step: int, *, train_loss: float | None = None, val_loss: float | None = None) -> None:
        self.loss = f"train {train_loss:.4f}  " if train_loss is not None else self.loss
        if val_loss is not None:
            left = (time.monotonic() - self.begun) / step * (self.steps - step)
            print(
                f"{self.name}: step {step}/{self.steps}  {self.loss}val {val_loss:.4f}  {left:.0f} s left", flush=True
            )

    def say(self, line: str) -> None:
        print(line, flush=True)

    def stop(self) -> None:
        return
