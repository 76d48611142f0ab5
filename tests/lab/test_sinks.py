"""Sinks: what they are told, how they refuse, and that none ends a run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

from signa.errors import SpecError
from signa.lab.sinks import (
    Mlflow,
    Run,
    Sink,
    SinkConfig,
    Sinks,
    Tensorboard,
    Trackio,
    Wandb,
    base,
    chosen,
    kinds,
    sinks,
    used,
)

SPEC = {"groups": [{"lr": 0.1, "method": {"worker": ["momentum"]}}], "plugins": []}
RECORDS = [
    {"step": 2, "examples": 16, "train_loss": 0.5, "rho/a[0]": 0.25, "gap": None, "bad": float("nan")},
    {"step": 2, "examples": 16, "val_loss": 0.75},
    {"step": 3, "examples": 24, "train_loss": 0.25},
]
SUMMARY = {"name": "r", "steps": 3, "val_loss": 0.75, "model_digest": "ab"}


class Say:
    """A reporter that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, name: str, steps: int) -> None: ...
    def progress(self, step: int, **_: Any) -> None: ...
    def stop(self) -> None: ...
    def say(self, line: str) -> None:
        self.lines.append(line)


class Calls:
    """Anything: every attribute is a method that notes how it was called, and gives what ``results`` has for it."""

    def __init__(self, **results: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._results = results

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, *args, *([kwargs] if kwargs else [])))
            return self._results.get(name)

        return call


def run(folder: Path, step: int = 0) -> Run:
    return Run(name="r", folder=folder, spec=SPEC, step=step)


def tell(config: SinkConfig, folder: Path, step: int = 0, *, well: bool = True) -> str:
    """A run of three records; the name that the sink knows it by."""
    with Sinks.begin([config], run(folder, step), Say()) as told:
        for record in RECORDS:
            if record["step"] > step:
                told.metric(record)
        if well:
            told.finish(SUMMARY)
    return str(json.loads((folder / "sinks.json").read_text())[config.kind]["known_as"])


def faked(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """These packages, and no other of a sink's, are installed."""
    monkeypatch.setattr(base, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.setattr(kinds, "import_module", lambda name: modules[name.replace(".", "_")])


# What each is told, by packages that are not there ---------------------------------------------------------------


def test_tensorboard_gets_values_by_step_and_drops_what_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, Calls]] = []

    def writer(*args: Any, **kwargs: Any) -> Calls:
        made.append(((args, kwargs), Calls()))
        return made[-1][1]

    faked(monkeypatch, tensorboard=None, torch_utils_tensorboard=SimpleNamespace(SummaryWriter=writer))
    tell(Tensorboard(), tmp_path)
    place, calls = made[0]
    assert place == ((str(tmp_path / "sinks" / "tensorboard"),), {})
    assert calls.calls[0][:2] == ("add_text", "spec") and "lr: 0.1" in calls.calls[0][2]
    assert [call[1:] for call in calls.calls if call[0] == "add_scalar"] == [
        ("examples", 16.0, 2),
        ("train_loss", 0.5, 2),
        ("rho/a[0]", 0.25, 2),
        ("examples", 16.0, 2),
        ("val_loss", 0.75, 2),
        ("examples", 24.0, 3),
        ("train_loss", 0.25, 3),
    ]
    assert calls.calls[-2][:2] == ("add_text", "summary") and calls.calls[-1] == ("close",)
    tell(Tensorboard(), tmp_path, step=2, well=False)
    (_, options), calls = made[1]
    assert options == {"purge_step": 3}
    assert calls.calls[-1] == ("close",) and not any(call[1:2] == ("summary",) for call in calls.calls)


def test_wandb_gets_steps_as_a_value_and_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Calls()
    object.__setattr__(there, "summary", {})
    wandb = Calls(init=there)
    faked(monkeypatch, wandb=wandb)
    name = tell(Wandb(project="mine"), tmp_path)
    options = wandb.calls[0][1]
    assert {k: options[k] for k in ("project", "name", "id", "resume")} == {
        "project": "mine",
        "name": "r",
        "id": name,
        "resume": "allow",
    }
    assert options["config"] == SPEC and Path(options["dir"]).is_dir() and tmp_path in Path(options["dir"]).parents
    assert there.calls[0] == ("define_metric", "*", {"step_metric": "step"})
    assert there.calls[1] == ("log", {"examples": 16.0, "train_loss": 0.5, "rho/a[0]": 0.25, "step": 2})
    assert there.calls[-1] == ("finish", {"exit_code": 0}) and there.summary == SUMMARY
    tell(Wandb(), tmp_path, step=2, well=False)
    assert wandb.calls[1][1]["id"] == name and wandb.calls[1][1]["project"] == "signa"
    assert there.calls[-1] == ("finish", {"exit_code": 1})


