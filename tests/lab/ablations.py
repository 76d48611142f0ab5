"""Ablations of no time at all: a run is written as it would be, with a value that a formula gives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signa.lab.ablation import Ablation, Plan, make_plan
from signa.lab.ablation.book import Book
from signa.lab.ablation.plan import spec_of
from signa.lab.ablation.tuning import Run
from signa.lab.settings import load_experiment
from signa.spec import Spec

TINY = {
    "train.task": {"kind": "shakespeare", "layers": 1, "heads": 2, "width": 32, "context": 16},
    "train.batch": 4, "train.steps": 4, "train.eval_every": 2, "train.log_every": 2, "train.device": "cpu",
    "train.workers": 1, "train.checkpoint_every": 2,
}  # fmt: skip
SCHEDULE = "groups.matrices.worker.spectral.schedule"
LR = "groups.matrices.lr"
SHIPPED = Path(__file__).parents[2] / "signa" / "lab" / "data" / "shakespeare.yaml"


def base(**changes: Any) -> Spec:
    """The shipped experiment at its smallest size."""
    return load_experiment(SHIPPED, changes=TINY | changes)


def plan(name: str = "abl", **section: Any) -> Plan:
    """Two schedules, three seeds and a search of three rates, unless told otherwise."""
    section = {"vary": {SCHEDULE: ["polar6", "jordan5"]}, **section}
    return make_plan(base(), Ablation.model_validate(section), name=name)


Value = Callable[[str, float, int], float]  # of the schedule, the rate and the seed


def bowl(schedule: str, rate: float, seed: int) -> float:
    """A loss with its best rate at 0.1 for polar6 and at 0.5 for jordan5, where it is 0.3 higher."""
    best, floor = (0.1, 1.0) if schedule == "polar6" else (0.5, 1.3)
    return floor + math.log10(rate / best) ** 2 + 0.01 * seed


class Fake:
    """Stands in for training; notes every run, and may stop at one or leave it half done."""

    def __init__(self, value: Value = bowl, goal: tuple[str, str] = ("val_loss", "min")) -> None:
        self.value, self.goal = value, goal
        self.ran: list[Run] = []
        self.resumed: list[Run] = []
        self.stop_at: int | None = None

    def __call__(self, book: Book, run: Run, *, goes_on: bool, **_: Any) -> None:
        path = book.run_path(run)
        assert goes_on == path.exists()
        (path / "checkpoints" / "step-2").mkdir(parents=True, exist_ok=True)
        spec = spec_of(book.plan, book.plan.arm(run.arm), run.rate, run.seed)
        (path / "spec.yaml").write_text(spec.dump())
        if len(self.ran) == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(run)
        if goes_on:
            self.resumed.append(run)
        method = spec.groups[1].method
        schedule = getattr([*method.worker, *method.server][-1], "schedule", "none")
        value = self.value(schedule, spec.groups[1].lr, run.seed)
        metric = self.goal[0]
        lines: list[dict[str, Any]] = [
            {"step": step, metric: value + far} for step, far in ((10, 3.0), (20, 2.0), (30, 1.0), (40, 0.0))
        ]
        if math.isnan(value):
            lines = [{"step": 10, "train_loss": None}]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        environment = {"command": ["signa", "ablate", "spec.yaml"], "torch": "2.6.0", "threads": 1}
        (path / "environment.json").write_text(json.dumps(environment))
        if not math.isnan(value):
            summary = {"steps": 40, "seconds": 4.0, "seconds_per_step": 0.1, "bits_up": 1.0, "bits_down": 32.0}
            summary |= {metric: value, "goal": {"metric": metric, "best": self.goal[1]}}
            (path / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Training is replaced by a formula."""
    made = Fake()
    monkeypatch.setattr("signa.lab.ablation.running.perform", made)
    return made
