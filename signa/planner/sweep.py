"""Plans over a range of workers or of links: a table, CSV and a figure."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from ..lab.plots import COLOURS
from ..lab.refusal import refusal
from .plan import BASE, HALF, Plan
from .predict import Inside, Planner
from .times import Link
from .units import count, in_words, rate
from .verdict import series

__all__ = ["MISSING", "Sweep", "draw", "read_sweep", "run", "table", "write_csv"]

MISSING = "no figure: matplotlib is not installed (pip install 'signa-optim[train]')"
_FIELDS = ("workers", "link_bps", "way", "bits", "sent_bytes", "communication_s", "compute_s", "hidden_s", "step_s")


class Sweep(NamedTuple):
    """What is varied, and its values: numbers of workers, or bits per second."""

    what: Literal["workers", "link"]
    values: list[int]


def read_sweep(text: str) -> Sweep:
    """``workers=2:10000`` or ``link=10Mbps:400Gbps``, whose values are 1, 2, 5, 10, ... between the two.

    Raises:
        SpecError: it is neither.

    >>> read_sweep("workers=2:20")
    Sweep(what='workers', values=[2, 5, 10, 20])
    """
    match = re.fullmatch(r"(workers|link)=([^:]+):([^:]+)", text)
    if not match:
        raise refusal(
            f"'{text}' is no sweep", address="--sweep", instead="write workers=2:10000 or link=10Mbps:400Gbps"
        )
    what, ends = match[1], match.group(2, 3)
    low, high = (count(end, "--sweep") if what == "workers" else rate(end, "--sweep") for end in ends)
    if low >= high or (what == "workers" and low < 2):
        raise refusal(
            f"'{text}' ends before it begins",
            address="--sweep",
            instead="write the smaller one first",
        )
    return Sweep("workers" if what == "workers" else "link", series(low, high))


def run(planner: Planner, sweep: Sweep, workers: int, link: Link, inside: Inside | None = None) -> list[Plan]:
    """A plan for every value; of workers, for those that fill whole nodes, two at least."""
    if sweep.what == "link":
        return [planner.at(workers, replace(link, rate=value), inside) for value in sweep.values]
    local = inside.ranks if inside else 1
    counts = sorted({max(2, round(value / local)) * local for value in sweep.values})
    return [planner.at(value, link, inside) for value in counts]


def table(sweep: Sweep, plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    """A head, and a line for every plan."""
    lines: list[tuple[str, ...]] = [
        (sweep.what, "Group()", "best of ours", "", "DDP fp32", "DDP bf16", "vs fp32", "vs bf16")
    ]
    for plan in plans:
        best = plan.best
        where = f"{plan.workers:,}" if sweep.what == "workers" else in_words(plan.link.rate, "bit/s")
        times = [in_words(row.step, "s") for row in (plan.ours[0], best, plan[BASE], plan[HALF])]
        ratios = [f"{plan.speedup(best.name, name):.2f}x" for name in (BASE, HALF)]
        lines.append((where, times[0], times[1], best.name, times[2], times[3], *ratios))
    return lines


def write_csv(plans: Sequence[Plan], path: Path) -> None:
    """Every row of every plan."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_FIELDS)
        for plan in plans:
            for row in plan.rows:
                numbers = (row.bits, row.sent, row.communication, row.compute, row.hidden, row.step)
                writer.writerow([plan.workers, f"{plan.link.rate:g}", row.name, *(f"{value:.6g}" for value in numbers)])


def draw(sweep: Sweep, plans: Sequence[Plan], stem: Path, title: str) -> bool:
    """Seconds of a step over what is varied, as PNG and SVG; False where matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    ours = [row.name for row in plans[0].ours[:2]]
    with rc_context({"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        xs = [plan.workers if sweep.what == "workers" else plan.link.rate for plan in plans]
        for name, colour in zip((*ours, BASE, HALF), COLOURS):
            steps = [plan[name].step for plan in plans]
            axes.plot(xs, steps, color=colour, linewidth=1.4, marker="o", markersize=3.5, label=name)
        axes.set(xscale="log", yscale="log", xlabel=_LABEL[sweep.what], ylabel="seconds of a step", title=title)
        axes.title.set_fontsize("small")
        axes.grid(visible=True, linewidth=0.4, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    return True


_LABEL = {"workers": "workers", "link": "bits per second of each link"}
