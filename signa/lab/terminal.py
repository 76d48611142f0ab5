"""What a run says on a terminal or in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from .report import Reporter, Result, Silent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["closing", "reporter"]


def closing(result: Result) -> str:
    """What a finished run says."""
    return "\n".join(
        [
            "",
            *measured(result),
            f"bits per parameter  {result.bits_up:.2f} up, {result.bits_down:.2f} down; float32 takes 32 and 32: "
            f"{result.round_trip:.1f} times less, round trip",
            *sent(result),
            f"seconds per step    {result.seconds_per_step:.3f} ({result.steps} steps, {result.workers} workers, "
            f"{result.parameters:,} parameters, {result.examples:,} training examples)",
            "",
            *(f"  | {line}" for line in result.sample.splitlines()),
        ]
    )


def measured(result: Result) -> list[str]:
    """The metrics in words, the goal's first."""
    names = sorted(result.metrics, key=lambda name: name != result.goal.metric)
    return [f"{name.replace('_', ' ').replace('val ', 'validation '):<19} {result.metrics[name]:.4f}" for name in names]


def brief(metrics: Mapping[str, float]) -> str:
    """The first three metrics in a few characters each."""
    return "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in [*metrics.items()][:3])


def sent(result: Result) -> list[str]:
    """What was really sent."""
    if result.ranks == 1:
        return ["payload             none: the workers share one process"]
    lines = [
        f"payload of rank 0   {result.payload_sent:,.0f} bytes sent and {result.payload_received:,.0f} received "
        f"a step: {result.payload_bits_up:.2f} and {result.payload_bits_down:.2f} bits per parameter and worker there"
    ]
    if result.interface_sent is not None and result.interface_received is not None:
        lines.append(
            f"host's interfaces   {result.interface_sent:,.0f} bytes sent and {result.interface_received:,.0f} "
            "received a step, loopback and other programs included"
        )
    return lines


def reporter(leads: bool) -> Reporter:
    """A live line on a terminal where rich is installed, sparse lines elsewhere; nothing where another rank leads."""
    if not leads:
        return Silent()
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

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        if train_loss is not None:
            self.seen["train"] = f"train {train_loss:.3f}"
        if metrics is not None:
            self.seen["val"] = brief(metrics)
        self.bar.update(self.task, completed=step, losses="  ".join(filter(None, self.seen.values())))

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        self.bar.stop()


class _Lines:
    """A line at each evaluation, for logs and pipes."""

    def start(self, name: str, steps: int) -> None:
        self.name, self.steps, self.loss, self.begun = name, steps, "", time.monotonic()
        typer.echo(f"{name}: {steps} steps")

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        self.loss = f"train {train_loss:.4f}  " if train_loss is not None else self.loss
        if metrics is not None:
            left = (time.monotonic() - self.begun) / step * (self.steps - step)
            typer.echo(f"{self.name}: step {step}/{self.steps}  {self.loss}{brief(metrics)}  {left:.0f} s left")

    def say(self, line: str) -> None:
        typer.echo(line)

    def stop(self) -> None:
        return
