"""The task `images` on generated pictures, its arithmetic, and the specs of experiments 3 and 4."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import signa
from signa.errors import SpecError
from signa.lab.datasets import READERS, Dataset, Images
from signa.lab.job import weighted
from signa.lab.models import Cnn2
from signa.lab.settings import load_experiment, read_settings
from signa.lab.tasks import ImageClassification
from signa.lab.tasks.images import ImageTask, Stream, held_out, shifted
from signa.presets import presets
from tests.lab.tiny import losses
from tests.lab.tiny import signa as command

Patch = pytest.MonkeyPatch
ROOT = Path(__file__).parents[2]
FOLDERS = ("cifar", "federated")
SPECS = [p for f in FOLDERS for p in sorted((ROOT / "examples" / f).glob("*.yaml")) if "compare" not in p.name]
ARMS = [
    "signmuon", "ef21signmuon", "muonusign", "muonsign", "ef21muonusign", "ef21muonsign", "muon_worker", "muon",
    "signsgd", "sgd", "adamw",
]  # fmt: skip

SMALL = """
groups:
  - {match: "head.*", method: adamw, lr: 0.01}
  - {ndim: ">=2", method: signmuon, lr: 0.1}
  - {match: "*", method: adamw, lr: 0.01}
train:
  task: {kind: images, data: mnist, model: {mlp: {widths: [16]}}, holdout: 50, split: {dirichlet: {minimum: 8}}}
  steps: 12
  workers: 3
  sample: 0.7
  batch: 8
  accumulate: 2
  eval_every: 2
  log_every: 6
"""


def pictures(count: int, seed: int, size: int = 12) -> Images:
    """Noise with a bright row that tells the class, 0 to 3."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 1, size, size), dtype=np.uint8)
    labels = rng.integers(0, 4, count)
    pixels[np.arange(count), :, labels * 3] = 255
    return Images.of(pixels, labels)


def small() -> Dataset:
    tests = {"test": lambda: pictures(40, 1), "other": lambda: pictures(30, 2)}
    return Dataset(pictures(200, 0), tests, (0.3,), (0.2,), classes=4)


def opened(batch: int = 8, workers: int = 3, seed: int = 0, **fields: Any) -> ImageTask:
    config = ImageClassification(**{"model": {"mlp": {"widths": [8]}}, "holdout": 50, **fields})
    return ImageTask(config, small(), workers=workers, batch=batch, seed=seed, device=torch.device("cpu"))


def test_a_worker_meets_each_of_its_images_once_an_epoch() -> None:
    stream = Stream(np.arange(100, 110), seed=3)
    drawn = torch.cat([stream.rows(i, 4) for i in range(10)])
    assert all(sorted(epoch.tolist()) == list(range(100, 110)) for epoch in drawn.split(10))
    assert not torch.equal(drawn[:10], drawn[10:20])
    fresh = Stream(np.arange(100, 110), seed=3)
    assert torch.equal(fresh.rows(7, 4), drawn[28:32])  # a resume asks for any draw first
    assert len(stream.rows(0, 25)) == 25  # more than it has
    assert not torch.equal(Stream(np.arange(100, 110), seed=4).rows(0, 10), drawn[:10])


def test_the_split_of_the_reference() -> None:
    val, train = held_out(50_000, 5_000, 0)
    order = np.random.default_rng(12345).permutation(50_000)
    assert val.tolist() == order[:5000].tolist() and sorted([*val.tolist(), *train.tolist()]) == list(range(50_000))
    assert held_out(50_000, 5_000, 300)[1].tolist() == train[:300].tolist()
    assert held_out(7, 0, 0)[1].tolist() == list(range(7))
    for images, holdout, subset, remedy in (10, 10, 0, "holdout: 5000"), (10, 4, 7, "subset: 6"):
        with pytest.raises(SpecError, match=remedy):
            held_out(images, holdout, subset)


