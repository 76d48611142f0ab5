"""Benchmarks as people read them: tables for a terminal, and for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..planner.text import columns
from ..planner.units import in_words

__all__ = ["markdown", "table"]

_HEAD = ("what", "median", "quartiles", "floor", "x floor", "ours / it")


def table(data: Mapping[str, Any]) -> str:
    """Every case of what ``signa bench`` writes as JSON, under its own heading."""
    facts = data["environment"]
    where = facts["gpu"] or facts["cpu"]
    text = [f"{data['verb']}: {data['about']}; {where}, {facts['threads']} threads, torch {facts['torch']}"]
    text[0] += f", {facts['kernels']} kernels"
    for case in data["cases"]:
        rates = [f"a copy moves {in_words(case['rates']['copy'], 'B/s')}"]
        products = [value for name, value in case["rates"].items() if name.startswith("gemm")]
        if products:
            ends = [in_words(value, "FLOP/s") for value in sorted({min(products), max(products)})]
            rates.append(f"products {' to '.join(ends)}")
        lines = columns([_HEAD, *map(_cells, case["rows"])])
        notes = ["", *(row["note"] for row in case["rows"])]
        told = [f"{line}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)]
        text += ["", case["about"], "; ".join(rates), *told]
    return "\n".join(text)


def markdown(data: Mapping[str, Any]) -> str:
    """The same for a page: one table of all cases."""
    rows = ["| matrices | " + " | ".join(_HEAD) + " |", "|---|---|" + "--:|" * 5]
    for case in data["cases"]:
        for at, row in enumerate(case["rows"]):
            name, *cells = _cells(row)
            note = f" ({row['note']})" if row["note"] else ""
            rows.append(f"| {'' if at else case['shapes']} | {name}{note} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, ratio = row["seconds"], row["ratio"]
    if seconds is None:
        return row["name"], "", "", "", "", ""
    spread = f"{in_words(seconds['low'], 's')} - {in_words(seconds['high'], 's')}"
    floor = "" if row["floor"] is None else in_words(row["floor"], "s")
    over = "" if row["over_floor"] is None else f"{row['over_floor']:.2f}"
    compared = "" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f})"
    return row["name"], in_words(seconds["median"], "s"), spread, floor, over, compared
