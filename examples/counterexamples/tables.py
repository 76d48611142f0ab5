"""From results/*.json to the README's tables and to the figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

#: Published values, github intsystems/SignMuon: <G, d> of the first step (mean of 60 for error feedback).
LINEAR = {
    "theorem 1": {
        "muon": 1004.0, "signsgd": 3527.320, "signmuon": -412.31068, "muonusign": 881.830, "muonsign": 3527.320,
        "ef21signmuon": 970.241, "ef21muonusign": 1000.530, "ef21muonsign": 1000.530,
    },
    "theorem 2": {
        "muon": 108.0, "signsgd": 124.0, "signmuon": 118.0, "muonusign": -13.887921, "muonsign": -76.0,
        "ef21signmuon": 100.410, "ef21muonusign": 103.439, "ef21muonsign": 103.439,
    },
}  # fmt: skip
ORACLES = {
    "exact": (-412.311, -36.583, None, -0.2425, -13.89, -110.90, -76, -476),
    "NS5 f32": (3470.951, -36.583, None, -0.0503, 5.86, -14.27, -76, -476),
    "NS5 bf16": (3470.951, -36.583, None, -0.0562, 5.04, -17.42, -76, -476),
    "NS6 f32": (-412.311, -36.583, None, -0.3863, -30.99, -185.53, -76, -476),
    "NS8 f32": (3470.951, -36.583, None, -0.4330, -35.28, -208.48, -76, -476),
    "NS10 f32": (3470.951, -36.583, None, -0.3853, -30.94, -185.05, -76, -476),
    "NS20 f32": (-412.311, -36.583, None, -0.4239, -34.18, -203.75, -76, -476),
}
MINIMALITY = {
    **{("sign", 2, n): (0, 0.0) for n in range(2, 13)},
    **{("sign", 3, n): (0, 0.0) for n in range(3, 10)},
    ("sign", 4, 4): (0, 0.0),
    ("sign", 4, 5): (720, -0.031334),
    ("sign", 4, 6): (3600, -0.064147),
    ("sign", 5, 5): (20400, -0.242536),
    **{("ternary", 2, n): (0, 0.0) for n in range(2, 6)},
    ("ternary", 3, 3): (0, 0.0),
    ("ternary", 3, 4): (4608, -0.060714),
    ("ternary", 3, 5): (111360, -0.120437),
    ("ternary", 4, 4): (2777088, -0.277350),
}
#: f of the sixtieth point at mu = 0.
UNIVERSAL = {
    "muon": -0.331, "signsgd": -0.308, "signmuon": -0.308, "muonusign": -0.673, "muonsign": -0.308,
    "ef21signmuon": 5.986, "ef21muonusign": -0.453, "ef21muonsign": -0.822,
}  # fmt: skip
COLOURS = ("#000000", "#999999", "#D55E00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#E69F00")  # Wong 2011


def rounded(value: Any) -> Any:
    """Floats to ten digits: the last ones belong to the machine."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def short(text: str) -> str:
    """JSON with every list of plain values in one line."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)


def linear(found: dict[str, Any]) -> str:
    """First steps, and means for error feedback, beside the published ones."""
    rows = ["| method | Theorem 1, σ = 1000 | published | Theorem 2, M = 100 | published |", "|---|--:|--:|--:|--:|"]
    for name in LINEAR["theorem 1"]:
        cells = []
        for label, published in LINEAR.items():
            run = found[label]["runs"][name]
            value = run["mean" if name.startswith("ef21") else "first"]
            cells += [f"**{value:.3f}**" if value < 0 else f"{value:.3f}", f"{published[name]:.3f}"]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def oracles(found: dict[str, Any]) -> str:
    """One column per oracle, published values in brackets where they differ."""
    table = found["table"]
    rows = [f"| | {' | '.join(table)} |", f"|---|{'--:|' * len(table)}"]
    for index, label in enumerate(table["exact"]):
        cells = []
        for name, column in table.items():
            value = column[label]
            digits = 4 if abs(value) < 1 else 2
            text = f"**{value:.{digits}f}**" if value < 0 else f"{value:.{digits}f}"
            published = ORACLES.get(name, ())[index : index + 1]
            known = published[0] if published else None
            differs = known is not None and abs(known - value) > (6e-5 if digits == 4 else 6e-3)
            cells.append(f"{text} ({known:g})" if differs else text)
        rows.append(f"| {label.replace('sigma', 'σ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def ascents(found: dict[str, Any]) -> str:
    """Which oracles ascend on which instance."""
    every = list(found["table"])
    rows = ["| instance | ascends under | descends under |", "|---|---|---|"]
    for label, up in found["ascends"].items():
        down = [name for name in every if name not in up]
        cells = ["all" if len(names) == len(every) else ", ".join(names) for names in (up, down)]
        rows.append(f"| {label.replace('sigma', 'σ')} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def minimality(found: dict[str, Any]) -> str:
    """One row per shape, neighbours without any taken together."""
    rows = ["| entries | shape | patterns | disagree | deepest | published |", "|---|---|--:|--:|--:|--:|"]
    runs: list[list[dict[str, Any]]] = []
    for one in found["rows"]:
        key = [one["alphabet"], one["shape"][0], one["found"] == 0]
        if (
            runs
            and one["found"] == 0
            and key == [runs[-1][-1]["alphabet"], runs[-1][-1]["shape"][0], runs[-1][-1]["found"] == 0]
        ):
            runs[-1].append(one)
        else:
            runs.append([one])
    for run in runs:
        first, last = run[0], run[-1]
        (m, n), most = (
            last["shape"],
            max((s for a, k, s in MINIMALITY if (a, k) == (last["alphabet"], last["shape"][0]))),
        )
        shape = f"{m}×{n}" if len(run) == 1 else f"{m}×{first['shape'][1]} to {m}×{n}"
        published = MINIMALITY.get((last["alphabet"], m, n))
        text = f"{published[0]:,} / {published[1]:.6f}" if published and published[0] else "0" if published else ""
        text = text or (f"0 to {m}×{most}" if len(run) > 1 else "")
        deepest = f"{last['deepest']:.6f}" if last["found"] else ""
        entries = "±1" if last["alphabet"] == "sign" else "0, ±1"
        patterns = sum(one["patterns"] for one in run)
        rows.append(f"| {entries} | {shape} | {patterns:,} | {last['found']:,} | {deepest} | {text} |")
    return "\n".join(rows)


def rates(found: dict[str, Any]) -> str:
    """EF21-SignMuon on its instance, for every momentum."""
    witness = "⟨∇f(X₆) − ∇f(X₃), X₆ − X₃⟩ | −9A/50"  # negative: f is not convex
    rows = [f"| μ | variant | A | rate per step | published | {witness} | off the exact points |"]
    rows += ["|--:|---|--:|--:|--:|--:|--:|--:|"]
    for one in found["rates"]:
        rows.append(
            f"| {one['mu']:g} | {one['variant']} | {one['A']:.4g} | {one['rate']:.8f} | {49 / 480:.8f} "
            f"| {one['nonconvex']:.6g} | {-9 * one['A'] / 50:.6g} | {'< 1e-9' if one['off'] < 1e-9 else one['off']} |"
        )
    return "\n".join(rows)


def verdicts(found: dict[str, Any]) -> str:
    """f of the sixtieth point; what climbs is bold."""
    cases = list(dict.fromkeys((one["mu"], one["variant"]) for one in found["verdicts"]))
    head = " | ".join(f"μ = {mu:g}, {variant}" for mu, variant in cases)
    rows = [f"| method | published, μ = 0 | {head} |", f"|---|--:|{'--:|' * len(cases)}"]
    for name, published in UNIVERSAL.items():
        mine = {(one["mu"], one["variant"]): one for one in found["verdicts"] if one["method"] == name}
        ends = [(mine[case]["f"][59], mine[case]["climbs"]) for case in cases]  # 60 points: f(X_0) to f(X_59)
        cells = [f"**{end:.3f}, climbs**" if climbs else f"{end:.3f}" for end, climbs in ends]
        rows.append(f"| `{name}` | {published:.3f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def certificates(found: dict[str, Any]) -> str:
    """What the search came to."""
    rows = ["| method | shape | tried | least margin | ⟨G, d⟩ | G |", "|---|---|--:|--:|--:|---|"]
    for one in found["found"]:
        shape = "×".join(map(str, one["shape"]))
        margin = f"**{one['margin']:.4f}**" if one["ascends"] else f"{one['margin']:.2g}"
        descent = f"{one['descent']:.6g}" if one["ascends"] else ""
        G = "; ".join(" ".join(f"{x:g}" for x in row) for row in one["matrix"]) if one["ascends"] else "none found"
        rows.append(f"| `{one['preset']}` | {shape} | {one['tried']:,} | {margin} | {descent} | {G} |")
    return "\n".join(rows)


#: Table -> the file that it is made from.
TABLES = {
    linear: "linear", oracles: "oracles", ascents: "oracles", minimality: "minimality",
    rates: "universal", verdicts: "universal", certificates: "certificates",
}  # fmt: skip


def rewrite(page: Path, results: Path) -> None:
    """Every table of the page whose results are there."""
    text = page.read_text(encoding="utf-8")
    for table, source in TABLES.items():
        path = results / f"{source}.json"
        if path.exists():
            fresh = (
                f"<!-- table: {table.__name__} -->\n{table(json.loads(path.read_text(encoding='utf-8')))}\n<!-- end -->"
            )
            text = re.sub(
                rf"<!-- table: {table.__name__} -->.*?<!-- end -->", lambda _, fresh=fresh: fresh, text, flags=re.DOTALL
            )
    page.write_text(text, encoding="utf-8")


def draw(results: Path) -> str:
    """The figures, as SVG; an empty string, or one line that says why there are none."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return "no figures: matplotlib is not installed (pip install 'signa-optim[train]')"
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")}
    with rc_context({"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 9}):
        for name, panels in (("linear", _linear), ("universal", _universal), ("oracles", _oracles)):
            if name in found:
                figure = Figure(figsize=(9.0, 3.6), layout="constrained")
                panels(figure, found[name])
                for axes in figure.axes:
                    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
                    axes.spines[["top", "right"]].set_visible(False)
                figure.savefig(results / f"{name}.svg", metadata={"Date": None})
    return ""


def _linear(figure: Any, found: dict[str, Any]) -> None:
    for axes, label in zip(figure.subplots(1, 2), LINEAR):
        for (name, run), colour in zip(found[label]["runs"].items(), COLOURS):
            axes.plot(run["f"], color=colour, linewidth=1.4, label=name)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlabel="step", ylabel="f(W) = <G, W>", title=f"{label.capitalize()}: above 0 is uphill")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside right upper")


def _universal(figure: Any, found: dict[str, Any]) -> None:
    for axes, mu in zip(figure.subplots(1, 3, sharey=True), (0.0, 0.5, 0.9)):
        runs = [one for one in found["verdicts"] if one["mu"] == mu and one["variant"] == "standard"]
        for one, colour in zip(runs, COLOURS):
            axes.plot(one["f"], color=colour, linewidth=1.2, label=one["method"])
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlabel="step", title=f"μ = {mu:g}")
    figure.axes[0].set_ylabel("f of Theorem 4")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside right upper")


def _oracles(figure: Any, found: dict[str, Any]) -> None:
    axes, names = figure.subplots(), list(found["signmuon"])[::-1]
    for uphill, colour in ((False, "#BBBBBB"), (True, "#D55E00")):
        points = [
            (sigma, row)
            for row, name in enumerate(names)
            for sigma, value in zip(found["sigmas"], found["signmuon"][name])
            if (value < 0) == uphill
        ]
        axes.plot(*zip(*points), "|", color=colour, markersize=14, label="ascends" if uphill else "descends")
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="σ of Theorem 1", title="SignMuon's first step, by how its polar factor is computed")
    figure.legend(frameon=False, loc="outside right upper")
