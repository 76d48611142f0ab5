"""The sinks there are. Each imports its package when it starts."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

import yaml

from .base import Record, Run, Sink, SinkConfig, sinks

__all__ = ["Mlflow", "Tensorboard", "Trackio", "Wandb"]


@sinks.register
class Tensorboard(SinkConfig):
    """Event files in the run folder: ``tensorboard --logdir runs`` shows every run below it.

    After a resume TensorBoard drops the events behind the checkpoint, which are measured again.
    """

    kind: Literal["tensorboard"] = "tensorboard"
    package: ClassVar[str] = "tensorboard"
    install: ClassVar[str] = "tensorboard"

    def start(self, run: Run) -> Sink:
        """A writer of event files."""
        writer = import_module("torch.utils.tensorboard").SummaryWriter(
            str(run.home(self.kind)), **({"purge_step": run.step + 1} if run.step else {})
        )
        writer.add_text("spec", _fenced(run.spec), run.step)

        def metric(record: Record) -> None:
            for name, value in numbers(record).items():
                writer.add_scalar(name, value, record["step"])
            writer.flush()

        def finish(summary: Record | None) -> None:
            if summary is not None:
                writer.add_text("summary", _fenced(summary), summary["steps"])
            writer.close()

        return _Told(metric, finish)


@sinks.register
class Wandb(SinkConfig):
    """Weights & Biases; its files lie in the run folder, and with ``WANDB_MODE=offline`` nothing leaves the machine.

    A resumed run goes on under its id (``wandb sync --append`` sends what was written offline after a resume).
    """

    kind: Literal["wandb"] = "wandb"
    package: ClassVar[str] = "wandb"
    install: ClassVar[str] = "wandb"
    project: str = "signa"

    def start(self, run: Run) -> Sink:
        """A run of wandb's. Steps are a value, so records may come twice: wandb's own counter only rises."""
        there = import_module("wandb").init(
            project=self.project,
            name=run.name,
            id=run.known_as,
            resume="allow",
            dir=str(run.home(self.kind)),
            config=run.spec,
            settings={"console": "off"},
        )
        there.define_metric("*", step_metric="step")

        def finish(summary: Record | None) -> None:
            there.summary.update(dict(summary or {}))
            there.finish(exit_code=1 if summary is None else 0)

        return _Told(lambda record: there.log({**numbers(record), "step": record["step"]}), finish)


@sinks.register
class Mlflow(SinkConfig):
    """MLflow: a database in the run folder, or the server or store that ``uri`` names.

    ``mlflow ui --backend-store-uri sqlite:///runs/NAME/sinks/mlflow/mlflow.db`` shows the one in the folder. The spec
    becomes parameters by address, the summary's numbers metrics below ``summary/``.
    """

    kind: Literal["mlflow"] = "mlflow"
    package: ClassVar[str] = "mlflow"
    install: ClassVar[str] = "mlflow"
    experiment: str = "signa"
    uri: str = "folder"

    def start(self, run: Run) -> Sink:
        """A run of MLflow's, found again by its tag."""
        mlflow, entities = import_module("mlflow"), import_module("mlflow.entities")
        home = run.home(self.kind).resolve()
        client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}" if self.uri == "folder" else self.uri)
        there = client.get_experiment_by_name(self.experiment)
        place = (home / "artifacts").as_uri() if self.uri == "folder" else None
        experiment = there.experiment_id if there else client.create_experiment(self.experiment, place)
        found = client.search_runs([experiment], f"tags.signa = '{run.known_as}'") if run.step else []
        if found:
            ident = found[0].info.run_id
            client.update_run(ident, status="RUNNING")
        else:
            ident = client.create_run(experiment, tags={"signa": run.known_as}, run_name=run.name).info.run_id
            for key, value in flat(run.spec):
                client.log_param(ident, _mlflow_name(key), str(value)[:6000])

        def tell(values: Mapping[str, float], step: int) -> None:
            now = time.time_ns() // 1_000_000
            client.log_batch(ident, [entities.Metric(_mlflow_name(k), v, now, step) for k, v in values.items()])

        def finish(summary: Record | None) -> None:
            if summary is not None:
                tell({f"summary/{name}": value for name, value in numbers(summary).items()}, summary["steps"])
            client.set_terminated(ident, "FAILED" if summary is None else "FINISHED")

        return _Told(lambda record: tell(numbers(record), record["step"]), finish)


@sinks.register
class Trackio(SinkConfig):
    """Trackio: a database of its own (``TRACKIO_DIR``) that ``trackio show`` draws; nothing leaves the machine."""

    kind: Literal["trackio"] = "trackio"
    package: ClassVar[str] = "trackio"
    install: ClassVar[str] = "trackio"
    project: str = "signa"

    def start(self, run: Run) -> Sink:
        """A run of trackio's, which it finds by its name: so that carries what makes it the only one."""
        there = import_module("trackio").init(
            project=self.project,
            name=f"{run.name}-{run.known_as}",
            config=run.spec,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

        def finish(summary: Record | None) -> None:
            if summary is not None:
                values = {f"summary/{name}": value for name, value in numbers(summary).items()}
                there.log(values, step=summary["steps"])
            there.finish()

        return _Told(lambda record: there.log(numbers(record), step=record["step"]), finish)


class _Told:
    """A sink of two functions."""

    def __init__(self, metric: Callable[[Record], object], finish: Callable[[Record | None], object]) -> None:
        self._metric, self._finish = metric, finish

    def metric(self, record: Record) -> None:
        self._metric(record)

    def finish(self, summary: Record | None) -> None:
        self._finish(summary)


def numbers(record: Record) -> dict[str, float]:
    """The finite numbers of a record but its step; metrics.jsonl has the others as null.

    >>> numbers({"step": 3, "loss": 2.5, "gap": float("nan"), "why": "no", "left": None})
    {'loss': 2.5}
    """
    return {
        name: float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def flat(value: Any, address: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of plain data with their addresses.

    >>> list(flat({"groups": [{"lr": 0.1}], "seed": 0}))
    [('groups.0.lr', 0.1), ('seed', 0)]
    """
    if isinstance(value, Mapping | list) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from flat(item, f"{address}.{key}" if address else str(key))
    else:
        yield address, value


def _mlflow_name(name: str) -> str:
    """MLflow's names are letters, digits and ``_ - . / :``."""
    return re.sub(r"[^\w\-./:]", "_", name)


def _fenced(value: Record) -> str:
    """Plain data as a block of YAML within Markdown."""
    return f"```yaml\n{yaml.safe_dump(dict(value), sort_keys=False)}```"
