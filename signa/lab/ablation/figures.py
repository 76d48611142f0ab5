"""The figures of a report, by matplotlib where it is installed: curves, differences, and the searches."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plots import COLOURS
from .statistics import mean_curve
from .study import Finding, Member, Study
from .tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MISSING", "draw"]

MISSING = "no figures: matplotlib is not installed (pip install 'signa-optim[train]')"
#: What is black on paper takes the colour of the text around it in a page; no other thing has this colour.
INK = "#1b1f24"
INSIDE, COLUMNS = 8, 3  # so many names fit into a figure; more stand below it
_DASHES = ("-", "--", ":", "-.")


def draw(study: Study, found: Sequence[Row], folder: Path) -> dict[str, str] | None:
    """Write every figure that has something to show as PNG and SVG; each by name as SVG for a page.

    None where matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    styles = {member.name: _style(number) for number, member in enumerate(study.members)}
    members = [row.member for row in found]
    gaps = [row for row in found if row.difference is not None and row.difference.pairs]
    searched = [member for member in members if len({run.rate for run in member.tried}) > 1]
    height = 1.2 + 0.34 * max(1, len(gaps))
    below = 0.21 * math.ceil(len(members) / COLUMNS) if len(members) > INSIDE else 0.0
    plans: list[tuple[str, float, bool, Callable[[Axes], None]]] = [
        (
            "curves",
            4.4 + below,
            any(_curves(study, m) for m in members),
            lambda axes: _draw_curves(axes, study, members, styles),
        ),
        ("differences", height, bool(gaps), lambda axes: _draw_differences(axes, study, gaps, styles)),
        ("search", 4.4 + below, bool(searched), lambda axes: _draw_search(axes, study, searched, styles)),
    ]
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: Any = {"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 10, "text.parse_math": False, **ink}
    pages = {}
    with rc_context(settings):
        for name, tall, wanted, paint in plans:
            if not wanted:
                continue
            figure = Figure(figsize=(7.2, tall), layout="constrained")
            axes = figure.add_subplot()
            paint(axes)
            axes.grid(visible=True, linewidth=0.4, alpha=0.4, color=INK)
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(folder / f"{name}.png", dpi=150)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
            pages[name] = _inline(text.getvalue(), name)
    return pages


def _inline(svg: str, name: str) -> str:
    """An SVG for the middle of a page: without prologue and fixed size, in the page's ink, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(INK, "currentColor").replace("*{", f"#figure-{name} *{{", 1)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def _style(number: int) -> dict[str, str]:
    colours = [*COLOURS[:-1], INK]  # black would vanish on a dark page
    return {"color": colours[number % len(colours)], "linestyle": _DASHES[number // len(colours) % len(_DASHES)]}


def _curves(study: Study, member: Member) -> list[list[tuple[float, float]]]:
    finished = [run for run in member.runs.values() if run.status == "finished"]
    return [curve for run in finished if (curve := run.curve(study.goal.metric))]


def _draw_curves(axes: Axes, study: Study, members: Sequence[Member], styles: dict[str, dict[str, str]]) -> None:
    """The mean over seeds, and a band from the worst to the best of them, at the steps that all of them have."""
    from matplotlib.ticker import MaxNLocator

    seen = []
    for member in members:
        curves = _curves(study, member)
        mean = mean_curve(curves)
        if not mean:
            continue
        steps = [step for step, _ in mean]
        values = [[dict(curve)[step] for curve in curves] for step in steps]
        style = styles[member.name]
        axes.plot(*zip(*mean), **style, linewidth=1.5, marker="o", markersize=3, label=member.name)  # type: ignore[arg-type]
        axes.fill_between(
            steps, [*map(min, values)], [*map(max, values)], color=style["color"], alpha=0.18, linewidth=0
        )
        seen += [value for each in values[len(values) // 8 :] for value in each]  # the first fall hides the differences
    axes.set_ylim(*view(seen))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlabel="step", ylabel=study.goal.metric, title="mean over seeds; band: from the lowest to the highest seed"
    )
    axes.title.set_fontsize("small")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Inside while there is room, else below in columns."""
    if len(lines := axes.get_legend_handles_labels()[1]) <= INSIDE:
        axes.legend(frameon=False, fontsize="small")
    elif lines:
        axes.figure.legend(loc="outside lower center", ncols=COLUMNS, frameon=False, fontsize="x-small")


def view(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: everything but what lies far beyond the middle half, which one bad run would take up.

    >>> view([1.0, 2.0, 3.0, 4.0, 1e6])
    (0.75, 4.25)
    """
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    far = 4 * (high - low) or 0.05 * abs(high) or 1.0
    kept = [value for value in values if low - far <= value <= high + far]
    room = (max(kept) - min(kept)) / 12 or far
    return min(kept) - room, max(kept) + room


def _draw_differences(axes: Axes, study: Study, found: Sequence[Row], styles: dict[str, dict[str, str]]) -> None:
    """Each arm's paired differences: every seed, their mean, and the interval."""
    base = study.base.values
    for place, row in enumerate(reversed(found)):
        d, colour = row.difference, styles[row.member.name]["color"]
        assert d is not None
        gaps = [
            value - base[seed] for seed, value in row.member.values.items() if math.isfinite(base.get(seed, math.nan))
        ]
        axes.plot(gaps, [place] * len(gaps), "|", color=colour, markersize=9, alpha=0.6)
        if math.isfinite(d.low):
            axes.plot([d.low, d.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([d.mean], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(found)), [row.member.name for row in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    side = "left" if study.goal.best == "min" else "right"
    axes.set(xlabel=f"{study.goal.metric} minus that of {study.against} ({side} is better)")


def _draw_search(axes: Axes, study: Study, members: Sequence[Member], styles: dict[str, dict[str, str]]) -> None:
    """The goal over the learning rates tried; a ring marks the chosen one, a cross at the edge one that diverged."""
    lost: list[tuple[float, str]] = []
    finite = []
    for member in members:
        runs = sorted(member.tried, key=_rate)
        done = [run for run in runs if run.status == "finished"]
        style = styles[member.name]
        points = [(_rate(run), run.value) for run in done]
        finite += [run.value for run in done]
        if points:
            axes.plot(*zip(*points), **style, linewidth=1.2, marker="o", markersize=3.5, label=member.name)  # type: ignore[arg-type]
        chosen = [point for point in points if point[0] == member.rate]
        axes.plot(*zip(*chosen), "o", color=style["color"], markersize=9, fillstyle="none") if chosen else None
        lost += [(_rate(run), style["color"]) for run in runs if run.status == "diverged"]
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if finite:
        axes.set_ylim(*view(finite))
    edge = axes.get_ylim()[1 if study.goal.best == "min" else 0]
    for value, colour in lost:
        axes.plot([value], [edge], "x", color=colour, clip_on=False)
    axes.set(xlabel="learning rate", ylabel=study.goal.metric, title="one seed; ring: chosen; cross: diverged")
    axes.title.set_fontsize("small")
    _legend(axes)


def _rate(run: Finding) -> float:
    return run.rate or 0.0
