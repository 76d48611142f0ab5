"""Training runs of a second, by the real command line, and what they found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from signa import cli
from signa.lab.records import read_metrics

TASK = "train.task={kind: shakespeare, layers: 1, heads: 2, width: 32, context: 16}"
TINY = [TASK, "train.batch=4", "train.eval_every=4", "train.log_every=2"]
CLOCK = ("seconds", "seconds_per_step", "interface_sent", "interface_received")


def words(out: Path, *more: str) -> list[str]:
    """`train` at the smallest size."""
    return ["train", "--device", "cpu", "--out", str(out), *(part for item in TINY for part in ("--set", item)), *more]


def signa(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["signa", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tiny(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> int:
    """Run `train` at the smallest size; its exit status."""
    return signa(monkeypatch, *words(out, *more))


def losses(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the clock and the machine's network."""
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in read_metrics(folder / "metrics.jsonl")]


def found(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The metrics and the summary, without the clock, the machine's network and the run's name."""
    summary = json.loads((folder / "summary.json").read_text())
    return losses(folder), {k: v for k, v in summary.items() if k not in (*CLOCK, "name")}