def test_shifts_move_whole_pictures() -> None:
    x = torch.arange(1, 61, dtype=torch.uint8).view(1, 3, 4, 5).expand(64, -1, -1, -1)
    same = shifted(x, 0, torch.Generator().manual_seed(0), flip=False)
    assert torch.equal(same, x)
    flipped = shifted(x, 0, torch.Generator().manual_seed(0), flip=True)
    mirrored = [torch.equal(y, x[0].flip(-1)) for y in flipped]
    assert 16 < sum(mirrored) < 48 and all(m or torch.equal(y, x[0]) for m, y in zip(mirrored, flipped))
    moved = shifted(x, 1, torch.Generator().manual_seed(0), flip=False)
    padded = nn.functional.pad(x[0], (1, 1, 1, 1))
    windows = {(i, j): padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3)}
    found = [next(at for at, window in windows.items() if torch.equal(window, y)) for y in moved]
    assert set(found) == set(windows)


def test_a_loss_is_a_function_of_seed_worker_and_draw() -> None:
    fields: dict[str, Any] = {"flip": True, "crop": 2, "model": {"resnet18": {"width": 2, "dropout": 0.5}}}
    task = opened(**fields)
    torch.manual_seed(0)
    model = task.model()
    first = [float(task.loss(model, worker, draw).detach()) for worker in range(3) for draw in range(2)]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again = opened(**fields)
    assert [float(again.loss(model, w, d).detach()) for w in range(3) for d in range(2)] == first and len(
        set(first)
    ) == 6
    assert torch.equal(torch.random.get_rng_state(), before)
    other = opened(seed=1, **fields)
    assert float(other.loss(model, 0, 0).detach()) != first[0]


@pytest.mark.parametrize(
    "changed",
    [{"flip": True}, {"crop": 2}, {"label_smoothing": 0.2}, {"subset": 30}, {"holdout": 20}, {"split": "shared"},
     {"split": {"kind": "dirichlet", "alpha": 0.1, "minimum": 1}}, {"model": {"mlp": {"widths": [9]}}}],
    ids=str,
)  # fmt: skip
def test_a_field_changes_the_loss(changed: dict[str, Any]) -> None:
    values = []
    for fields in {}, changed:
        task = opened(**fields)
        torch.manual_seed(0)
        model = task.model()
        values.append([float(task.loss(model, 0, draw).detach()) for draw in range(3)])
    assert values[0] != values[1]


def test_frozen_batch_norm_keeps_mean_0_and_variance_1() -> None:
    for choice in "frozen", "live":
        task = opened(model=Cnn2(kernels=2, hidden=4), batch_norm=choice)
        model = task.model()
        task.loss(model, 0, 0).backward()
        moved = not torch.equal(model.norm1.running_mean, torch.zeros(2))  # type: ignore[union-attr, arg-type]
        assert moved == (choice == "live")
        assert model.norm1.weight.grad is not None  # type: ignore[union-attr]
        before = task.evaluate(model, whole=False)
        task.loss(model, 0, 1)
        assert (task.evaluate(model, whole=False) == before) == (choice == "frozen")


