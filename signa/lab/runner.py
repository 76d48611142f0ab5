"""The training loop: one spec, one run folder.

A run is a function of its spec, seed, data and worker count: the seed draws the model, every batch, the optimizer's
coins and the sample, and nothing else is random.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..errors import SignaError
from ..optim import build
from ..rule import plain
from ..spec import Spec
from ..transport import Loopback
from . import plots
from .records import RunFolder, environment
from .refusal import refusal
from .settings import Settings, read_settings
from .tasks import seed_of

__all__ = ["Diverged", "Reporter", "Result", "resolve", "train"]


class Diverged(SignaError, ArithmeticError):
    """The training loss is no longer a finite number."""


class Reporter(Protocol):
    """Who is told how a run goes; the command line's reporters draw it."""

    def start(self, name: str, steps: int) -> None:
        """A run of so many steps begins."""

    def progress(self, step: int, *, train_loss: float | None = None, val_loss: float | None = None) -> None:
        """So many steps are done; the losses where they were just measured."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""

    def stop(self) -> None:
        """The run is over, well or not."""


class Silent:
    """A reporter that tells nobody."""

    def start(self, name: str, steps: int) -> None:
        """Nothing."""

    def progress(self, step: int, *, train_loss: float | None = None, val_loss: float | None = None) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Result:
    """What a finished run found.

    `bits_*` are logical bits per parameter, model-wide; `round_trip` is how many times fewer both are than float32's.
    """

    name: str
    folder: Path
    spec_id: str
    steps: int
    workers: int
    parameters: int
    tokens: int
    val_loss: float
    bits_up: float
    bits_down: float
    round_trip: float
    seconds: float
    seconds_per_step: float
    sample: str
    records: list[dict[str, Any]] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """The numbers, as they stand in summary.json."""
        left_out = ("folder", "sample", "records")
        return {k: v for k, v in self.__dict__.items() if k not in left_out}


def resolve(spec: Spec) -> tuple[Spec, Settings]:
    """The spec with every setting of `train:` written out, the device and the precision of this machine included.

    Raises:
        SpecError: a setting is unknown or wrong, or the device is not here.
    """
    settings = read_settings(spec.train)
    device = settings.device if settings.device != "auto" else default_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise refusal(
            f"device '{device}': torch finds no CUDA device", address="train.device", instead="write cpu or auto"
        )
    precision = settings.precision
    if precision == "auto":  # bfloat16 autocast is slower than float32 on CPUs without AMX or avx512_bf16
        precision = "bfloat16" if device.startswith("cuda") else "float32"
    settings = settings.model_copy(update={"device": device, "precision": precision})
    return spec.replace({"train": plain(settings)}), settings


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def train(
    spec: Spec,
    *,
    name: str,
    out: Path,
    plugins: Sequence[Path] = (),
    report: Reporter | None = None,
    command: Sequence[str] = (),
) -> Result:
    """Train once and write `out/name`: the spec, the environment, the metrics, a summary, a sample and the plot.

    Raises:
        SpecError: the spec, a setting or the name is wrong.
        Diverged: the training loss became infinite or NaN; what was measured until then stays in the folder.
    """
    report = report or Silent()
    spec, settings = resolve(spec)
    device = torch.device(settings.device)
    with RunFolder(out, name) as folder:
        folder.text("spec.yaml", spec.dump("yaml"))
        folder.json("environment.json", environment(command, device))
        report.start(name, settings.steps)
        try:
            result = _run(spec, settings, folder, plugins, report)
        finally:
            report.stop()
        folder.json("summary.json", result.summary())
        folder.text("sample.txt", result.sample + "\n")
    note = plots.draw({name: result.records}, result.folder / "loss", title=name)
    if note:
        report.say(note)
    return result


def _run(spec: Spec, settings: Settings, folder: RunFolder, plugins: Sequence[Path], report: Reporter) -> Result:
    device, steps, workers = torch.device(settings.device), settings.steps, settings.workers
    task = settings.task.open(workers=workers, batch=settings.batch, seed=settings.seed, device=device)
    with seeded(seed_of(settings.seed, "model"), device):
        model = task.model()
    optimizer = build(spec, model, transport=Loopback(workers=workers), seed=settings.seed, plugins=plugins)
    schedule = LambdaLR(optimizer, lambda step: settings.schedule.factor(step, steps))

    records: list[dict[str, Any]] = []
    seconds, since, losses = 0.0, 0, torch.zeros((), device=device)

    def write(**record: float) -> None:
        folder.metric(record)
        records.append(record)

    for step in range(steps):
        start = time.perf_counter()
        for j in range(workers):
            with optimizer.worker(j):
                with autocast(settings, device):
                    loss = task.loss(model, j, step)
                loss.backward()
            losses += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        done, since = step + 1, since + 1
        train_loss = val_loss = None
        if done % settings.log_every == 0 or done == steps:  # reading a number waits for the device: not at every step
            train_loss = float(losses) / (since * workers)
            since, losses = 0, torch.zeros_like(losses)
        seconds += time.perf_counter() - start
        if train_loss is not None:
            write(step=done, tokens=done * workers * task.tokens, seconds=round(seconds, 3), train_loss=train_loss)
            if not math.isfinite(train_loss):
                what = f"the training loss is {train_loss} at step {done} of {steps}"
                raise Diverged(f"{what}: lower the learning rate; {folder.path} holds what was measured")
        if done % settings.eval_every == 0 or done == steps:
            with optimizer.exact(), autocast(settings, device):
                val_loss = task.evaluate(model, whole=done == steps)
            write(step=done, val_loss=val_loss)
        report.progress(done, train_loss=train_loss, val_loss=val_loss)

    assert val_loss is not None  # the last step evaluates
    bits = optimizer.bits()
    with optimizer.exact(), autocast(settings, device):
        sample = task.sample(model)
    return Result(
        name=folder.path.name,
        folder=folder.path,
        spec_id=spec.id,
        steps=steps,
        workers=workers,
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=steps * workers * task.tokens,
        val_loss=val_loss,
        bits_up=bits.up,
        bits_down=bits.down,
        round_trip=bits.round_trip,
        seconds=seconds,
        seconds_per_step=seconds / steps,
        sample=sample,
        records=records,
    )


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the block, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where the settings ask for it, else a context that does nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16")