def test_trackio_gets_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Calls()
    trackio = Calls(init=there)
    faked(monkeypatch, trackio=trackio)
    name = tell(Trackio(project="mine"), tmp_path)
    options = trackio.calls[0][1]
    assert (options["project"], options["name"], options["resume"]) == ("mine", f"r-{name}", "allow")
    assert there.calls[0] == ("log", {"examples": 16.0, "train_loss": 0.5, "rho/a[0]": 0.25}, {"step": 2})
    assert there.calls[-2:] == [("log", {"summary/steps": 3.0, "summary/val_loss": 0.75}, {"step": 3}), ("finish",)]
    tell(Trackio(), tmp_path, step=2, well=False)
    assert trackio.calls[1][1]["name"] == f"r-{name}" and there.calls[-1] == ("finish",)


def test_mlflow_finds_its_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(info=SimpleNamespace(run_id="R"))
    client = Calls(create_experiment="7", create_run=info, search_runs=[info])
    stores: list[str] = []
    mlflow = SimpleNamespace(MlflowClient=lambda uri: stores.append(uri) or client)
    entities = SimpleNamespace(Metric=lambda *parts: parts)
    faked(monkeypatch, mlflow=mlflow, mlflow_entities=entities)
    name = tell(Mlflow(experiment="mine"), tmp_path)
    home = (tmp_path / "sinks" / "mlflow").resolve()
    assert stores == [f"sqlite:///{home / 'mlflow.db'}"]
    calls = client.calls
    assert calls[1] == ("create_experiment", "mine", (home / "artifacts").as_uri())
    assert calls[2] == ("create_run", "7", {"tags": {"signa": name}, "run_name": "r"})
    parameters = {call[2]: call[3] for call in calls if call[0] == "log_param"}
    assert parameters == {"groups.0.lr": "0.1", "groups.0.method.worker.0": "momentum", "plugins": "[]"}
    batches = [[(m[0], m[1], m[3]) for m in call[2]] for call in calls if call[0] == "log_batch"]
    assert batches[0] == [("examples", 16.0, 2), ("train_loss", 0.5, 2), ("rho/a_0_", 0.25, 2)]
    assert batches[-1] == [("summary/steps", 3.0, 3), ("summary/val_loss", 0.75, 3)]
    assert calls[-1] == ("set_terminated", "R", "FINISHED")
    calls.clear()
    tell(Mlflow(uri="http://there"), tmp_path, step=2, well=False)
    assert stores[1] == "http://there"
    assert ("search_runs", ["7"], f"tags.signa = '{name}'") in calls and (
        "update_run",
        "R",
        {"status": "RUNNING"},
    ) in calls
    assert not any(call[0] in ("create_run", "log_param") for call in calls)
    assert calls[-1] == ("set_terminated", "R", "FAILED")


# Choosing, refusing, failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sinks.names())
def test_a_missing_package_is_refused_with_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch)
    with pytest.raises(SpecError) as error:
        chosen([kind])
    assert f"sink '{kind}' needs the package {kind}" in str(error.value)
    assert f"pip install {kind}, or pip install 'signa-optim[sinks]'" in str(error.value)


def test_words_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, wandb=None, trackio=None)
    assert chosen(["wandb", "trackio", "{wandb: {project: mine}}"]) == [Wandb(project="mine"), Trackio()]
    assert chosen([]) == []
    with pytest.raises(SpecError, match="unknown key 'projct'"):
        chosen(["{wandb: {projct: mine}}"])


