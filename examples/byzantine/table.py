"""The README's tables from results/byzantine.json and results/owner.json: accuracy in per cent, mean and deviation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from signa.lab.ablation import read_archive
from signa.lab.ablation.statistics import summary

FOLDER = Path(__file__).parent
AGGREGATORS = ("majority_vote", "weighted_vote", "mean", "median", "trimmed_mean", "centered_clip")
TWO = (
    "honest", "flip", "flip x10", "random", "constant", "stale", "nan", "mimic", "alie", "inner product", "omniscient",
)  # fmt: skip


def values() -> dict[str, list[float]]:
    """The accuracies of every arm, by its name; NaN where a seed diverged."""
    study = read_archive(FOLDER / "results" / "byzantine.json")
    return {member.name: list(member.values.values()) for member in study.members}


def cell(found: Sequence[float]) -> str:
    """``90.1 ± 0.4``; how many seeds diverged, if any."""
    told = summary(found)
    if told.diverged:
        return (
            "diverged" if not told.count else f"{100 * told.mean:.1f} ± {100 * told.std:.1f}, {told.diverged} diverged"
        )
    return f"{100 * told.mean:.1f} ± {100 * told.std:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As markdown."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def two() -> str:
    """Two liars of nine, by lie and aggregator."""
    found = values()
    rows = [[lie, *(cell(found[f"{aggregator}, {lie}"]) for aggregator in AGGREGATORS)] for lie in TWO]
    return table(["two of nine", *(f"`{name}`" for name in AGGREGATORS)], rows)


def number() -> str:
    """A vote, and a mean, by the number of liars."""
    found, rows = values(), []
    for aggregator in AGGREGATORS[:2]:
        for lie in ("flip", "constant", "omniscient"):
            names = {0: f"{aggregator}, honest", 2: f"{aggregator}, {lie}"}
            arms = [names.get(f, f"{aggregator}, {f} of {lie}") for f in range(6)]
            rows.append([f"`{aggregator}`, {lie}", *(cell(found[arm]) if arm in found else "" for arm in arms)])
    arms = ["mean, honest", "mean, 1 of flip x10", "mean, flip x10"]
    rows.append(["`mean`, flip x10", *(cell(found[arm]) for arm in arms), "", "", ""])
    return table(["liars of nine", *map(str, range(6))], rows)


def owner() -> str:
    """One lying owner of nine, by exchange."""
    found = json.loads((FOLDER / "results" / "owner.json").read_text(encoding="utf-8"))
    heads = list(next(iter(found.values())))
    return table(
        ["exchange", *heads], [[f"`{name}`", *(cell(own[head]) for head in heads)] for name, own in found.items()]
    )


if __name__ == "__main__":
    print(two(), number(), owner(), sep="\n\n")
