"""How an ablation runs: searches of equal budget, and a kill at any moment that costs one run at most."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from signa.errors import SpecError
from signa.lab.ablation import Plan, execute, make_plan
from signa.lab.ablation.board import Clock, Lines, Live
from signa.lab.ablation.book import Book, diverged
from signa.lab.ablation.jobs import Failed, perform
from signa.lab.ablation.section import Ablation
from signa.lab.ablation.tuning import Outcome, Run, nearest, needs, rate, search
from signa.lab.records import RunFolder
from signa.lab.refusal import Diverged
from signa.lab.tasks import Goal
from tests.lab.ablations import SCHEDULE, Fake, base, fake, plan
from tests.lab.tiny import found

__all__ = ["fake"]
ROOT = Path(__file__).parents[2]
LOW, HIGH = Goal("val_loss"), Goal("val_accuracy", "max")


def searched(values: dict[int, float], center: int = 0, points: int = 3, widen: int = 4, goal: Goal = LOW) -> Any:
    result = search(center, points, widen, lambda i: Outcome(values[i], goal) if i in values else None)
    return result.tried, result.missing, result.best, result.edge


def test_a_search_widens_until_its_best_is_inside() -> None:
    assert searched({}) == ((-1, 0, 1), (-1, 0, 1), None, False)
    assert searched({-1: 3.0, 1: 3.0}) == ((-1, 0, 1), (0,), None, False)
    assert searched({-1: 3.0, 0: 2.0, 1: 3.0}) == ((-1, 0, 1), (), 0, False)
    assert searched({-1: 3.0, 0: 2.0, 1: 1.0}) == ((-1, 0, 1, 2), (2,), None, False)
    assert searched({-1: 3.0, 0: 2.0, 1: 1.0, 2: 1.5}) == ((-1, 0, 1, 2), (), 1, False)
    falling = {i: float(-i) for i in range(-9, 9)}
    assert searched(falling, widen=2) == ((-1, 0, 1, 2, 3), (), 3, True)
    assert searched(falling, widen=2, goal=HIGH) == ((-3, -2, -1, 0, 1), (), -3, True)
    assert searched(falling, widen=0, points=5) == ((-2, -1, 0, 1, 2), (), 2, True)


def test_ties_and_divergence_in_a_search() -> None:
    nan = math.nan
    assert searched({-1: 1.0, 0: 1.0, 1: 1.0}, widen=0)[2] == -1
    assert searched({-1: 2.0, 0: nan, 1: nan, -2: 3.0}) == ((-2, -1, 0, 1), (), -1, False)
    assert searched(dict.fromkeys(range(-9, 9), nan), widen=2) == ((-3, -2, -1, 0, 1), (), None, True)


def test_the_lattice() -> None:
    assert all(nearest(rate(i)) == i for i in range(-30, 10))
    assert [rate(nearest(x)) for x in (0.014, 0.0142, 3.1e-3, 3.2e-3, 7.0, 7.1)] == [0.01, 0.02, 2e-3, 5e-3, 5.0, 10.0]


def run(made: Plan, out: Path, **words: Any) -> Any:
    return execute(made, out, **words)


def ran(fake: Fake) -> list[tuple[str, float | None, int]]:
    return [(r.arm.removeprefix("schedule="), r.rate, r.seed) for r in fake.ran]


def test_searches_come_first_and_then_seed_after_seed(fake: Fake, tmp_path: Path) -> None:
    left = run(plan(), tmp_path)
    assert ran(fake) == [
        ("polar6", 0.02, 0), ("polar6", 0.05, 0), ("polar6", 0.1, 0), ("polar6", 0.2, 0),
        ("jordan5", 0.02, 0), ("jordan5", 0.05, 0), ("jordan5", 0.1, 0), ("jordan5", 0.2, 0), ("jordan5", 0.5, 0),
        ("jordan5", 1.0, 0),
        ("polar6", 0.1, 1), ("jordan5", 0.5, 1), ("polar6", 0.1, 2), ("jordan5", 0.5, 2),
    ]  # fmt: skip
    assert (left.made, left.left, left.folder) == (14, 0, tmp_path / "abl")
    assert run(plan(), tmp_path).made == 0
    names = sorted(path.name for path in (tmp_path / "abl" / "runs" / "schedule-polar6").iterdir())
    assert names == [f"lr{lr}-seed0" for lr in (0.02, 0.05)] + [
        "lr0.1-seed0", "lr0.1-seed1", "lr0.1-seed2", "lr0.2-seed0"
    ]  # fmt: skip


def test_a_search_may_have_a_seed_of_its_own_or_not_be(fake: Fake, tmp_path: Path) -> None:
    run(plan(tune={"seed": 9, "widen": 0}, seeds=[0, 1]), tmp_path)
    assert [r for r in ran(fake) if r[2] == 9] == ran(fake)[:6] and len(fake.ran) == 6 + 4
    fake.ran.clear()
    run(plan(name="untuned", tune={"points": 0}, seeds=[5, 6]), tmp_path)
    assert ran(fake) == [("polar6", None, 5), ("jordan5", None, 5), ("polar6", None, 6), ("jordan5", None, 6)]


def test_a_goal_that_is_to_be_high_is_searched_upwards(fake: Fake, tmp_path: Path) -> None:
    fake.goal, fake.value = ("val_accuracy", "max"), lambda schedule, rate, seed: 1 - (math.log10(rate / 0.1)) ** 2
    run(plan(), tmp_path)
    assert {r[1] for r in ran(fake) if r[2] == 2} == {0.1}


@pytest.mark.parametrize("stop", range(0, 14, 3))
def test_a_kill_at_any_run_costs_that_run(fake: Fake, tmp_path: Path, stop: int) -> None:
    run(plan(), tmp_path / "whole")
    whole, fake.ran = fake.ran, []
    fake.stop_at = stop
    with pytest.raises(KeyboardInterrupt):
        run(plan(), tmp_path / "stopped")
    fake.stop_at = None
    assert run(plan(), tmp_path / "stopped").left == 0
    assert fake.ran == whole and fake.resumed == [whole[stop]]
    for file in (tmp_path / "whole").rglob("summary.json"):
        other = tmp_path / "stopped" / file.relative_to(tmp_path / "whole")
        assert other.read_text() == file.read_text()


def test_a_run_without_a_checkpoint_begins_anew(fake: Fake, tmp_path: Path) -> None:
    made = plan()
    first = Book(made, tmp_path / "abl").run_path(Run("schedule=polar6", 0.02, 0))
    first.mkdir(parents=True)
    (first / "metrics.jsonl").write_text('{"step": 1, "train_loss": 4.0}\n')
    (tmp_path / "abl" / "plan.json").write_text(made.model_dump_json())
    run(made, tmp_path)
    assert not fake.resumed and fake.ran[0] == Run("schedule=polar6", 0.02, 0)


def test_the_budget_starts_no_run_when_it_is_over(fake: Fake, tmp_path: Path) -> None:
    def clock() -> float:
        return float(len(fake.ran))

    left = run(plan(), tmp_path, budget=5, now=clock)
    assert (left.made, len(fake.ran), left.left) == (5, 5, 4)  # two of the search of jordan5, two seeds of polar6
    assert run(plan(), tmp_path, budget=3, now=clock).made == 3
    assert run(plan(), tmp_path, now=clock).left == 0 and len(set(fake.ran)) == len(fake.ran) == 14


def test_arms_that_diverge_are_recorded_and_not_run_again(fake: Fake, tmp_path: Path) -> None:
    def value(schedule: str, rate: float, seed: int) -> float:
        return math.nan if schedule == "jordan5" or (rate, seed) == (0.1, 2) else abs(math.log10(rate / 0.1))

    fake.value = value
    left = run(plan(tune={"widen": 2}), tmp_path)
    assert left.left == 0 and run(plan(tune={"widen": 2}), tmp_path).made == 0
    assert {r[1] for r in ran(fake) if r[0] == "jordan5"} == {0.005, 0.01, 0.02, 0.05, 0.1}  # down, and no seeds
    assert [r[2] for r in ran(fake) if r[:2] == ("polar6", 0.1)] == [0, 1, 2]


def test_checkpoints_of_finished_runs_are_removed_unless_they_are_wanted(fake: Fake, tmp_path: Path) -> None:
    run(plan(), tmp_path)
    assert not list(tmp_path.rglob("checkpoints"))
    run(plan(name="kept", keep_checkpoints=True), tmp_path)
    assert len(list(tmp_path.rglob("checkpoints"))) == 14


def refused(made: Plan, out: Path, **words: Any) -> str:
    with pytest.raises(SpecError) as caught:
        run(made, out, **words)
    return str(caught.value)


def test_a_folder_of_another_plan_is_refused(fake: Fake, tmp_path: Path) -> None:
    run(plan(), tmp_path)
    assert run(plan(reach=0.5, against="schedule=jordan5"), tmp_path).made == 0  # compared otherwise, run alike
    assert json.loads((tmp_path / "abl" / "plan.json").read_text())["reach"] == 0.5
    said = refused(plan(seeds=4), tmp_path)
    assert said.startswith(f"{tmp_path / 'abl'} holds the runs of another plan\n  because: seeds: [0, 1, 2] there")
    assert "the arm 'schedule=exact' is in one" in refused(
        plan(vary={SCHEDULE: ["polar6", "jordan5", "exact"]}), tmp_path
    )
    other = make_plan(base(**{"train.batch": 5}), Ablation(vary={SCHEDULE: ["polar6", "jordan5"]}), name="abl")
    assert "because: arm 'schedule=polar6', train.batch: 4 there, 5 here" in refused(other, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("words")
    assert "is not the folder of an ablation" in refused(plan(name="full"), tmp_path)
    (tmp_path / "abl" / "plan.json").write_text("{")
    assert "plan.json is damaged" in refused(plan(), tmp_path)


def test_a_folder_in_use_is_refused(fake: Fake, tmp_path: Path) -> None:
    made = plan()
    with Book(made, tmp_path / "abl").claimed():
        assert "is still going on" in refused(made, tmp_path)
    first = Book(made, tmp_path / "abl").run_path(Run("schedule=polar6", 0.02, 0))
    with RunFolder(first.parent, first.name):  # by a process that outlived its starter
        assert f"the run in {first} is still going on" in refused(made, tmp_path)
    assert run(made, tmp_path).left == 0


def test_a_run_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("signa.lab.ablation.running.perform", lambda *_, **__: None)
    with pytest.raises(Failed, match="its files do not say what it came to"):
        run(plan(), tmp_path)


def test_the_lines_tell_how_far_it_is(fake: Fake, tmp_path: Path) -> None:
    said: list[str] = []
    run(plan(), tmp_path, board=Lines(said.append))
    assert len(said) == 14
    assert said[0].startswith("[1/10] schedule=polar6, lr 0.02, seed 0: val_loss 1.489; about ")
    assert said[-1].startswith("[14/14] schedule=jordan5, lr 0.5, seed 2: val_loss 1.32; about 0 s left")


def test_the_live_display_tells_the_same(fake: Fake, tmp_path: Path) -> None:
    console = pytest.importorskip("rich.console")
    written = io.StringIO()
    live = Live(console.Console(file=written, force_terminal=True, width=160))
    run(plan(vary={}, arms={"a[b]": {}}, seeds=1), tmp_path, board=live)
    live.close()
    assert "[4/4] a[b], lr 0.2, seed 0: val_loss 1.091; about 0 s left" in written.getvalue()
    assert live.bars.tasks[0].completed == live.bars.tasks[0].total == 4 and len(live.bars.tasks) == 1


def test_the_time_left_follows_the_pace() -> None:
    seconds = 0.0
    said: list[str] = []
    lines = Lines(said.append, Clock(lambda: seconds))
    one, two = Run("a", 0.1, 0), Run("a", 0.1, 1)
    lines.expect(0, 4, 100)
    lines.begin(one)
    assert lines.clock.left() is None
    seconds = 30.0
    lines.step(one, 50)
    assert lines.clock.left() == pytest.approx(210.0)
    lines.begin(two)
    lines.step(two, 50)
    assert lines.clock.left() == pytest.approx(90.0)
    lines.end(one, Outcome(1.0, LOW))
    assert lines.clock.left() == pytest.approx(30 / 150 * 250) and said[0].endswith("; about 50 s left")


def test_optuna_tries_some_arms_and_runs_the_best_with_every_seed(fake: Fake, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    vary = {SCHEDULE: ["polar6", "jordan5"], "train.batch": list(range(1, 9))}
    made = plan(vary=vary, sampler={"kind": "optuna", "trials": 4}, tune={"widen": 0})
    fake.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path)
    fake.stop_at = None
    assert run(made, tmp_path).left == 0 and len(fake.resumed) == 1
    tried = {r.arm for r in fake.ran}
    assert 2 <= len(tried) <= 5 and made.against in tried
    final = {r.arm for r in fake.ran if r.seed == 2}
    assert made.against in final and len(final) <= 2
    assert needs(made, Book(made, tmp_path / "abl").look).over == len(fake.ran)


# Real runs ------------------------------------------------------------------------------------------------------------


def real(**section: Any) -> Plan:
    return plan(tune={"points": 0}, seeds=[3], **section)


def same(one: Path, other: Path) -> None:
    paths = sorted(path.parent.relative_to(one) for path in one.rglob("summary.json"))
    assert paths and paths == sorted(path.parent.relative_to(other) for path in other.rglob("summary.json"))
    for path in paths:
        assert found(one / path) == found(other / path)


def test_a_run_that_was_stopped_ends_as_the_whole_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from signa.lab.tasks.text import ShakespeareTask

    loss = ShakespeareTask.loss

    def stops(self: Any, model: Any, worker: int, draw: int) -> Any:
        if draw == 3:
            raise KeyboardInterrupt
        return loss(self, model, worker, draw)

    one_arm = real(vary={}, arms={"only": {}})
    with monkeypatch.context() as patch:
        patch.setattr(ShakespeareTask, "loss", stops)
        with pytest.raises(KeyboardInterrupt):
            run(one_arm, tmp_path / "stopped")
    assert list((tmp_path / "stopped").rglob("step-*")) and not list((tmp_path / "stopped").rglob("summary.json"))
    assert run(one_arm, tmp_path / "stopped", command=["signa", "ablate", "x"]).made == 1
    run(one_arm, tmp_path / "whole", command=["signa", "ablate", "x"])
    same(tmp_path / "whole", tmp_path / "stopped")
    resumed = json.loads(next((tmp_path / "stopped").rglob("environment.json")).read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [2]


def test_divergence_is_known_from_the_metrics_alone(tmp_path: Path) -> None:
    made = real(vary={}, arms={"wild": {"groups.1.method": "sgd", "groups.0.lr": 1e30, "groups.1.lr": 1e30}})
    assert run(made, tmp_path).left == 0
    outcome = Book(made, tmp_path / "abl").look(Run("wild", None, 3))
    assert outcome is not None and math.isnan(outcome.value)
    assert run(made, tmp_path).made == 0


def test_what_divergence_looks_like() -> None:
    fine = [{"step": 1, "train_loss": 2.0}, {"step": 1, "val_loss": None}, {"step": 2, "val_loss": 3.0, "bits": None}]
    assert not diverged(fine) and not diverged([])
    assert diverged([*fine, {"step": 3, "train_loss": None}]) and diverged([*fine, {"step": 3, "val_loss": None}])


def test_only_divergence_is_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    book = Book(real(), tmp_path)
    for error, raised in ((Diverged("nan"), False), (ZeroDivisionError(), True)):

        def train(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr("signa.lab.runner.train", train)
        try:
            perform(book, Run("schedule=polar6", None, 3), goes_on=False, plugins=(), report=None, command=())  # type: ignore[arg-type]
            assert not raised
        except ZeroDivisionError:
            assert raised


@pytest.mark.slow
def test_processes_of_one_thread_find_the_same(tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(plan(tune={"widen": 0}, seeds=2), tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    said: list[str] = []
    left = run(plan(tune={"widen": 0}, seeds=2), tmp_path / "two", jobs=2, board=Lines(said.append))
    assert left.made == 8 == len(said) and left.left == 0
    same(tmp_path / "one" / "abl", tmp_path / "two" / "abl")
    threads_there = {json.loads(f.read_text())["threads"] for f in (tmp_path / "two").rglob("environment.json")}
    assert threads_there == {1}


@pytest.mark.slow
def test_a_failed_run_waits_for_the_others_and_is_named(tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "from signa.lab.tasks import Shakespeare\n"
        "real = Shakespeare.open\n"
        "def failing(self, **words):\n"
        "    if words['batch'] == 3:\n"
        "        raise ZeroDivisionError('a bug')\n"
        "    return real(self, **words)\n"
        "Shakespeare.open = failing\n"
    )
    made = real(vary={"train.batch": [3, 4, 5]})
    with pytest.raises(Failed, match=r"(?s)batch-3.*ZeroDivisionError: a bug"):
        run(made, tmp_path, jobs=2, plugins=[plugin])
    over = {path.parent.parent.name for path in (tmp_path / "abl").rglob("summary.json")}
    assert "batch-4" in over and "batch-3" not in over


@pytest.mark.slow
def test_a_killed_call_goes_on_and_its_processes_end(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(base(**{"train.steps": 30, "train.checkpoint_every": 5}).dump())
    words = ["ablate", str(spec), "--vary", f"{SCHEDULE}=polar6,jordan5", "--tune", "0", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "signa", *words, "--out", str(tmp_path), "--name"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    caller = subprocess.Popen([*command, "killed"], env=environment, stdout=subprocess.DEVNULL)
    runs = tmp_path / "killed" / "runs"
    while not list(runs.rglob("step-*")) and not list(runs.rglob("summary.json")):
        time.sleep(0.05)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    deadline = time.monotonic() + 60
    while True:  # the processes that it left behind stop at their next word
        done = subprocess.run([*command, "killed"], env=environment, capture_output=True, text=True)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        assert "is still going on" in done.stderr
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr
    subprocess.run([*command, "whole"], env=environment, check=True, capture_output=True)
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_ranks_run_one_after_the_other_together(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(base(**{"train.workers": 3}).dump())
    words = ["ablate", str(spec), "--vary", f"{SCHEDULE}=polar6,jordan5", "--tune", "0", "--seeds", "2"]
    words += ["--out", str(tmp_path), "--name"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "signa"]
    two = subprocess.run([*torchrun, *words, "two"], env=environment, capture_output=True, text=True)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("4 runs") == 1 and two.stdout.count("[4/4]") == 1
    subprocess.run([sys.executable, "-m", "signa", *words, "one"], env=environment, check=True, capture_output=True)
    digests = [
        sorted(json.loads(path.read_text())["model_digest"] for path in (tmp_path / name).rglob("summary.json"))
        for name in ("one", "two")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 4
    refused = subprocess.run(
        [*torchrun, *words, "three", "--jobs", "2"], env=environment, capture_output=True, text=True
    )
    assert refused.returncode != 0 and "--jobs does not go with torchrun" in refused.stderr
