"""README's tables and the plots, from the committed results alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PUBLISHED = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
Found = dict[str, dict[str, Any]]


def results(folder: Path, study: str) -> Found:
    """What a study found, by method; nothing where it has not been run."""
    path = folder / f"{study}.json"
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))["methods"]  # type: ignore[no-any-return]


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    names = [name.strip() for name in head.split("|")]
    lines = [names, ["---", *["--:"] * (len(names) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def mark(point: dict[str, Any]) -> str:
    """A winner on the grid's edge."""
    return "†" if point["on_edge"] else ""


def grid(found: Found) -> str:
    rows = []
    for name, own in found.items():
        was = PUBLISHED["grid"][name]
        other = own.get("float32")
        rows.append(
            (
                f"`{name}`",
                f"{was['iterations']:.2f}",
                f"{own['iterations']:.2f}",
                f"{100 * (own['iterations'] / was['iterations'] - 1):+.1f} %",
                f"{other['iterations']:.2f}" if other else "",
                f"{was['lr']:.4g}, {was['beta']:g}",
                f"{own['lr']:.4g}, {own['beta']:g}{mark(own)}",
                f"{was['best_f']:.3e}",
                f"{own['best_f']:.3e}",
                f"{was['best_gnorm']:.3e}",
                f"{own['best_gnorm']:.3e}",
            )
        )
    head = (
        "method | expected | measured | difference | float32 | expected lr, beta | measured lr, beta "
        "| expected F | measured F | expected gradient | measured gradient"
    )
    return table(head, rows)


def horizon(found: Found) -> str:
    rows = []
    for name, own in found.items():
        was = PUBLISHED["horizon"][name]
        pairs = [f"{was[key]:.3f} / {own[key]:.3f}" for key in ("p_dual", "p_gnorm", "p_f", "q")]
        edges = "".join("†" for point in own["points"] if point["on_edge"])
        rows.append((f"`{name}`", *pairs, f"{was['r2']:.3f} / {own['r2']:.3f}", edges))
    return table("method | p dual² | p gradient | p F | q | R² | on edge", rows)


def alignment(found: Found) -> str:
    keys = ("mean", "median", "min", "p01", "p95", "negative", "at_start")
    rows = []
    for name, own in found.items():
        rows.append((f"`{name}`", f"{own['lr']:.4g}, {own['beta']:g}{mark(own)}", *(f"{own[key]:.3f}" for key in keys)))
    return table("method | lr, beta | mean | median | least | 1 % | 95 % | share below 0 | at X0", rows)


def stability(found: Found) -> str:
    return table(
        "method | largest stable lr | times L / 2",
        [(f"`{n}`", f"{o['edge']:.4g}{mark(o)}", f"{o['edge'] / o['two_over_L']:.3g}") for n, o in found.items()],
    )


def floor(found: Found) -> str:
    def exponent(own: dict[str, Any], key: str) -> str:
        return f"{own[f'slope_{key}']:.2f}" if f"slope_{key}" in own else ""

    rows = [
        (
            f"`{name}`",
            f"{sum(point['settled'] for point in own['points'])} of {len(own['points'])}",
            exponent(own, "gnorm"),
            exponent(own, "f"),
        )
        for name, own in found.items()
    ]
    return table("method | settled | exponent of the gradient | exponent of F", rows)


def kappa(found: Found) -> str:
    rows = []
    for name, own in found.items():
        best = ", ".join(f"{point['gnorm']:.2g}{mark(point)}" for point in own["points"])
        rows.append((f"`{name}`", best, f"{own['slope']:.2f}" if "slope" in own else ""))
    kappas = ", ".join(f"{point['kappa']:g}" for point in next(iter(found.values()))["points"])
    return table(f"method | best gradient at kappa {kappas} | exponent", rows)


TABLES: dict[str, Callable[[Found], str]] = {
    "grid": grid, "horizon": horizon, "alignment": alignment, "stability": stability, "floor": floor, "kappa": kappa,
}  # fmt: skip


def filled(page: str, folder: Path) -> str:
    """The page with every table between ``<!-- table: NAME -->`` and ``<!-- end -->`` made anew."""

    def put(match: re.Match[str]) -> str:
        found = results(folder, match[1])
        body = TABLES[match[1]](found) if found else "(not run yet)"
        return f"<!-- table: {match[1]} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", put, page, flags=re.DOTALL)


def write(folder: Path, readme: Path) -> None:
    """The tables, and the plots where matplotlib is installed."""
    readme.write_text(filled(readme.read_text(encoding="utf-8"), folder), encoding="utf-8")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'signa-optim[train]')")
        return
    with rc_context({"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 10}):
        for study, draw in (("final", draw_final), ("horizon", draw_horizon)):
            if found := results(folder, study):
                figure = Figure(figsize=(7.0, 4.2), layout="constrained")
                draw(figure.add_subplot(), found)
                figure.savefig(folder / f"{study}.svg", metadata={"Date": None})


# Wong, Nature Methods 8, 441 (2011): told apart by colour-blind readers. Solid, then dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": ("-", "--")[index // len(COLOURS)], "linewidth": 1.3}


def dress(axes: Any, **labels: str) -> None:
    axes.set(xscale="log", yscale="log", **labels)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_final(axes: Any, found: Found) -> None:
    for index, (name, own) in enumerate(found.items()):
        curve = own["curves"]
        axes.plot([t + 1 for t in curve["t"]], curve["f"], label=name, **style(index))
    axes.axhline(1e-3, color="#888888", linewidth=0.8, linestyle=":")
    dress(axes, xlabel="iteration", ylabel="F (geometric mean of 3 instances)", title="The winners of the grid")


def draw_horizon(axes: Any, found: Found) -> None:
    for index, (name, own) in enumerate(found.items()):
        T, best = zip(*((point["T"], point["gnorm"]) for point in own["points"]))
        axes.plot(T, best, marker="o", markersize=3, label=name, **style(index))
    dress(axes, xlabel="T", ylabel="least gradient norm within T", title="Tuned for every number of steps")
