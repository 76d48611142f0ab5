"""What an ablation says while it goes on: a live display where rich is installed, else a line for each run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .tuning import Outcome, Run

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Board", "Clock", "Lines", "Live", "Quiet", "RunReport", "lasts", "title"]


class Board(Protocol):
    """Who is told how an ablation goes."""

    def expect(self, done: int, total: int, steps: int) -> None:
        """So many runs of those that are known are over; a run has so many steps."""

    def begin(self, run: Run) -> None:
        """A run starts."""

    def step(self, run: Run, step: int) -> None:
        """A run has come to a step."""

    def end(self, run: Run, outcome: Outcome) -> None:
        """A run is over."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""

    def close(self) -> None:
        """Nothing more comes."""


def title(run: Run) -> str:
    """A run in a few words.

    >>> title(Run("schedule=polar6", 0.02, 3)), title(Run("base", None, 0))
    ('schedule=polar6, lr 0.02, seed 3', 'base, seed 0')
    """
    return f"{run.arm}, lr {run.rate:g}, seed {run.seed}" if run.rate is not None else f"{run.arm}, seed {run.seed}"


def lasts(seconds: float) -> str:
    """A time for people.

    >>> lasts(42), lasts(600), lasts(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Clock:
    """How long what is left will take, at the pace of this call: by steps, whichever run they belong to."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.begun = now, now()
        self.at: dict[Run, int] = {}
        self.over = self.done = self.total = self.steps = 0

    def left(self) -> float | None:
        """Seconds; None before the first step."""
        taken = self.over + sum(self.at.values())
        to_do = (self.total - self.done) * self.steps - sum(self.at.values())
        return (self.now() - self.begun) / taken * to_do if taken else None

    def left_text(self) -> str:
        """For people."""
        left = self.left()
        return f"about {lasts(left)} left" if left is not None else "time left not known yet"


class Quiet:
    """Tells nobody."""

    def expect(self, done: int, total: int, steps: int) -> None:
        """Nothing."""

    def begin(self, run: Run) -> None:
        """Nothing."""

    def step(self, run: Run, step: int) -> None:
        """Nothing."""

    def end(self, run: Run, outcome: Outcome) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines(Quiet):
    """A line for each run that is over."""

    def __init__(self, write: Callable[[str], Any], clock: Clock | None = None) -> None:
        self.write, self.clock = write, clock or Clock()

    def expect(self, done: int, total: int, steps: int) -> None:
        self.clock.done, self.clock.total, self.clock.steps = done, total, steps

    def begin(self, run: Run) -> None:
        self.clock.at[run] = 0

    def step(self, run: Run, step: int) -> None:
        self.clock.at[run] = step

    def end(self, run: Run, outcome: Outcome) -> None:
        c = self.clock
        c.over, c.done = c.over + c.steps, c.done + 1
        c.at.pop(run, None)
        self.say(f"[{c.done}/{c.total}] {title(run)}: {told(outcome)}; {c.left_text()}")

    def say(self, line: str) -> None:
        self.write(line)


class Live(Lines):
    """A bar over all runs and one for each that is under way, and a line above them for each that is over."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().__init__(lambda line: console.print(line, markup=False, highlight=False))
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self.bars = Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=console)
        self.bars.start()
        self.all = self.bars.add_task("runs", total=None, note="")
        self.tasks: dict[Run, Any] = {}

    def expect(self, done: int, total: int, steps: int) -> None:
        super().expect(done, total, steps)
        self.bars.update(self.all, completed=done, total=total, note=self.clock.left_text())

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.tasks[run] = self.bars.add_task(title(run), total=self.clock.steps, note="")

    def step(self, run: Run, step: int) -> None:
        super().step(run, step)
        self.bars.update(self.tasks[run], completed=step)
        self.bars.update(self.all, note=self.clock.left_text())

    def end(self, run: Run, outcome: Outcome) -> None:
        self.bars.remove_task(self.tasks.pop(run))
        super().end(run, outcome)
        self.bars.update(self.all, completed=self.clock.done)

    def close(self) -> None:
        self.bars.stop()


def told(outcome: Outcome) -> str:
    """The goal's value in words."""
    return f"{outcome.goal.metric} {outcome.value:.4g}" if outcome.value == outcome.value else "diverged"


class RunReport:
    """Passes on what one run in this process tells."""

    def __init__(self, board: Board, run: Run) -> None:
        self.board, self.run = board, run

    def start(self, name: str, steps: int) -> None:
        """The board knows."""

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """A step is done."""
        self.board.step(self.run, step)

    def say(self, line: str) -> None:
        """Pass the line on."""
        self.board.say(f"{self.run.arm}: {line}")

    def stop(self) -> None:
        """The board is told the outcome."""
