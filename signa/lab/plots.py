"""Loss curves, by matplotlib where it is installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

# Wong, Nature Methods 8, 441 (2011): told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def draw(curves: Curves, stem: Path, *, title: str, metric: str = "val_loss") -> str:
    """Draw each run's metric (dots) and, where that is a loss, training loss (thin) to `stem`.png and .svg.

    Returns:
        An empty string, or one line that says why nothing was drawn.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return "no loss plot: matplotlib is not installed (pip install 'signa-optim[train]')"
    with rc_context({"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        tops, ends, loss = [], [], metric.endswith("loss")
        for (label, records), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
            train, val = _points(records, "train_loss") if loss else ([], []), _points(records, metric)
            axes.plot(*train, color=colour, linewidth=0.8, alpha=0.45)
            last = f" {val[1][-1]:.3f}" if val[1] else ""
            axes.plot(*val, color=colour, linewidth=1.4, marker="o", markersize=3.5, label=f"{label}{last}")
            ends += val[1] + train[1]
            tops += train[1][len(train[1]) // 10 :][
                :1
            ]  # the first tenth is off the chart: its fall hides the differences
        if ends:
            low, high = min(ends), max(tops or ends)
            axes.set_ylim(low - 0.05 * (high - low + 0.1), high + 0.05 * (high - low + 0.1))
        axes.set(xlabel="step", ylabel=metric.replace("_", " "), title=title)
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, title="training loss: thin" if loss else "", title_fontsize="small")
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    return ""


def _points(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(r["step"], r[key]) for r in records if r.get(key) is not None and math.isfinite(r[key])]
    return [step for step, _ in found], [value for _, value in found]
