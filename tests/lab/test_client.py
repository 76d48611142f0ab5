"""What a worker does in a step: draws, local steps, and who takes part. The runs are short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from signa.errors import RoutingError
from signa.lab.client import Client, taking_part
from signa.lab.job import weighted
from signa.lab.records import read_metrics
from signa.lab.runner import train
from signa.lab.settings import Settings, read_settings
from signa.lab.tasks import Goal, Task, TaskConfig, seed_of, tasks
from signa.spec import Spec


class Line(TaskConfig):
    """Least squares, y = <a, x>, with a target of its own for every worker."""

    kind: Literal["line"] = "line"

    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        return LineTask(workers, batch, seed)


class LineTask(Task):
    goal = Goal("val_error")

    def __init__(self, workers: int, batch: int, seed: int) -> None:
        self.workers, self.batch, self.seed, self.examples = workers, batch, seed, batch
        self.drawn: list[tuple[int, int]] = []

    def model(self) -> nn.Module:
        return nn.Linear(4, 2, bias=False)

    def loss(self, model: nn.Module, worker: int, draw: int) -> Tensor:
        self.drawn.append((worker, draw))
        generator = torch.Generator().manual_seed(seed_of(self.seed, worker, draw))
        x = torch.randn(self.batch, 4, generator=generator)
        return (model(x) - (worker + 1.0)).square().mean()

    def evaluate(self, model: nn.Module, *, whole: bool) -> Mapping[str, float]:
        weight = next(model.parameters()).detach()
        return {"val_size": float(weight.norm()), "val_error": float((weight - 1).norm())}

    def weights(self) -> Sequence[float]:
        return [1.0 + worker for worker in range(self.workers)]


@pytest.fixture(autouse=True)
def line() -> object:
    tasks.register(Line)
    yield
    tasks.unregister("line")


def client(
    task: Task, model: nn.Module, hold: Callable[[], AbstractContextManager[None]] = nullcontext, **settings: object
) -> Client:
    off = torch.autocast("cpu", dtype=torch.bfloat16, enabled=False)
    return Client(task, model, read_settings(settings), lambda: off, hold)


def gradient(model: nn.Module) -> Tensor:
    (weight,) = model.parameters()
    assert weight.grad is not None
    return weight.grad


def test_a_gradient_is_the_mean_over_the_draws() -> None:
    torch.manual_seed(0)
    task = LineTask(2, 3, 0)
    model = task.model()
    loss = client(task, model, accumulate=3)(1, 2)
    assert task.drawn == [(1, 6), (1, 7), (1, 8)]
    found = gradient(model).clone()
    model.zero_grad()
    losses = [task.loss(model, 1, draw) for draw in (6, 7, 8)]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert torch.allclose(found, gradient(model), atol=1e-6) and torch.allclose(loss, mean.detach())


@pytest.mark.parametrize("local_steps, held", [(1, [True, True, False]), (2, [True] * 6)])
def test_only_the_pass_that_ends_a_gradient_may_be_sent(local_steps: int, held: list[bool]) -> None:
    task, inside, seen = LineTask(2, 3, 0), [], []
    model = task.model()
    (weight,) = model.parameters()
    weight.register_post_accumulate_grad_hook(lambda _: seen.append(bool(inside)))

    @contextmanager
    def hold() -> Iterator[None]:
        inside.append(1)
        yield
        inside.pop()

    client(task, model, hold, accumulate=3, local_steps=local_steps)(0, 0)
    assert seen == held


def test_local_steps_stand_for_the_mean_gradient_along_them() -> None:
    torch.manual_seed(0)
    task = LineTask(2, 3, 0)
    model = task.model()
    (weight,) = model.parameters()
    before = weight.detach().clone()
    client(task, model, local_steps=3, local_lr=0.05, accumulate=2)(0, 1)
    assert torch.equal(weight, before), "the parameters come back as they were"
    assert task.drawn == [(0, draw) for draw in range(6, 12)]
    walked, total = before.clone(), torch.zeros_like(before)
    for k in range(3):
        step = nn.Linear(4, 2, bias=False)
        step.weight.data.copy_(walked)
        torch.stack([task.loss(step, 0, 6 + 2 * k + i) for i in range(2)]).mean().backward()
        total += gradient(step)
        walked -= 0.05 * gradient(step)
    assert torch.allclose(gradient(model), total / 3, atol=1e-5)
    assert not torch.allclose(total / 3, total, atol=1e-3)


def test_local_steps_keep_gradients_that_the_parameters_cannot_hold() -> None:
    task = LineTask(1, 3, 0)
    model = task.model()
    (weight,) = model.parameters()
    with torch.no_grad():
        weight.fill_(1e6)
    client(task, model, local_steps=2, local_lr=1e-12)(0, 0)
    assert bool(gradient(model).ne(0).all()), "1e6 - 1e-6 is 1e6 in float32"


def test_who_takes_part_is_drawn_anew_in_every_step() -> None:
    settings = read_settings({"workers": 20, "sample": 0.25})
    rounds = [taking_part(settings, step) for step in range(40)]
    assert all(len(set(found)) == 5 and found == sorted(found) for found in rounds)
    assert len({tuple(found) for found in rounds}) > 35 and set().union(*rounds) == set(range(20))
    assert rounds == [taking_part(settings, step) for step in range(40)]
    other = read_settings({"workers": 20, "sample": 0.25, "seed": 1})
    assert rounds != [taking_part(other, step) for step in range(40)]
    assert taking_part(read_settings({"workers": 3, "sample": 0.01}), 0) in ([0], [1], [2])


def experiment(**settings: object) -> Spec:
    group = {"match": "*", "method": "signmuon", "lr": 0.05}
    return Spec.load({"groups": [group], "train": {"task": "line", "steps": 12, "eval_every": 3, **settings}})


def test_a_run_reports_what_its_task_measures(tmp_path: Path) -> None:
    result = train(experiment(workers=5, sample=0.6, batch=2, accumulate=2), name="run", out=tmp_path)
    assert result.goal == Goal("val_error") and result.value == result.metrics["val_error"]
    assert set(result.metrics) == {"val_error", "val_size"} and result.summary()["val_size"] > 0
    assert result.examples == 12 * 3 * 2 * 2, "three of five workers, two draws of two examples each"
    found = [r for r in read_metrics(result.folder / "metrics.jsonl") if "val_error" in r]
    assert [(r["step"], r["examples"]) for r in found] == [(3, 36), (6, 72), (9, 108), (12, 144)]
    assert (result.folder / "loss.svg").exists()


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RoutingError):
        train(experiment().replace({"groups.0.match": "nothing.*"}), name="run", out=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_method_with_two_models_is_measured_at_both(tmp_path: Path) -> None:
    spec = experiment(workers=2).replace({"groups.0.method": "ef21muonsign"})
    metrics = train(spec, name="run", out=tmp_path).metrics
    assert set(metrics) == {"val_error", "val_size", "w_val_error", "w_val_size"}
    assert metrics["val_size"] != metrics["w_val_size"]


def test_weights_come_from_the_task_unless_the_spec_has_some() -> None:
    plain = {"worker": "momentum", "aggregate": "weighted_mean"}
    spec = Spec.load({"groups": [{"match": "*", "lr": 0.1, **plain}]})
    own = spec.replace({"groups.0.aggregate.weights": [3.0, 1.0]})
    assert weighted(spec, [1.0, 2.0]).groups[0].method.aggregate.weights == (1.0, 2.0)  # type: ignore[attr-defined]
    assert weighted(own, [1.0, 2.0]) == own and weighted(spec, []) == spec
    assert weighted(experiment(), [1.0, 2.0]) == experiment(), "a vote has no weights"


def test_ranks_of_uneven_rounds_add_the_same_losses() -> None:
    from signa.lab.progress import Losses
    from signa.lab.world import World
    from signa.transport import Loopback

    losses = Losses()
    losses.add([torch.tensor(1.0), torch.tensor(2.0)])
    losses.add([])
    losses.add([torch.tensor(6.0)])
    assert losses.take(World(Loopback(2), torch.device("cpu")))[0] == 3.0


def test_settings_are_bounded() -> None:
    for wrong in ({"sample": 0.0}, {"sample": 1.5}, {"local_steps": 0}, {"accumulate": 0}, {"local_lr": 0.0}):
        with pytest.raises(ValueError):
            read_settings(wrong)
    assert Settings().sample == 1.0
