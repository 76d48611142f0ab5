"""Running a plan: whatever is needed next, until nothing is, or the time is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import run_named
from ..refusal import refusal
from ..settings import read_settings
from ..world import World, together
from .board import Board, Quiet, RunReport
from .book import Book
from .jobs import Failed, Processes, perform
from .plan import Plan
from .tuning import Run, needs

__all__ = ["Left", "execute"]


@dataclass(frozen=True)
class Left:
    """Where a call ended: the ablation's folder, how many runs it made, and how many are known to be left."""

    folder: Path
    made: int
    left: int


def execute(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    budget: float = float("inf"),
    plugins: Sequence[Path] = (),
    board: Board | None = None,
    command: Sequence[str] = (),
    now: Callable[[], float] = time.monotonic,
) -> Left:
    """Run what is not done of a plan in ``out/plan.name``; a call that was stopped is simply made again.

    One job is this process with its own number of threads, or every rank of torchrun together; several are processes
    of one thread each. No run is started when ``budget`` seconds are over, and those under way are finished.

    Raises:
        SpecError: the folder holds another plan, or is in use.
        Failed: a run ended with an error.
    """
    settings = read_settings(plan.base.spec["train"])
    with contextlib.ExitStack() as held:
        world = held.enter_context(together(settings, plan.key))
        if world.size > 1 and jobs > 1:
            raise refusal("--jobs does not go with torchrun", because="its ranks are one job", instead="leave it out")
        book = Book(plan, out / run_named(plan.name))
        world.lead(lambda: held.enter_context(book.claimed()))
        shown = board if board is not None and world.leads else Quiet()
        engine = _Engine(book, world, shown, settings.steps, now() + budget, now, tuple(plugins), tuple(command))
        made = engine.spread(jobs) if jobs > 1 else engine.here()
        left = world.lead(lambda: len(needs(plan, book.look).runs))
    return Left(book.path, made, left)


@dataclass(frozen=True)
class _Engine:
    book: Book
    world: World
    board: Board
    steps: int
    ends: float
    now: Callable[[], float]
    plugins: tuple[Path, ...]
    command: tuple[str, ...]

    def here(self) -> int:
        """One run after the other, each on every rank; rank 0 says which. Collective."""
        made = 0
        while (word := self.world.lead(lambda: self._next(()))) is not None:
            run = Run(*word["run"])
            self.board.begin(run)
            report = RunReport(self.board, run)
            goes_on = word["goes_on"]
            perform(self.book, run, goes_on=goes_on, plugins=self.plugins, report=report, command=self.command)
            self.world.lead(lambda run=run: self._over(run))  # type: ignore[misc]
            made += 1
        return made

    def spread(self, jobs: int) -> int:
        """Several at a time. An error waits until those under way are over."""
        made, failed = 0, list[Failed]()
        pool = Processes(jobs, self.book, self.plugins, self.command, self.board)
        try:
            while True:
                while pool.idle and not failed and (word := self._next(tuple(pool.running.values()))) is not None:
                    pool.start(Run(*word["run"]), word["goes_on"])
                if not pool.running:
                    break
                try:
                    self._over(pool.wait())
                    made += 1
                except Failed as error:
                    failed.append(error)
        finally:
            pool.close()
        if failed:
            raise failed[0]
        return made

    def _next(self, running: Sequence[Run]) -> dict[str, Any] | None:
        """The next run that is needed, its place made ready; None where there is none, or no time."""
        need = needs(self.book.plan, self.book.look)
        self.board.expect(need.over, max(self.book.plan.counts()[0], need.over + len(need.runs)), self.steps)
        run = next((run for run in need.runs if run not in running), None)
        if run is None or self.now() >= self.ends:
            return None
        return {"run": [run.arm, run.rate, run.seed], "goes_on": self.book.prepare(run)}

    def _over(self, run: Run) -> None:
        outcome = self.book.look(run)
        if outcome is None:
            raise Failed(f"{self.book.run_path(run)}: the run is over, and its files do not say what it came to")
        self.board.end(run, outcome)
        self.book.tidy(run)