class Sided(nn.Module):
    """Logits of four classes that depend on which half of a picture is brighter, and change sign with its mirror."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = (half.mean((1, 2, 3)) for half in x.chunk(2, dim=-1))
        return (left - right)[:, None] * torch.tensor([1.0, 2.0, -1.0, 0.0])


def test_what_is_measured_and_under_which_name() -> None:
    task = opened()
    model = task.model()
    assert set(task.evaluate(model, whole=False)) == {"val_loss", "val_accuracy"} and task.goal.metric == "val_accuracy"
    whole = task.evaluate(model, whole=True)
    assert set(whole) == {f"{s}_{m}" for s in ("val", "test", "other") for m in ("loss", "accuracy")}
    on_test = opened(holdout=0)
    assert set(on_test.evaluate(model, whole=False)) == {"test_loss", "test_accuracy"}
    assert on_test.goal.metric == "test_accuracy" and on_test.goal.best == "max"
    test = small().tests["test"]()
    logits = model((test.pixels / 255 - 0.3) / 0.2)
    loss = nn.functional.cross_entropy(logits, test.labels)
    accuracy = (logits.argmax(1) == test.labels).double().mean()
    assert whole["test_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert whole["test_accuracy"] == accuracy.item()


def test_mirror_takes_the_mean_over_both_sides() -> None:
    plainly, mirrored = (opened(mirror=mirror).evaluate(Sided(), whole=False) for mirror in (False, True))
    assert mirrored["val_loss"] == pytest.approx(np.log(4), abs=1e-6)  # the two sides cancel
    assert abs(plainly["val_loss"] - np.log(4)) > 1e-5


def test_weights_are_the_workers_shares_and_reach_the_aggregator() -> None:
    task = opened(split={"kind": "dirichlet", "alpha": 0.5, "minimum": 1})
    weights = task.weights()
    assert sum(weights) == 150.0 and len(set(weights)) > 1 and len(weights) == 3
    group = {"match": "*", "method": "muon", "aggregate": "weighted_mean", "lr": 0.1}
    aggregate = weighted(signa.Spec.load({"groups": [group]}), weights).groups[0].method.aggregate
    assert list(aggregate.weights) == weights  # type: ignore[attr-defined]


def test_an_impossible_split_names_its_place() -> None:
    with pytest.raises(SpecError, match=r"train.task.split: 150 images are too few"):
        opened(workers=151)
    with pytest.raises(SpecError, match="crop: 4"):
        ImageClassification(crop=15)


def test_a_run_learns_from_the_command_line(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setitem(READERS, "mnist", small)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # a plot is not under test
    spec = tmp_path / "spec.yaml"
    spec.write_text(SMALL)
    assert command(monkeypatch, "train", str(spec), "--device", "cpu", "--out", str(tmp_path), "--name", "run") == 0
    records = losses(tmp_path / "run")
    first, *_, last = [record for record in records if "val_loss" in record]
    assert last["val_loss"] < 0.5 * first["val_loss"] and last["val_accuracy"] > 0.9
    assert set(last) - set(first) == {f"{s}_{m}" for s in ("test", "other") for m in ("loss", "accuracy")}
    assert last["examples"] == 12 * 2 * 2 * 8  # steps, workers present, draws, batch


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_spec_loads_and_routes_its_model(path: Path) -> None:
    spec = load_experiment(path)
    settings = read_settings(spec.train)
    task = settings.task
    assert isinstance(task, ImageClassification) and list(settings.compare) == ARMS
    assert all(presets.get(name) for name in settings.compare)
    images = torch.zeros(1, 1, 28, 28) if task.data == "mnist" else torch.zeros(1, 3, 32, 32)
    opt = signa.build(spec, task.model.build(images, 10))
    names = {route.named.name: spec.groups[route.group].name for route in opt.routing}
    assert names["head.weight"] == "head" and set(names.values()) == {group.name for group in spec.groups}


#: reference: github intsystems/SignMuon, communication_bits on CNN2: bits a parameter up and down, and the round trip
BITS = {
    "signmuon": (1.08700, 1.08700, 29.43894), "signsgd": (1.08700, 1.08700, 29.43894),
    "muonsign": (1.08700, 1.08700, 29.43894), "ef21muonsign": (1.08712, 1.08712, 29.43554),
    "muonusign": (1.08700, 32.0, 1.93429), "ef21signmuon": (1.08712, 32.0, 1.93429),
    "ef21muonusign": (1.08712, 32.0, 1.93429), "muon_worker": (32.0, 32.0, 1.0), "muon": (32.0, 32.0, 1.0),
    "sgd": (32.0, 32.0, 1.0), "adamw": (32.0, 32.0, 1.0),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
@pytest.mark.parametrize("name", ARMS)
def test_the_published_communication_table(name: str) -> None:
    from signa.lab.compare import with_method

    spec = with_method(load_experiment(ROOT / "examples" / "federated" / "cifar10_cnn2.yaml"), name, 0.1)
    opt = signa.build(spec, Cnn2().build(torch.zeros(1, 3, 32, 32), 10))
    up, down, round_trip = opt.bits()
    assert (up, down) == pytest.approx(BITS[name][:2], abs=5e-6)
    assert round_trip == pytest.approx(BITS[name][2], abs=1e-4)
