"""Checkpoints in one process: resumed == uninterrupted, complete or invisible, verified, and nothing in them runs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR

import signa
from signa.checkpoints import files
from signa.errors import CheckpointError

ROOT = Path(__file__).parents[2]


class Net(nn.Module):
    """Ragged matrices, a tied weight, a convolution, BatchNorm's buffers, and dropout, which draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 5)
        self.conv = nn.Conv1d(5, 7, 3, padding=1)
        self.norm = nn.BatchNorm1d(7)
        self.mid = nn.Linear(7, 5)
        self.head = nn.Linear(5, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.conv(self.embed(tokens).mT)).relu()
        return self.head(nn.functional.dropout(self.mid(x.mT), 0.1))


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def build(method: str, model: nn.Module, workers: int = 3, seed: int = 3, **group: Any) -> signa.SignA:
    rest = {"match": "*", "method": "adamw", "lr": 0.01, "weight_decay": 0.1}
    groups = [{"ndim": ">=2", "method": method, "lr": 0.02, **group}, rest]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", signa.Advice)
        return signa.build({"groups": groups}, model, transport=signa.Loopback(workers), seed=seed)


def train(model: nn.Module, opt: signa.SignA, schedule: LRScheduler | None, steps: int) -> None:
    """Data come from the three global generators, so a resume must restore them all."""
    for _ in range(steps):
        opt.zero_grad()
        for j in opt.transport.local:
            with opt.worker(j):
                tokens = torch.tensor(np.random.randint(0, 6, (2, 4)) + random.randint(0, 1)).clamp(max=5)
                nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        opt.step()
        if schedule is not None:
            schedule.step()


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture(autouse=True)
def generators() -> Iterator[None]:
    """Leave the global generators as they were."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed_all(0)
    yield
    torch.set_rng_state(kept[0])
    np.random.set_state(kept[1])
    random.setstate(kept[2])


def snapshot(model: nn.Module, opt: signa.SignA) -> dict[str, Tensor]:
    state = {
        f"{route.named.name}:{address}": view.clone()
        for route in opt.routing
        for address, view in opt.state[route.named.parameter].items()
    }
    return {**{name: value.clone() for name, value in model.state_dict().items()}, **state}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# Resumed == uninterrupted --------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[signa.SignA], LRScheduler]] = {
    "exponential": lambda opt: ExponentialLR(opt, 0.9),
    "milestones": lambda opt: MultiStepLR(opt, [7, 12]),  # a Counter in its state
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", ["signmuon", "ef21muonsign", "muon", "doublesqueeze"])
def test_resumed_is_uninterrupted(method: str, workers: int, schedule: str, tmp_path: Path) -> None:
    model = net()
    opt = build(method, model, workers)
    plan = SCHEDULES[schedule](opt)
    train(model, opt, plan, 10)
    path = signa.save_checkpoint(tmp_path, model, opt, plan=plan, epoch=4, where={"shard": [1, 2], "x": torch.ones(2)})
    assert path == tmp_path / "step-00000010"
    train(model, opt, plan, 10)
    seed_all(99)
    again = net(seed=1)
    fresh = build(method, again, workers, seed=8, weight_decay=0.3)
    plan = SCHEDULES[schedule](fresh)
    train(again, fresh, plan, 3)
    found = signa.load_checkpoint(tmp_path, again, fresh, plan=plan)
    assert (found["step"], found["epoch"], found["where"]["shard"], fresh.seed) == (10, 4, [1, 2], 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # under EF21-P, W and X are loaded together: no advice that X was reset
        train(again, fresh, plan, 10)
    same(snapshot(model, opt), snapshot(again, fresh))
    assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in fresh.param_groups]


def test_a_grad_scaler_and_a_sampler_are_extras(tmp_path: Path) -> None:
    class Sampler:
        at = 0

        def state_dict(self) -> dict[str, Any]:
            return {"at": self.at, "order": torch.arange(3), "seen": np.int64(5), "none": None, ("a", 1): b"\xff"}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.at, self.state = state["at"], state

    model = net()
    opt, scaler, sampler = build("signmuon", model), torch.amp.GradScaler("cpu", init_scale=8.0), Sampler()
    sampler.at = 7
    path = signa.save_checkpoint(tmp_path, model, opt, scaler=scaler, sampler=sampler)
    scaler, sampler = torch.amp.GradScaler("cpu"), Sampler()
    signa.load_checkpoint(path, model, opt, scaler=scaler, sampler=sampler)
    assert scaler.get_scale() == 8.0 and sampler.at == 7
    assert type(sampler.state["seen"]) is int and sampler.state[("a", 1)] == b"\xff"


def test_a_checkpoint_holds_no_more_than_its_views(tmp_path: Path) -> None:
    model = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
    spec = {"groups": [{"match": "*", "method": "ef21muonsign", "lr": 0.1}]}
    opt = signa.build(spec, model, transport=signa.Loopback(2))
    path = signa.save_checkpoint(tmp_path, model, opt)
    floats = 4 * 64 * 64 * (1 + 4 * 1 + 2 * 2)  # W; H, X, and the downlink's h and H; m and h of two workers
    size = sum(file.stat().st_size for file in path.iterdir())
    assert 4 * floats < size < 4 * floats + 60_000


def test_a_tied_weight_is_written_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(200, 200, bias=False), "b": nn.Linear(200, 200, bias=False)})
    model["b"].weight = model["a"].weight
    opt = signa.build({"groups": [{"match": "*", "method": "nsgd", "lr": 0.1}]}, model)
    path = signa.save_checkpoint(tmp_path, model, opt)
    assert (path / "shared.pt").stat().st_size < 1.5 * 4 * 200 * 200


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    model = net()
    opt = build("signmuon", model)
    path = signa.save_checkpoint(tmp_path, model, opt)
    told = json.loads((path / "manifest.json").read_text())
    assert (told["step"], told["world"], told["workers"], told["spec_id"]) == (0, [3], 3, opt.spec.id)
    assert told["signa"] == signa.__version__ and told["torch"] == torch.__version__
    assert told["layout"]["mid.weight"] == "(5, 7) float32" and told["files"]["rank-00000.pt"]["workers"] == [0, 1, 2]
    for name, facts in told["files"].items():
        data = (path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "rank-00000.pt", "shared.pt"]


def test_a_wrapped_or_compiled_model_is_the_same_model(tmp_path: Path) -> None:
    model = net()
    wrapped = nn.Module()
    wrapped.module = model
    opt = build("signmuon", wrapped)
    path = signa.save_checkpoint(tmp_path, wrapped, opt)
    again = net(seed=1)
    signa.load_checkpoint(path, again, build("signmuon", again))
    same(dict(model.state_dict()), dict(again.state_dict()))


# The folder ----------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, *, method: str = "ef21muonsign", workers: int = 3) -> tuple[Net, signa.SignA, Path]:
    model = net()
    opt = build(method, model, workers)
    train(model, opt, None, 1)
    return model, opt, signa.save_checkpoint(tmp_path, model, opt)


def test_keep_deletes_older_ones_only(tmp_path: Path) -> None:
    model = net()
    opt = build("signmuon", model)

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    for step in (1, 2, 3, 9, 4):
        opt.steps = step
        signa.save_checkpoint(tmp_path, model, opt)
    opt.steps = 5
    signa.save_checkpoint(tmp_path, model, opt, keep=2)
    assert names() == ["step-00000004", "step-00000005", "step-00000009"]
    opt.steps = 6
    signa.save_checkpoint(tmp_path, model, opt, keep=1)
    assert names() == ["step-00000006", "step-00000009"]
    assert signa.load_checkpoint(tmp_path, model, opt)["step"] == 9
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="keep must be an integer from 1 on, or None"):
            signa.save_checkpoint(tmp_path, model, opt, keep=wrong)  # type: ignore[arg-type]


def test_an_existing_name_is_never_overwritten(tmp_path: Path) -> None:
    model, opt, path = saved(tmp_path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(CheckpointError, match="step-00000001' exists already, and a checkpoint is never overwritten"):
        signa.save_checkpoint(tmp_path, model, opt)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_leftovers_are_cleaned_and_nothing_else_is(tmp_path: Path) -> None:
    model, opt, _ = saved(tmp_path)
    left = tmp_path / ".step-00000001.0123abcd"
    left.mkdir()
    (left / "shared.pt").write_bytes(b"half")
    (tmp_path / ".step-notes").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert signa.load_checkpoint(tmp_path, model, opt)["step"] == 1
    opt.steps = 2
    signa.save_checkpoint(tmp_path, model, opt)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".step-notes", "notes.txt", "step-00000001", "step-00000002",
    ]  # fmt: skip


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path) -> None:
    model, opt, first = saved(tmp_path)
    opt.steps = 2
    second = signa.save_checkpoint(tmp_path, model, opt)
    (second / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no manifest\.json: it is not complete"):
        signa.load_checkpoint(second, model, opt)
    with pytest.warns(signa.Advice, match=r"step-00000002 in .* left aside"):
        assert signa.load_checkpoint(tmp_path, model, opt)["step"] == 1
    shutil.rmtree(first)
    with pytest.raises(CheckpointError, match="there is no complete checkpoint in"):
        signa.load_checkpoint(tmp_path, model, opt)
    with pytest.raises(CheckpointError, match="there is no folder"):
        signa.load_checkpoint(tmp_path / "elsewhere", model, opt)


# Damage --------------------------------------------------------------------------------------------------------------


def refused(path: Path, match: str, *, model: nn.Module | None = None, opt: signa.SignA | None = None, **k: Any) -> str:
    """Loading fails, and has written nothing."""
    model = net(seed=1) if model is None else model
    opt = build("ef21muonsign", model) if opt is None else opt
    before, draws = snapshot(model, opt), torch.get_rng_state()
    with pytest.raises(CheckpointError, match=match) as error:
        signa.load_checkpoint(path, model, opt, **k)
    same(snapshot(model, opt), before)
    assert opt.steps == 0 and torch.equal(torch.get_rng_state(), draws)
    return str(error.value)


@pytest.mark.parametrize("name", ["shared.pt", "rank-00000.pt", "manifest.json"])
def test_a_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    data = (path / name).read_bytes()
    places = random.Random(0).sample(range(len(data)), 12)
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        if name == "manifest.json" and data[at : at + 1].isspace() and bytes(flipped[at : at + 1]).isspace():
            continue  # it says the same
        (path / name).write_bytes(flipped)
        refused(path, r"is damaged \(wrong (sha256|digest)\): take an older checkpoint")
    (path / name).write_bytes(data)
    model = net()
    signa.load_checkpoint(path, model, build("ef21muonsign", model))


@pytest.mark.parametrize("name", ["shared.pt", "rank-00000.pt"])
def test_truncated_and_missing_files_are_noticed(name: str, tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    size = (path / name).stat().st_size
    os.truncate(path / name, size - 1)
    refused(path, f"{name}' has {size - 1} bytes and not {size}: the checkpoint is damaged, take an older one")
    (path / name).unlink()
    refused(path, f"{name}' is missing: the checkpoint is damaged")


def forge(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Replace a file, and make hashes that fit: an attacker can do that."""
    content = change(torch.load(path / name, weights_only=True))
    torch.save(content, path / name)
    told = json.loads((path / "manifest.json").read_text())
    data = (path / name).read_bytes()
    told["files"][name] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    told["digest"] = files.digest_of(told)
    (path / "manifest.json").write_text(json.dumps(told))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("name", ["shared.pt", "rank-00000.pt"])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(name: str, tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    forge(path, name, lambda content: {**content, "bomb": Bomb(tmp_path / "boom")})
    refused(path, "holds something other than tensors and plain data, and nothing in it was run")
    assert not (tmp_path / "boom").exists()


def test_a_manifest_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    told = json.loads((path / "manifest.json").read_text())
    for change, match in (
        (
            {"files": {**told["files"], "../other.pt": told["files"]["rank-00000.pt"]}},
            "names files that no checkpoint has",
        ),
        ({"files": {k: v for k, v in told["files"].items() if k != "rank-00000.pt"}}, "leaves out rank-00000.pt"),
        ({"format": 9}, "is of format 9, this version reads 1"),
        ({"files": 3}, "is damaged"),
    ):
        changed = {**told, **change}
        changed["digest"] = files.digest_of(changed)
        (path / "manifest.json").write_text(json.dumps(changed))
        refused(path, match)
    for text in ("[]", "3", "", '{"digest": 1}'):
        (path / "manifest.json").write_text(text)
        refused(path, "is damaged")


def test_a_damaged_structure_is_refused(tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    forge(path, "rank-00000.pt", lambda content: {**content, "worker": {}})
    refused(path, r"it is damaged \(KeyError: ")
    forge(path, "shared.pt", lambda content: {"signa": content["signa"]})
    refused(path, r"it is damaged \(KeyError: ")


# Another run ---------------------------------------------------------------------------------------------------------


def test_another_spec_model_or_world_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    model = net()
    model.mid = nn.Linear(7, 9)
    model.extra = nn.Linear(2, 2, bias=False)
    model.norm = nn.BatchNorm1d(7, track_running_stats=False)
    text = refused(path, "does not fit", model=model, opt=build("signmuon", model, 5))
    for line in (
        "workers: 3 there, 5 here: say what becomes of their state, with on_world_change='mean' ",
        "groups.0.method",
        "'mid.weight': (5, 7) float32 there, (9, 7) float32 here",
        "'extra.weight' is here and not there",
        "'norm.running_mean' is there and not here",
    ):
        assert line in text
    double = net().double()
    refused(path, r"'mid.weight': \(5, 7\) float32 there, \(5, 7\) float64 here", model=double,
            opt=build("ef21muonsign", double))  # fmt: skip
    model = net()
    refused(path, r"the optimizer's 'embed.weight', .* and 4 more are not parameters of this model", model=model,
            opt=build("ef21muonsign", net()))  # fmt: skip
    with pytest.raises(ValueError, match=r"on_world_change must be one of error, mean, reset, remap: 'average'"):
        signa.load_checkpoint(path, model, build("ef21muonsign", model), on_world_change="average")  # type: ignore[arg-type]


def test_extras_must_match(tmp_path: Path) -> None:
    model = net()
    opt = build("ef21muonsign", model)
    plan = ExponentialLR(opt, 0.9)
    path = signa.save_checkpoint(tmp_path, model, opt, plan=plan, epoch=4)
    for given, match in (
        ({}, "extra 'plan' is there and not asked for: pass plan=..., or plan=None to leave it aside"),
        ({"plam": plan, "plan": plan}, "extra 'plam' is not there: it has plan, and as plain data epoch"),
        ({"plan": plan, "epoch": plan}, "extra 'epoch' was saved as plain data: leave it out"),
        ({"plan": 3}, r"extra 'plan' is an int without load_state_dict\(\)"),
    ):
        refused(path, match, **given)
    assert signa.load_checkpoint(path, model, opt, plan=None) == {"step": 0, "epoch": 4}


class Stubborn:
    def state_dict(self) -> dict[str, Any]:
        return {"at": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("of another version")


def test_an_extra_that_refuses_comes_before_the_model(tmp_path: Path) -> None:
    model, opt, _ = saved(tmp_path)
    opt.steps = 2
    path = signa.save_checkpoint(tmp_path, model, opt, it=Stubborn())
    refused(path, "KeyError: 'of another version'; model and optimizer are not whole now: load again", it=Stubborn())


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (lambda: None, r"x is a builtins.function, which could not be read back without running code"),
        ({"a": [1, {2}]}, r"x\['a'\]\[1\] is a builtins.set"),
        (np.ones(3), r"x is a numpy.ndarray"),
        (Path("x"), r"x is a pathlib"),
        ({Path("x"): 1}, r"x, key .* is a pathlib"),
        (nn.Parameter(torch.ones(2)).to("meta"), r"x is a torch"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_anything_is_written(
    value: Any, match: str, tmp_path: Path
) -> None:
    model = net()
    opt = build("signmuon", model)
    with pytest.raises(CheckpointError, match=match):
        signa.save_checkpoint(tmp_path / "new", model, opt, x=value)
    with pytest.raises(CheckpointError, match="an extra cannot be called 'step'"):
        signa.save_checkpoint(tmp_path / "new", model, opt, step=3)
    assert not (tmp_path / "new").exists()


def test_only_between_steps_and_outside_exact(tmp_path: Path) -> None:
    model, opt, path = saved(tmp_path)
    with opt.exact():
        with pytest.raises(CheckpointError, match=r"save_checkpoint\(\) inside 'with opt.exact"):
            signa.save_checkpoint(tmp_path, model, opt)
        with pytest.raises(CheckpointError, match=r"load_checkpoint\(\) inside 'with opt.exact"):
            signa.load_checkpoint(path, model, opt)
    with opt.worker(1):
        model(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()
    with pytest.raises(CheckpointError, match=r"gradients that no step has used: save behind opt.step"):
        signa.save_checkpoint(tmp_path, model, opt)
    signa.load_checkpoint(path, model, opt)
    assert not opt._rows.pending and all(p.grad is None for p in model.parameters())
    with pytest.raises(CheckpointError, match=r"the model must be an nn.Module, got a dict"):
        signa.save_checkpoint(tmp_path, dict(model.named_parameters()), opt)  # type: ignore[arg-type]


# A disk that refuses (at every operation of a save: test_write_points.py) ---------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    model = net()
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"Permission denied .*: name a directory that this user may use"):
        signa.save_checkpoint(tmp_path, model, build("signmuon", model))


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = net()
    with pytest.raises(CheckpointError, match=r"cannot save a checkpoint of step 0 to '.*file'"):
        signa.save_checkpoint(tmp_path / "file", model, build("signmuon", model))


def test_a_full_disk_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's zip writer would hide the reason."""
    model, opt, _ = saved(tmp_path)
    opt.steps = 2
    real = files.Hashed.__init__

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 20_000

        def write(self, data: bytes) -> None:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    monkeypatch.setattr(files.Hashed, "__init__", lambda self, file: real(self, Full(file)))
    with pytest.raises(CheckpointError, match=r"No space left on device: free some space, or keep fewer"):
        signa.save_checkpoint(tmp_path, model, opt)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_rejoined_receiver_goes_with_its_senders() -> None:
    h = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    kept = h.clone()

    def aggregate(messages: torch.Tensor) -> torch.Tensor:
        return signa.aggregators.get("mean")()(
            messages, torch.ones(messages.shape[:-2], dtype=torch.bool), signa.Context()
        )

    ((name, found),) = signa.feedbacks.parse("ef21").rejoin({"h": h}, aggregate).items()
    assert name == "H" and found.shape == (2, 3, 4) and torch.equal(h, kept)
    assert torch.equal(found, ((((h[0] + h[1]) + h[2]) + h[3]) + h[4]) / 5)
    assert (
        signa.feedbacks.parse("ef14").rejoin({"e": h}, aggregate)
        == {}
        == signa.feedbacks.parse("none").rejoin({}, aggregate)
    )


# Killed for good -----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time, hashlib
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.paths.test_checkpoints import build, net, seed_all, train
import signa
from torch.optim.lr_scheduler import ExponentialLR
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
seed_all(0)
model = net()
opt = build("ef21muonsign", model)
plan = ExponentialLR(opt, 0.99)
if folder.is_dir() and any(path.name.startswith("step-") for path in folder.iterdir()):
    signa.load_checkpoint(folder, model, opt, plan=plan)
print("ready", opt.steps, flush=True)
while opt.steps < steps:
    train(model, opt, plan, 1)
    if opt.steps % 2 == 0:
        signa.save_checkpoint(folder, model, opt, keep=2, plan=plan)
data = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
print("done", hashlib.sha256(data).hexdigest(), flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_where_the_uninterrupted_run_ends(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), "120"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)

    def line(process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None
        return process.stdout.readline().split()

    whole = start(tmp_path / "whole")
    assert line(whole) == ["ready", "0"]
    begun = time.monotonic()
    expected = line(whole)
    seconds = time.monotonic() - begun
    assert whole.wait() == 0 and expected[0] == "done"
    dice, kills, steps = random.Random(0), 0, []
    while kills < 8:
        process = start(tmp_path / "killed")
        steps.append(int(line(process)[1]))
        time.sleep(dice.uniform(0.2, 1.8) * seconds / 10)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
    assert steps == sorted(steps) and len(set(steps)) > 3
    last = start(tmp_path / "killed")
    assert line(last)[0] == "ready" and line(last) == expected
    assert last.wait() == 0


def test_buffers_whose_names_meet_are_refused(tmp_path: Path) -> None:
    """``module.`` is what DDP puts in front, so a child of that name must not hide a buffer of its parent."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.BatchNorm1d(3)
            self.head = nn.Linear(3, 2)
            self.register_buffer("running_mean", torch.ones(3))

    model = Wrapper()
    opt = signa.build("signmuon", model, lr=0.1)
    with pytest.raises(CheckpointError, match="are both 'running_mean'"):
        signa.save_checkpoint(tmp_path, model, opt)
    assert not list(tmp_path.iterdir())
