"""A run in the making: the model, its optimizer, and the loop over the steps."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..building import build
from ..checkpoints import WorldChange, load_checkpoint, save_checkpoint
from ..spec import ParamGroup, Spec
from ..transport.digest import digest
from .client import Client, taking_part
from .diagnostics import Diagnostics
from .ledger import Ledger
from .progress import Progress
from .records import Elsewhere, RunFolder
from .refusal import Diverged
from .report import Reporter, Result
from .settings import Settings
from .sinks import Sinks
from .tasks import seed_of, seeded
from .world import World

__all__ = ["Job", "digests", "model_digest"]


class Job:
    """Everything of one run but its folder, which it is given when nothing of the rest was refused.

    What is said to be collective is called on every rank, or it waits for ever.
    """

    folder: RunFolder | Elsewhere

    def __init__(self, spec: Spec, settings: Settings, world: World, plugins: Sequence[Path]) -> None:
        self.spec, self.settings, self.world, self.plugins = spec, settings, world, tuple(plugins)
        device, steps = world.device, settings.steps
        self.task = settings.task.open(
            workers=settings.workers, batch=settings.batch, seed=settings.seed, device=device
        )
        with seeded(seed_of(settings.seed, "model"), device):
            self.model = self.task.model()
        world.replicate(self.model)
        spec = weighted(spec, self.task.weights())
        self.optimizer = build(spec, self.model, transport=world.transport, seed=settings.seed, plugins=plugins)
        self.schedule = LambdaLR(self.optimizer, lambda step: settings.schedule.factor(step, steps))
        up, down, round_trip = self.optimizer.bits()
        self.bits = {"bits_up": up, "bits_down": down, "round_trip": round_trip}
        entries = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        self.progress = Progress(Ledger(world.traffic, entries * len(world.transport.local)))
        self.records: list[dict[str, Any]] = []
        self.diagnostics = Diagnostics(self.optimizer, every=settings.diagnose_every)
        self.sinks = Sinks()
        self.client = Client(self.task, self.model, settings, self._autocast, self.optimizer.no_sync)

    def resume(self, on_world_change: WorldChange) -> int:
        """Go back to the last checkpoint, and the metrics with it; its step. Collective."""
        found = load_checkpoint(
            self.checkpoints, self.model, self.optimizer, on_world_change=on_world_change, schedule=self.schedule
        )
        self.progress.restore(found["progress"])
        self.diagnostics.load_state_dict(found["progress"]["diagnostics"])
        self.records = self.folder.cut(self.progress.step)
        return self.progress.step

    @property
    def checkpoints(self) -> Path:
        """Where they lie."""
        return self.folder.path / "checkpoints"

    def run(self, report: Reporter, until: int | None = None) -> None:
        """Every step that is left, or those up to ``until``. Collective.

        Raises:
            Diverged: on every rank.
        """
        s, progress = self.settings, self.progress
        self._trail([], head=True)
        while progress.step < (s.steps if until is None else until):
            logs = (progress.step + 1) % s.log_every == 0 or progress.step + 1 == s.steps
            losses = self._step(measure=logs)
            done, metrics, train_loss = progress.step, None, None
            if losses is not None:
                train_loss, each = losses
                self._trail(each)
                self._log(train_loss)
            if found := self.diagnostics.record():
                self._write(step=done, examples=progress.examples, **found)
            if done % s.eval_every == 0 or done == s.steps:
                metrics = self._evaluate()
                self._refuse(self.task.goal.metric, metrics[self.task.goal.metric])
            if s.checkpoint_every and (done % s.checkpoint_every == 0 or done == s.steps):
                self._save()
            report.progress(done, train_loss=train_loss, metrics=metrics)

    def _step(self, *, measure: bool) -> tuple[float, list[float]] | None:
        """Every worker's gradient, and one step; with ``measure`` the mean loss since the last time, and each one's."""
        start, losses = time.perf_counter(), []
        present = set(taking_part(self.settings, self.progress.step))
        with self.progress.ledger.step():  # with overlap, messages leave while gradients are computed
            for worker in self.world.transport.local:
                if worker in present:
                    with self.optimizer.worker(worker):
                        losses.append(self.client(worker, self.progress.step))
            with self.diagnostics:
                self.optimizer.step()
        self.progress.losses.add(losses)
        self.optimizer.zero_grad()
        self.schedule.step()
        self.progress.step += 1
        draws = self.settings.accumulate * self.settings.local_steps
        self.progress.examples += len(present) * draws * self.task.examples
        measured = None
        if measure:  # reading a number waits for the device: not at every step
            measured = self.progress.losses.take(self.world)
        self.progress.seconds += time.perf_counter() - start
        return measured

    def _log(self, train_loss: float) -> None:
        done = self.progress.step
        self._write(
            step=done,
            examples=self.progress.examples,
            seconds=round(self.progress.seconds, 3),
            train_loss=train_loss,
            **self.bits,
            **self.progress.ledger.line(),
        )
        self._refuse("the training loss", train_loss)

    def _trail(self, losses: list[float], *, head: bool = False) -> None:
        """The losses of the steps since the last line, and the model's digests, for whoever replays the run."""
        if self.world.leads:
            found = digests(self.model)
            names = {"names": list(found)} if head else {}
            record = {
                "step": self.progress.step,
                **names,
                "losses": losses,
                "digests": [f"{n % 2**64:016x}" for n in found.values()],
            }
            self.folder.trail(record, head=head)

    def _refuse(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            at = f"{what} is {value} at step {self.progress.step} of {self.settings.steps}"
            raise Diverged(f"{at}: lower the learning rate; {self.folder.path} holds what was measured")

    def _evaluate(self) -> dict[str, float]:
        """The task's metrics at the server's model X; where replicas hold another one, at theirs as well (`w_...`)."""
        done = self.progress.step
        with self.optimizer.exact():
            metrics = self._measured(done)
        if self.optimizer.keeps_exact:
            metrics |= {f"w_{name}": value for name, value in self._measured(done).items()}
        self.progress.metrics = metrics
        self._write(step=done, examples=self.progress.examples, **metrics)
        return metrics

    def _measured(self, done: int) -> dict[str, float]:
        whole = done == self.settings.steps
        with self._autocast():
            return self.world.lead(lambda: dict(self.task.evaluate(self.model, whole=whole)))

    def _save(self) -> None:
        progress = self.progress.export(self.world) | {"diagnostics": self.diagnostics.state_dict()}
        save_checkpoint(self.checkpoints, self.model, self.optimizer, keep=1, schedule=self.schedule, progress=progress)

    def _write(self, **record: float | None) -> None:
        self.folder.metric(record)
        self.sinks.metric(record)
        self.records.append(record)

    def _autocast(self) -> torch.autocast:
        """bfloat16 autocast where the settings ask for it, else a context that does nothing."""
        enabled = self.settings.precision == "bfloat16"
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=enabled)

    def result(self) -> Result:
        """What the run found. Collective."""
        s, progress = self.settings, self.progress
        assert progress.metrics is not None  # the last step evaluates
        with self.optimizer.exact(), self._autocast():
            sample = self.world.lead(lambda: self.task.sample(self.model))
        return Result(
            name=self.folder.path.name,
            folder=self.folder.path,
            spec_id=self.spec.id,
            steps=s.steps,
            workers=s.workers,
            ranks=self.world.size,
            parameters=sum(p.numel() for p in self.model.parameters()),
            examples=progress.examples,
            goal=self.task.goal,
            metrics=progress.metrics,
            **self.bits,
            **progress.ledger.means(),  # type: ignore[arg-type]
            seconds=progress.seconds,
            seconds_per_step=progress.seconds / s.steps,
            model_digest=model_digest(self.model),
            sample=sample,
            records=self.records,
        )


def weighted(spec: Spec, weights: Sequence[float]) -> Spec:
    """The spec with the task's weights in every `weighted_mean` that has none of its own."""
    groups = [f"groups.{index}.aggregate" for index, group in enumerate(spec.groups) if needs_weights(group)]
    return spec.replace({f"{at}.weights": list(weights) for at in groups}) if weights and groups else spec


def needs_weights(group: ParamGroup) -> bool:
    """Whether a group's aggregator takes weights and has none."""
    return getattr(group.method.aggregate, "weights", None) == ()


def digests(model: nn.Module) -> dict[str, int]:
    """64 bits, as a signed number, for everything in the model's state_dict, in the order of the names."""
    return {name: int(digest(value)) for name, value in sorted(model.state_dict().items())}


def model_digest(model: nn.Module) -> str:
    """16 hex digits that stand for the names and bits of everything in the model's state_dict."""
    lines = [f"{name} {number}" for name, number in digests(model).items()]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