class Mine(SinkConfig):
    """A sink that fails where it is told to."""

    kind: Literal["mine"] = "mine"
    package: ClassVar[str] = "json"
    install: ClassVar[str] = "json"
    fails: str = ""
    told: list[Any] = []  # noqa: RUF012

    def start(self, run: Run) -> Sink:
        self.fail("start")
        return self

    def fail(self, where: str) -> None:
        if where == self.fails:
            raise ConnectionError(f"no {where}")

    def metric(self, record: Mapping[str, Any]) -> None:
        self.fail("metric")
        self.told.append(record)

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        self.fail("finish")
        self.told.append(summary)


class Other(Mine):
    kind: Literal["other"] = "other"  # type: ignore[assignment]


def test_a_sink_that_fails_on_the_way_is_reported_once_and_dropped(tmp_path: Path) -> None:
    said, good = Say(), Other(told=[])
    with Sinks.begin([Mine(fails="metric"), good], run(tmp_path), said) as told:
        for record in RECORDS:
            told.metric(record)
        told.finish(SUMMARY)
        told.finish(SUMMARY)
    assert good.told == [*RECORDS, SUMMARY]
    assert said.lines == [
        "sink 'mine' failed and is left out from now on: ConnectionError: no metric (metrics.jsonl has every record)"
    ]
    with Sinks.begin([Mine(fails="finish")], run(tmp_path), said) as told:
        told.finish(SUMMARY)
    assert len(said.lines) == 2


def test_a_run_that_stops_tells_its_sinks(tmp_path: Path) -> None:
    good = Mine(told=[])
    with pytest.raises(ZeroDivisionError), Sinks.begin([good], run(tmp_path), Say()):
        raise ZeroDivisionError
    assert good.told == [None]


def test_a_sink_that_cannot_start_is_refused_and_the_others_are_finished(tmp_path: Path) -> None:
    good = Mine(told=[])
    with pytest.raises(SpecError, match="sink 'other' did not start") as error:
        Sinks.begin([good, Other(fails="start")], run(tmp_path), Say())
    assert "because: ConnectionError: no start" in str(error.value) and good.told == [None]
    assert used(tmp_path) == []


def test_a_resume_goes_on_with_the_sinks_and_settings_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert used(tmp_path) == []
    faked(monkeypatch, trackio=Calls(init=Calls()), wandb=Calls(init=Calls()))
    Sinks.begin([Trackio(project="mine"), Wandb()], run(tmp_path), Say())
    assert used(tmp_path) == [Trackio(project="mine"), Wandb()]
    Sinks.begin([*used(tmp_path), Wandb(project="other")], run(tmp_path, step=2), Say())
    assert used(tmp_path) == [Trackio(project="mine"), Wandb(project="other")]
    before = (tmp_path / "sinks.json").read_text()
    Sinks.begin([], run(tmp_path, step=2), Say())
    assert (tmp_path / "sinks.json").read_text() == before


# The real ones, where they are installed ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(Tensorboard(), tmp_path, well=False)
    tell(Tensorboard(), tmp_path, step=2)
    events = EventAccumulator(str(tmp_path / "sinks" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(2, 0.5), (3, 0.25)]
    assert "summary/text_summary" in events.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    name = tell(Wandb(), tmp_path, well=False)
    tell(Wandb(), tmp_path, step=2)
    files = list((tmp_path / "sinks" / "wandb").rglob("*.wandb"))
    assert len(files) in (1, 2) and {file.name for file in files} == {f"run-{name}.wandb"}  # named by the second
    assert any(b"rho/a[0]" in file.read_bytes() for file in files)


@pytest.mark.slow  # a new database takes MLflow 10 s
@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    tell(Mlflow(), tmp_path, well=False)
    tell(Mlflow(), tmp_path, step=2)
    with sqlite3.connect(tmp_path / "sinks" / "mlflow" / "mlflow.db") as store:
        assert store.execute("select name, status from runs").fetchall() == [("r", "FINISHED")]
        rows = store.execute("select distinct step, value from metrics where key = 'train_loss' order by step")
        assert rows.fetchall() == [(2, 0.5), (3, 0.25)]
        assert ("groups.0.lr", "0.1") in store.execute("select key, value from params").fetchall()


@pytest.mark.filterwarnings("ignore")
def test_trackio_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    trackio = pytest.importorskip("trackio")
    name = tell(Trackio(), tmp_path, well=False)
    tell(Trackio(), tmp_path, step=2)
    (only,) = trackio.Api().runs("signa")
    assert only.name == f"r-{name}"
