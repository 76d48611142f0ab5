"""Who runs: this process (with the other ranks of torchrun), or several processes of one thread each."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from threading import Thread
from typing import Any

from ...errors import SignaError, SpecError
from ...plugin import load_plugins
from .. import runner
from ..refusal import refusal
from ..report import Reporter
from .board import Board
from .book import Book, read_plan
from .plan import spec_of
from .tuning import Run

__all__ = ["Failed", "Processes", "perform"]


class Failed(SignaError, RuntimeError):
    """A run ended with an error of its own; the others that were under way are finished."""


def perform(
    book: Book, run: Run, *, goes_on: bool, plugins: Sequence[Path], report: Reporter, command: Sequence[str]
) -> None:
    """Train one run, or go on with it. One that diverges says so in its metrics, and is over."""
    path, arm = book.run_path(run), book.plan.arm(run.arm)
    with contextlib.suppress(runner.Diverged):
        if goes_on:
            runner.resume(path, plugins=plugins, report=report, command=command)
        else:
            spec = spec_of(book.plan, arm, run.rate, run.seed)
            runner.train(
                spec, name=path.name, out=path.parent, plugins=plugins, report=report, command=command,
                changed=arm.changes,
            )  # fmt: skip


class Processes:
    """So many processes of one thread, started anew (spawn), each of which runs one run after the other.

    A process whose starter is gone ends at once, as by a kill: a later call can go on.
    """

    def __init__(self, count: int, book: Book, plugins: Sequence[Path], command: Sequence[str], board: Board) -> None:
        self.book, self.board = book, board
        self.running: dict[connection.Connection, Run] = {}
        context = multiprocessing.get_context("spawn")
        start = json.dumps({"folder": str(book.path), "plugins": [*map(str, plugins)], "command": [*command]})
        self._all = []
        with _environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):  # read when a process loads torch
            for _ in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, start), daemon=True)
                process.start()
                there.close()
                self._all.append((process, here))

    @property
    def idle(self) -> bool:
        """Whether a process waits for a run."""
        return len(self.running) < len(self._all)

    def start(self, run: Run, goes_on: bool) -> None:
        """Give a run to a process that waits."""
        free = next(pipe for _, pipe in self._all if pipe not in self.running)
        self.running[free] = run
        self.board.begin(run)
        free.send_bytes(json.dumps({"run": [run.arm, run.rate, run.seed], "goes_on": goes_on}).encode())

    def wait(self) -> Run:
        """The next run that is over.

        Raises:
            Failed: it ended with an error.
        """
        while True:
            for ready in connection.wait(list(self.running)):
                assert isinstance(ready, connection.Connection)
                run = self.running[ready]
                try:
                    told = json.loads(ready.recv_bytes())
                except (EOFError, OSError):
                    del self.running[ready]
                    self._all = [(process, pipe) for process, pipe in self._all if pipe is not ready]
                    raise Failed(
                        f"{self.book.run_path(run)}: its process was killed: start the ablation again"
                    ) from None
                if "step" in told:
                    self.board.step(run, told["step"])
                elif "said" in told:
                    self.board.say(f"{run.arm}: {told['said']}")
                else:
                    del self.running[ready]
                    if "refused" in told:
                        raise refusal(f"{self.book.run_path(run)}: {told['refused']}")
                    if "failed" in told:
                        raise Failed(f"{self.book.run_path(run)}: {told['failed']}")
                    return run

    def close(self) -> None:
        """End the processes; a run under way stays as it is."""
        for process, pipe in self._all:
            pipe.close()
            if process.is_alive() and self.running:
                process.terminate()
        for process, _ in self._all:
            process.join()


class _Teller:
    """Tells the starter how a run goes. Where that is gone, telling fails, which ends the run."""

    def __init__(self, pipe: connection.Connection) -> None:
        self.pipe = pipe

    def tell(self, word: Mapping[str, Any]) -> None:
        self.pipe.send_bytes(json.dumps(word).encode())

    def start(self, name: str, steps: int) -> None:
        self.tell({"step": 0})

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        if train_loss is not None or metrics is not None:  # not at every step
            self.tell({"step": step})

    def say(self, line: str) -> None:
        self.tell({"said": line})

    def stop(self) -> None:
        return


def _work(pipe: connection.Connection, start: str) -> None:
    """The life of a process: a run, and the next one, until the starter closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's to handle
    Thread(target=_orphaned, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    given = json.loads(start)
    plugins = [Path(path) for path in given["plugins"]]
    load_plugins(plugins)
    folder = Path(given["folder"])
    book, teller = Book(read_plan(folder), folder), _Teller(pipe)
    while True:
        try:
            told = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            perform(
                book,
                Run(*told["run"]),
                goes_on=told["goes_on"],
                plugins=plugins,
                report=teller,
                command=given["command"],
            )
            word: dict[str, Any] = {"done": True}
        except BrokenPipeError:
            return
        except SpecError as error:
            word = {"refused": str(error)}
        except SignaError as error:
            word = {"failed": f"{type(error).__name__}: {error}"}
        except Exception:
            word = {"failed": traceback.format_exc()}
        with contextlib.suppress(BrokenPipeError):
            teller.tell(word)


def _orphaned() -> None:
    """End this process when its starter is gone."""
    if (starter := multiprocessing.parent_process()) is not None:
        starter.join()
        os._exit(1)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
