"""`signa verify`: a replay finds an honest run the same, and every kind of change where it is, with its reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from signa.lab import verify as module
from signa.lab.verify import Verdict, verify
from signa.optim import SignA
from tests.lab.tiny import signa, tiny

Patch = pytest.MonkeyPatch
Said = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
SHAPE = ("--steps", "12", "--set", "train.log_every=3", "--set", "train.checkpoint_every=4", "--workers", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("runs")
        assert tiny(patch, root, *SHAPE, "--name", "run") == 0
    return root / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change(path: Path, act: Callable[[Any], object]) -> None:
    """Rewrite a file of JSON, or of lines of it."""
    each = path.suffix == ".jsonl"
    data = lines(path) if each else json.loads(path.read_text())
    act(data)
    path.write_text("".join(json.dumps(line) + "\n" for line in data) if each else json.dumps(data))


def first(found: Verdict) -> tuple[int, str]:
    assert found.difference is not None
    return found.difference.step, found.difference.what


def test_an_honest_run_is_the_same_and_nothing_is_written(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = verify(run, steps=5)
    assert found.same and found.steps == 6 and found.of == 12 and not found.apart and not found.unknown
    assert found.compared["losses"] == 6 and found.compared["digests of the model"] == 3  # at 0, 3 and 6
    assert found.compared["numbers of metrics.jsonl"] > 10
    whole = verify(run, steps=99)
    assert whole.same and whole.steps == 12 and whole.compared["losses"] == 12
    assert whole.compared["digests of the final model"] == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_trail_has_every_loss_and_the_metrics_have_their_means(run: Path) -> None:
    head, *trail = lines(run / "trail.jsonl")
    assert head["step"] == 0 and len(head["names"]) == len(head["digests"]) and head["losses"] == []
    assert [(line["step"], len(line["losses"])) for line in trail] == [(3, 3), (6, 3), (9, 3), (12, 3)]
    logged = [line["train_loss"] for line in lines(run / "metrics.jsonl") if "train_loss" in line]
    assert logged == pytest.approx([sum(line["losses"]) / 3 for line in trail], rel=1e-12)


@pytest.mark.parametrize(
    ("file", "at", "key", "where"),
    [("trail.jsonl", 2, "losses", (5, "the training loss")), ("metrics.jsonl", 0, "train_loss", (3, "train_loss"))],
)
def test_one_bit_of_a_recorded_loss(run: Path, file: str, at: int, key: str, where: tuple[int, str]) -> None:
    def nudge(data: list[dict[str, Any]]) -> None:
        value = data[at][key]
        bit = torch.tensor(value, dtype=torch.float64).nextafter(torch.tensor(9.0, dtype=torch.float64))
        data[at][key] = [value[0], bit[1].item(), value[2]] if isinstance(value, list) else bit.item()

    change(run / file, nudge)
    found = verify(run, steps=6)
    assert first(found) == where and not found.apart
    assert found.difference and found.difference.recorded > found.difference.found


def test_one_digest_names_the_parameter(run: Path) -> None:
    names = lines(run / "trail.jsonl")[0]["names"]

    def flip(data: list[dict[str, Any]]) -> None:
        data[1]["digests"][4] = "0" * 16

    change(run / "trail.jsonl", flip)
    found = verify(run, steps=3)
    assert first(found) == (3, "the model") and found.difference and found.difference.names == (names[4],)


def test_another_seed_in_the_spec(run: Path) -> None:
    spec = run / "spec.yaml"
    spec.write_text(spec.read_text().replace("seed: 0", "seed: 1"))
    found = verify(run, steps=3)
    assert first(found) == (0, "the model")
    assert [each.fact for each in found.apart] == ["spec"]
    assert "bring back the file" in str(found.apart[0])


def test_a_change_of_one_bit_in_an_update(run: Path, monkeypatch: Patch) -> None:
    """The code of today moves one entry of one parameter by one bit more, in the fifth step."""
    real, count = SignA.step, [0]
    names = lines(run / "trail.jsonl")[0]["names"]

    def step(self: SignA, *words: Any, **more: Any) -> Any:
        done = real(self, *words, **more)
        count[0] += 1
        if count[0] == 5:
            with torch.no_grad():
                entry = self.routing[0].named.parameter.view(-1)[:1]
                entry.copy_(torch.nextafter(entry, torch.full_like(entry, 9)))
            names[:] = [self.routing[0].named.name]
        return done

    monkeypatch.setattr(SignA, "step", step)
    found = verify(run, steps=6)
    assert found.difference and found.difference.step == 6 and not found.apart
    assert names[0] in found.difference.names


@pytest.mark.parametrize(("fact", "then"), [("threads", 77), ("torch", "1.0"), ("data", "ab"), ("cpu", "a calculator")])
def test_facts_that_differ_are_told(run: Path, fact: str, then: Any) -> None:
    change(run / "environment.json", lambda data: data.update({fact: then}))
    found = verify(run, steps=3)
    assert found.same and [(each.fact, each.then) for each in found.apart] == [(fact, then)]


def test_facts_of_a_resume_count_from_its_step_on(run: Path) -> None:
    resumed = {"step": 4, "command": [], "threads": 77}
    change(run / "environment.json", lambda data: data.update(resumed=[resumed]))
    assert not verify(run, steps=3).apart
    assert str(verify(run, steps=6).apart[0]).startswith("threads: 77 then (from step 4 on), ")


def test_a_resumed_run_has_the_trail_of_the_whole_one(run: Path, monkeypatch: Patch, tmp_path: Path) -> None:
    from tests.lab.test_resume import stopping

    with monkeypatch.context() as patch:
        stopping(patch, 10)
        assert tiny(patch, tmp_path, *SHAPE, "--name", "stopped") == 130
    assert lines(tmp_path / "stopped" / "trail.jsonl")[-1]["step"] == 9
    assert signa(monkeypatch, "train", "--resume", str(tmp_path / "stopped")) == 0
    assert (tmp_path / "stopped" / "trail.jsonl").read_text() == (run / "trail.jsonl").read_text()
    resumed = json.loads((tmp_path / "stopped" / "environment.json").read_text())["resumed"][0]
    assert resumed["threads"] == torch.get_num_threads() and resumed["spec"]


def test_an_old_record_is_compared_as_far_as_it_goes(run: Path) -> None:
    (run / "trail.jsonl").unlink()
    kept = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    (run / "environment.json").write_text(json.dumps(kept))
    found = verify(run, steps=6)
    assert found.same and "losses" not in found.compared and "has no trail.jsonl" in found.notes[0]
    assert {"spec", "data", "plugins"} <= set(found.unknown)

    def nudge(data: list[dict[str, Any]]) -> None:
        next(line for line in data if "val_loss" in line)["val_loss"] += 1e-9

    change(run / "metrics.jsonl", nudge)
    assert first(verify(run, steps=6)) == (4, "val_loss")


def test_the_end_of_an_old_record_has_a_digest(run: Path) -> None:
    (run / "trail.jsonl").unlink()
    change(run / "summary.json", lambda data: data.update(model_digest="0" * 16))
    assert first(verify(run, steps=12)) == (12, "the final model")


def test_the_command_line(run: Path, monkeypatch: Patch, capsys: Said) -> None:
    assert signa(monkeypatch, "verify", str(run), "--steps", "3") == 0
    said = capsys.readouterr().out
    assert "replayed 3 of 12 steps" in said and "the same, bit for bit: 2 digests of the model, 3 losses" in said
    change(run / "environment.json", lambda data: data.update(threads=77))
    change(run / "trail.jsonl", lambda data: data[1]["losses"].__setitem__(1, 1.5))
    assert signa(monkeypatch, "verify", str(run), "--steps", "0", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False and told["steps"] == 12
    assert told["difference"]["step"] == 2 and told["difference"]["recorded"] == 1.5
    assert [(each["fact"], each["then"]) for each in told["apart"]] == [("threads", 77)]
    assert signa(monkeypatch, "verify", str(run), "--steps", "3") == 1
    said = capsys.readouterr().out
    assert "note: threads: 77 then" in said  # before the replay, which takes long
    assert "differs first at step 2: the training loss\n  recorded 1.5\n" in said
    assert "likely because threads: 77 then, " in said and "set OMP_NUM_THREADS" in said


def test_what_cannot_be_replayed_says_why(run: Path, monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    def refused(*words: str) -> str:
        assert signa(monkeypatch, "verify", *words) == 2
        return " ".join(capsys.readouterr().err.replace("│", " ").split())

    assert f"there is no run in {tmp_path}" in refused(str(tmp_path))
    change(run / "environment.json", lambda data: data.update(plugins={"mine.py": "ab"}))
    assert "the run used the plug-in mine.py instead: give --plugin" in refused(str(run))
    for name in ("trail.jsonl", "metrics.jsonl"):
        (run / name).write_text("")
    assert "nothing of this run can be compared" in refused(str(run))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "leave torchrun out" in refused(str(run))


def test_no_evidence_is_no_agreement(run: Path, monkeypatch: Patch) -> None:
    """A replay that stops early, or tells nothing, is not taken for the same."""
    monkeypatch.setattr(module._Replay, "trail", lambda *_, **__: None)
    monkeypatch.setattr(module._Replay, "metric", lambda *_: None)
    assert first(verify(run, steps=6)) == (1, "the training loss")
