"""What a sink is, which ones a run has, and why none of them ends it."""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from ...reading import validated
from ...rule import Frozen, Registry, Rule, plain
from ...sources import read_value
from ..refusal import refusal
from ..report import Reporter, Silent

__all__ = ["Record", "Run", "Sink", "SinkConfig", "Sinks", "chosen", "sinks", "used"]

Record = Mapping[str, Any]


class Sink(Protocol):
    """A run that is being told elsewhere."""

    def metric(self, record: Record) -> None:
        """One record of metrics.jsonl; ``step`` is its place on the x-axis, every other finite number a value."""

    def finish(self, summary: Record | None) -> None:
        """The run is over, with this summary, or (None) it stopped before its end."""


class Run(Frozen):
    """What a sink is told of the run when it starts: its name and folder, its spec as plain data, and where it stands.

    ``known_as`` is a name that no other run has, the same after every resume, for a sink with a store of runs.
    """

    name: str
    folder: Path
    spec: dict[str, Any]
    step: int = 0
    known_as: str = ""

    def home(self, kind: str) -> Path:
        """A folder for a sink's files, within the run's."""
        path = self.folder / "sinks" / kind
        path.mkdir(parents=True, exist_ok=True)
        return path


class SinkConfig(Rule):
    """A kind of sink and its settings. ``package`` is what it imports, ``install`` what pip calls that."""

    package: ClassVar[str]
    install: ClassVar[str]

    @abstractmethod
    def start(self, run: Run) -> Sink:
        """Begin to tell of a run, or go on where ``run.step`` is not 0."""

    def require(self) -> None:
        """Refuse where the package is not installed.

        Raises:
            SpecError: with the command that installs it.
        """
        if find_spec(self.package) is None:
            raise refusal(
                f"sink '{self.kind}' needs the package {self.package}",
                because="it is not installed",
                instead=f"pip install {self.install}, or pip install 'signa-optim[sinks]'",
            )


sinks: Registry[SinkConfig] = Registry("sink", SinkConfig)


class Sinks:
    """The sinks of a run; none without arguments. One that fails is reported once and dropped: no run ends by a sink.

    Used as a block, which tells those that are still open that the run stopped before its end.
    """

    def __init__(self, opened: Mapping[str, Sink] | None = None, report: Reporter | None = None) -> None:
        self._open, self._report = dict(opened or {}), report or Silent()

    @classmethod
    def begin(cls, configs: Iterable[SinkConfig], run: Run, report: Reporter) -> Sinks:
        """Start them all, each kind once (the last one counts); `sinks.json` in the run folder notes them.

        Raises:
            SpecError: a sink cannot start. Those that did are finished then.
        """
        begun, ledger = cls(report=report), run.folder / "sinks.json"
        known = _noted(run.folder)
        for kind, config in {config.kind: config for config in configs}.items():
            config.require()
            entry = known.setdefault(kind, {"known_as": uuid.uuid4().hex[:12]})
            entry["settings"] = plain(config)
            try:
                begun._open[kind] = config.start(run.model_copy(update={"known_as": entry["known_as"]}))
            except Exception as error:
                begun.finish(None)
                raise refusal(
                    f"sink '{kind}' did not start",
                    because=f"{type(error).__name__}: {error}",
                    instead="mend that, or leave the sink out",
                ) from error
        if begun._open:
            scratch = ledger.with_name(".sinks.json.part")
            scratch.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
            scratch.replace(ledger)
        return begun

    def metric(self, record: Record) -> None:
        """Tell every sink."""
        self._each(lambda sink: sink.metric(record))

    def finish(self, summary: Record | None) -> None:
        """The run is over; a second call does nothing."""
        self._each(lambda sink: sink.finish(summary))
        self._open.clear()

    def _each(self, act: Callable[[Sink], None]) -> None:
        for kind, sink in list(self._open.items()):
            try:
                act(sink)
            except Exception as error:  # what a service does must not end a run
                del self._open[kind]
                what = f"sink '{kind}' failed and is left out from now on: {type(error).__name__}: {error}"
                self._report.say(f"{what} (metrics.jsonl has every record)")

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish(None)


def chosen(words: Sequence[str]) -> list[SinkConfig]:
    """The sinks of a command line: ``wandb``, or ``{wandb: {project: mine}}``; each kind once, the last word counts.

    Raises:
        SpecError: there is no such sink or setting, or its package is not installed.

    >>> chosen(["wanbd"])
    Traceback (most recent call last):
        ...
    signa.errors.SpecError: sink: unknown sink 'wanbd'
      because: known: mlflow, tensorboard, trackio, wandb
      instead: did you mean 'wandb'?
    """
    found: dict[str, SinkConfig] = {}
    for word in words:
        config = _read(word)
        config.require()
        found[config.kind] = config
    return list(found.values())


def used(folder: Path) -> list[SinkConfig]:
    """The sinks that a run was told to until now, for its resume."""
    return [validated(_Chosen, {"sink": entry["settings"]}).sink for entry in _noted(folder).values()]


def _noted(folder: Path) -> dict[str, dict[str, Any]]:
    """Every sink that was ever told of the run, with its settings and the name it knows the run by."""
    path = folder / "sinks.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


class _Chosen(Frozen):
    sink: Annotated[SinkConfig, sinks]


def _read(word: str) -> SinkConfig:
    return validated(_Chosen, {"sink": read_value(word)}).sink
