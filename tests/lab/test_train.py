"""`signa train`: the whole path from the command line to the run folder, on runs of a few steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from signa.errors import SpecError
from signa.lab import records
from signa.lab.records import RunFolder, read_metrics
from signa.lab.schedules import Cosine, Linear, Wsd
from signa.lab.settings import Settings, load_experiment, read_settings
from signa.lab.tasks import Shakespeare, read_shakespeare
from tests.lab.tiny import TINY, losses, signa, tiny

ROOT = Path(__file__).parents[2]
Patch = pytest.MonkeyPatch
Said = pytest.CaptureFixture[str]


def test_a_run_writes_its_folder_and_learns(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    assert tiny(monkeypatch, tmp_path, "--steps", "30", "--workers", "3") == 0
    folder = tmp_path / "shakespeare"
    assert {p.name for p in folder.iterdir()} >= {
        "spec.yaml", "environment.json", "metrics.jsonl", "summary.json", "sample.txt", "loss.png", "loss.svg",
        "checkpoints",
    }  # fmt: skip
    metrics = losses(folder)
    train = [r["train_loss"] for r in metrics if "train_loss" in r]
    val = [r for r in metrics if "val_loss" in r]
    assert train[-1] < train[0] - 0.3
    assert [r["step"] for r in val] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert metrics[0].items() >= {"step": 2, "examples": 2 * 3 * 4 * 16, "train_loss": train[0]}.items()

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val_loss"] == val[-1]["val_loss"] and summary["workers"] == 3
    assert 1.0 <= summary["bits_up"] < 32.0 and summary["round_trip"] > 1.0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"][:2] == ["signa", "train"] and environment["torch"]
    said = capsys.readouterr().out
    assert f"validation loss     {summary['val_loss']:.4f}" in said and "times less, round trip" in said


def test_the_written_spec_repeats_the_run(monkeypatch: Patch, tmp_path: Path) -> None:
    assert tiny(monkeypatch, tmp_path, "--steps", "6", "--name", "first") == 0
    written = tmp_path / "first" / "spec.yaml"
    assert "device: cpu" in written.read_text() and "precision: float32" in written.read_text()  # resolved
    assert signa(monkeypatch, "train", str(written), "--out", str(tmp_path), "--name", "second") == 0
    assert losses(tmp_path / "second") == losses(tmp_path / "first")
    assert (tmp_path / "second" / "spec.yaml").read_text() == written.read_text()
    assert (tmp_path / "second" / "sample.txt").read_text() == (tmp_path / "first" / "sample.txt").read_text()


def test_a_run_depends_on_its_seed_and_never_writes_into_another(monkeypatch: Patch, tmp_path: Path) -> None:
    for seed in "0", "0", "1":
        assert tiny(monkeypatch, tmp_path, "--steps", "4", "--seed", seed) == 0
    first, second, other = (losses(tmp_path / f"shakespeare{n}") for n in ("", "-2", "-3"))
    assert first == second != other


def test_compare_draws_the_methods_together(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    assert tiny(monkeypatch, tmp_path, "--steps", "4", "--compare", "signmuon,muon,signsgd=0.01,adamw") == 0
    folder = tmp_path / "shakespeare-compare"
    names = {"signmuon", "muon", "signsgd", "adamw"}
    assert {p.name for p in folder.iterdir()} == names | {"compare.md", "loss.png", "loss.svg"}
    table = (folder / "compare.md").read_text()
    assert all(f"| {name} |" in table for name in names) and table in capsys.readouterr().out
    last = {name: losses(folder / name)[-1]["val_loss"] for name in names}
    assert len(set(last.values())) == len(names)  # each arm ran its own method
    bits = {name: json.loads((folder / name / "summary.json").read_text())["bits_up"] for name in names}
    assert bits["signmuon"] == bits["signsgd"] < bits["muon"] == bits["adamw"] == 32.0


@pytest.mark.parametrize("name", ["../out", "/tmp/x", "..", "a/b", ".hidden", "", "x" * 101, "a\nb"])
def test_a_run_name_cannot_leave_the_run_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="is not a run name"):
        RunFolder(tmp_path / "runs", name)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_goes_to_stderr_and_exits_with_2(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    assert tiny(monkeypatch, tmp_path, "--name", "../x") == 2
    assert "'../x' is not a run name" in capsys.readouterr().err
    assert tiny(monkeypatch, tmp_path, "--set", "train.step=3") == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err
    assert tiny(monkeypatch, tmp_path, "--compare", "lion") == 2
    assert "no learning rate is known for it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with RunFolder(tmp_path, "run") as folder:
        folder.metric({"step": 1})
    assert folder.path.name == "run-2" and not (tmp_path / "elsewhere").exists()


def test_a_cut_line_is_left_out_and_infinity_is_null(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "run") as folder:
        folder.metric({"step": 1, "val_loss": float("inf")})
        path = folder.path / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + b'{"step": 2, "va')
    assert read_metrics(path) == [{"step": 1, "val_loss": None}]


def test_a_kill_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from signa.lab.records import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), 'run')\n"
        "for step in range(1000): folder.metric({'step': step}); step == 500 and os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() == [f'{{"step": {i}}}' for i in range(501)]


def test_settings_name_every_error_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        read_settings({"worker": 3, "steps": 0, "schedule": "cosin", "task": {"kind": "shakespeare", "width": 30}})
    text = str(caught.value)
    assert "4 problems" in text
    assert "train.worker: unknown key 'worker'\n  instead: did you mean 'workers'?" in text
    assert "train.steps: " in text and "did you mean 'cosine'?" in text and "write width: 32" in text


@pytest.mark.parametrize("schedule", [Linear(warmup=0.1), Cosine(warmup=0.1), Wsd(warmup=0.1, cooldown=0.5)])
def test_a_schedule_rises_to_one_and_ends_near_zero(schedule: Linear | Cosine | Wsd) -> None:
    factors = [schedule.factor(i, 100) for i in range(100)]
    assert factors[:2] == pytest.approx([0.1, 0.2]) and max(factors) == 1.0
    assert 0.0 < factors[-1] < 0.03 and factors[10:] == sorted(factors[10:], reverse=True)


def test_the_text_is_read_from_the_named_directory_and_checked(monkeypatch: Patch, tmp_path: Path) -> None:
    shipped = read_shakespeare()
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "input.txt").write_text(shipped)
    monkeypatch.setenv("SIGNA_DATA", str(tmp_path))
    assert read_shakespeare() == shipped
    (tmp_path / "shakespeare" / "input.txt").write_text(shipped + "!")
    with pytest.raises(SpecError, match="is not tiny-shakespeare"):
        read_shakespeare()


def test_the_example_is_the_default() -> None:
    shipped = ROOT / "signa" / "lab" / "data" / "shakespeare.yaml"
    assert (ROOT / "examples" / "shakespeare.yaml").read_text() == shipped.read_text()
    assert read_settings(load_experiment(shipped).train).model_copy(update={"compare": {}}) == Settings()


def test_a_preset_is_an_experiment_and_addresses_reach_its_settings() -> None:
    spec = load_experiment("muon", changes={"train.task.width": 64, "train.steps": 7})
    settings = read_settings(spec.train)
    assert (settings.steps, settings.task) == (7, Shakespeare(width=64))


def test_without_matplotlib_one_line_says_so(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert tiny(monkeypatch, tmp_path, "--steps", "2") == 0
    assert "no loss plot: matplotlib is not installed" in capsys.readouterr().out
    assert not (tmp_path / "shakespeare" / "loss.png").exists()


def test_the_command_line_itself_does_not_load_torch() -> None:
    code = (
        "import sys, types\n"
        "package = types.ModuleType('signa'); package.__path__ = ['signa']; sys.modules['signa'] = package\n"
        "import signa.cli; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_environment_names_no_host(monkeypatch: Patch) -> None:
    import platform

    import torch

    assert platform.node() not in json.dumps(records.environment(["signa"], torch.device("cpu"))) or not platform.node()


def test_ctrl_c_exits_with_130(monkeypatch: Patch, capsys: Said) -> None:
    def interrupted() -> None:
        raise SystemExit(130)  # what typer makes of it

    monkeypatch.setattr("signa.cli.app", interrupted)
    assert signa(monkeypatch, "train") == 130
    assert capsys.readouterr().err == "interrupted: what was measured stays\n"


def test_a_change_that_no_parameter_follows_is_refused(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    """The second group of a preset takes tied parameters, of which there are none, and not the matrices."""

    def changed(address: str) -> int:
        words = ["train", "signmuon", "--steps", "2", "--workers", "1", "--device", "cpu", "--out", str(tmp_path)]
        return signa(monkeypatch, *words, *(w for item in (*TINY, address) for w in ("--set", item)))

    for address in ("groups.1.up=sign", "groups.tied.lr=0.1"):
        assert changed(address) == 2
        said = capsys.readouterr().err
        assert f"{address.split('=')[0]}: it would change nothing" in said
        assert "because: group 'tied' has none of the model's parameters" in said
        assert "groups.signmuon" in said.split("instead: change ")[1]
    assert not any(tmp_path.iterdir())
    assert changed("groups.signmuon.lr=0.1") == 0


def test_an_address_without_its_beginning(monkeypatch: Patch, tmp_path: Path, capsys: Said) -> None:
    assert tiny(monkeypatch, tmp_path, "--set", "worker.momentum.beta=0.9") == 2
    assert "instead: write one of groups.vocabulary.worker.momentum.beta, groups.matrices.w" in capsys.readouterr().err
    assert tiny(monkeypatch, tmp_path, "--set", "eval_every=3") == 2
    said = capsys.readouterr().err
    assert "eval_every: no part of a spec begins so" in said and "instead: write train.eval_every" in said


def test_advice_is_a_line_on_the_command_line() -> None:
    code = (
        "import warnings; from signa import cli; from signa.errors import Advice\n"
        "def app():\n    warnings.warn(Advice('take an odd number'))\n    warnings.warn('something else')\n"
        "cli.app = app; cli.main(); warnings.warn(Advice('and later as ever'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second, later = done.stderr.splitlines()
    assert (first, second) == ("advice: take an odd number", "<string>:4: UserWarning: something else")
    assert later.endswith(": Advice: and later as ever")
