"""`signa train --resume`: a run that stopped comes to what it would have come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from signa.lab.records import RunFolder
from signa.lab.tasks import text
from tests.lab.tiny import found, signa, tiny

Patch = pytest.MonkeyPatch
Said = pytest.CaptureFixture[str]
EVERY = ("--steps", "12", "--set", "train.log_every=3", "--set", "train.checkpoint_every=4", "--workers", "3")


def stopping(monkeypatch: Patch, step: int) -> None:
    """Somebody presses Ctrl-C at this step."""
    real = text.ShakespeareTask.loss

    def loss(self: Any, model: Any, worker: int, at: int) -> Any:
        if (worker, at) == (1, step):
            raise KeyboardInterrupt
        return real(self, model, worker, at)

    monkeypatch.setattr(text.ShakespeareTask, "loss", loss)


@pytest.fixture
def stopped(monkeypatch: Patch, tmp_path: Path) -> Path:
    """A run that was stopped between its checkpoint of step 8 and the end, after it had written step 9."""
    with monkeypatch.context() as patch:
        stopping(patch, 10)
        assert tiny(patch, tmp_path, *EVERY, "--name", "stopped") == 130
    return tmp_path / "stopped"


def test_a_stopped_run_ends_as_the_whole_one(monkeypatch: Patch, tmp_path: Path, stopped: Path, capsys: Said) -> None:
    assert tiny(monkeypatch, tmp_path, *EVERY, "--name", "whole") == 0
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-00000008"]
    written = (stopped / "metrics.jsonl").read_text()
    assert '"step": 9' in written
    assert signa(monkeypatch, "train", "--resume", str(stopped)) == 0
    assert "stopped: goes on at step 8" in capsys.readouterr().out
    assert found(stopped) == found(tmp_path / "whole")
    assert (stopped / "sample.txt").read_text() == (tmp_path / "whole" / "sample.txt").read_text()
    assert (stopped / "spec.yaml").read_text() == (tmp_path / "whole" / "spec.yaml").read_text()
    resumed = json.loads((stopped / "environment.json").read_text())["resumed"]
    assert [(entry["step"], entry["command"][:3]) for entry in resumed] == [(8, ["signa", "train", "--resume"])]
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-00000012"]


def test_ctrl_c_says_how_to_go_on(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    def said(step: int, name: str) -> str:
        with monkeypatch.context() as patch:
            stopping(patch, step)
            assert tiny(patch, tmp_path, *EVERY, "--name", name) == 130
        return capsys.readouterr().err

    path = tmp_path / "late"
    assert f"{path} stopped at step 6 of 12: signa train --resume {path} goes on" in said(6, "late")
    path = tmp_path / "early"
    text = said(2, "early")
    assert "saves every 4 steps (train.checkpoint_every)" in text
    assert f"signa train {path / 'spec.yaml'} begins it anew" in text


def test_a_run_that_stopped_at_its_very_end(monkeypatch: Patch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(text.ShakespeareTask, "sample", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny(patch, tmp_path, *EVERY, "--name", "stopped")
    assert tiny(monkeypatch, tmp_path, *EVERY, "--name", "whole") == 0
    assert signa(monkeypatch, "train", "--resume", str(tmp_path / "stopped")) == 0
    assert found(tmp_path / "stopped") == found(tmp_path / "whole")


def test_another_number_of_workers_needs_a_policy(monkeypatch: Patch, stopped: Path, capsys: Said) -> None:
    resume = ("train", "--resume", str(stopped), "--workers", "2")
    assert signa(monkeypatch, *resume) == 1
    assert "workers: 3 there, 2 here" in capsys.readouterr().err
    assert "workers: 3" in (stopped / "spec.yaml").read_text()
    assert signa(monkeypatch, *resume, "--on-world-change", "mean") == 0
    assert "workers: 2" in (stopped / "spec.yaml").read_text()
    summary = json.loads((stopped / "summary.json").read_text())
    assert summary["workers"] == 2 and summary["examples"] == (8 * 3 + 4 * 2) * 4 * 16


def test_what_cannot_be_resumed_says_why(monkeypatch: Patch, tmp_path: Path, stopped: Path, capsys: Said) -> None:
    def refused(*words: str) -> str:
        assert signa(monkeypatch, "train", *words) == 2
        return " ".join(capsys.readouterr().err.replace("│", " ").split())

    run = str(stopped)
    assert "does not go with --set" in refused("--resume", run, "--set", "train.batch=2")
    assert "does not go with --seed" in refused("--resume", run, "--seed", "0")
    assert "does not go with SPEC" in refused("muon", "--resume", run)
    assert "does not go with --compare" in refused("--resume", run, "--compare", "muon")
    assert "none of error, mean" in refused("--resume", run, "--on-world-change", "guess")
    assert "give --resume" in refused("--on-world-change", "mean")
    assert f"there is no run in {tmp_path}" in refused("--resume", str(tmp_path))
    with RunFolder.again(stopped):
        assert "is still going on instead: wait for its end" in refused("--resume", run)
    (stopped / "summary.json").write_text("{}")
    assert "is over because: it has its summary.json" in refused("--resume", run)
    (stopped / "summary.json").unlink()
    (stopped / "checkpoints" / "step-00000008").rename(tmp_path / "elsewhere")
    assert "train.checkpoint_every is 0" in refused("--resume", run)


def test_checkpoints_can_be_left_out(monkeypatch: Patch, tmp_path: Path) -> None:
    assert tiny(monkeypatch, tmp_path, "--steps", "2", "--set", "train.checkpoint_every=0") == 0
    assert not (tmp_path / "shakespeare" / "checkpoints").exists()


def test_the_metrics_are_cut_back_to_whole_lines_of_a_step(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "run") as folder:
        for step in (2, 4, 4, 6):
            folder.metric({"step": step})
        path = folder.path / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + b'{"step": 8, "va')
    for step, kept in ((8, [2, 4, 4, 6]), (4, [2, 4, 4]), (1, [])):
        with RunFolder.again(tmp_path / "run") as folder:
            assert [record["step"] for record in folder.cut(step)] == kept
            folder.metric({"step": 99})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*kept, 99]
