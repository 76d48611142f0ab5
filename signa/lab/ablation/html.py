"""One page that holds the whole report: no script, nothing from elsewhere, light or dark as its reader is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .study import Study, differing
from .tables import Row, Table, compared, search_table, seeds_table
from .vary import shown

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --good: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --card: #151b23; --good: #56d364; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; } ul { margin: 0; padding-left: 1.2rem; }
p.soft, figcaption, .soft { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin: .5rem 0; } table { border-collapse: collapse; font-size: .9rem;
  overflow-wrap: normal; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); }
th { font-weight: 600; white-space: normal; }
table.words th, table.words td { text-align: left; white-space: normal; }
tr.best td { font-weight: 600; } .better { color: var(--good); } .worse, .diverged { color: var(--bad); }
figure { margin: .5rem 0; } figure svg { display: block; width: 100%; min-width: 30rem; height: auto; }
pre, code { font: .85rem/1.45 ui-monospace, monospace; } pre { background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: .7rem; white-space: pre-wrap; } details { margin: .4rem 0; } summary { cursor: pointer; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CAPTIONS = {
    "curves": "The goal while training.",
    "differences": "Paired differences over seeds: strokes are seeds, bars are intervals.",
    "search": "How each arm answers to its learning rate.",
}


def page(study: Study, found: Sequence[Row], figures: Mapping[str, str], notes: Sequence[str]) -> str:
    """The report as HTML."""
    table = compared(study, found)
    searched = search_table(study)
    parts = [
        f"<h1>{escape(study.name)}</h1>",
        f'<p class="soft">{escape(_opening(study))}</p>',
        *(f'<p class="soft">{escape(note)}</p>' for note in notes),
        "<h2>Comparison</h2>",
        _table(table),
        f'<p class="soft">{escape(reading(study))}</p>',
        _details("Every seed", _table(seeds_table(study))),
        *(_figure(name, svg) for name, svg in figures.items() if name != "search"),
        "<h2>What differs</h2>",
        _differences(study),
    ]
    if searched.body:
        parts += ["<h2>Learning rates</h2>", _figure("search", figures["search"]) if "search" in figures else ""]
        parts += [_details("Every rate that was tried", _table(searched))]
    parts += ["<h2>To repeat it</h2>", *_repeat(study)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(study.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body>\n</html>\n"
    )


def _opening(study: Study) -> str:
    left = f"; {study.left} runs or more are not done yet" if study.left else ""
    better = "lower" if study.goal.best == "min" else "higher"
    return (
        f"{len(study.members)} arms, {len(study.seeds)} seeds each; the goal is {study.goal.metric}, {better} is "
        f"better; compared with {study.against}{left}."
    )


def reading(study: Study) -> str:
    """How the table is read."""
    i = study.interval
    name = {"t": "Student's t", "percentile": "percentile bootstrap", "bca": "BCa bootstrap"}[i.kind]
    return " ".join(
        [
            "± is the sample standard deviation over seeds.",
            f"The difference is an arm's goal minus that of {study.against}, seed by seed, with its interval of",
            f"{100 * i.level:g} % ({name}) for one comparison at a time.",
            "Where that holds 0, the two are indistinguishable.",
            f"Steps to reach: when the mean curve first comes to what {study.against} has at",
            f"{100 * study.reach:g} % of its steps, and that over the base arm's own: below 1 is faster.",
        ]
    )


def _table(table: Table, words: bool = False) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    verdict = table.head.index("verdict") if "verdict" in table.head else -1
    lines = []
    for number, row in enumerate(table.body):
        mark = ' class="best"' if number == table.best else ""
        cells = [
            f'<td class="{escape(cell)}">{escape(cell)}</td>'
            if place == verdict and cell
            else f"<td>{escape(cell)}</td>"
            for place, cell in enumerate(row)
        ]
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    kind = ' class="words"' if words else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _figure(name: str, svg: str) -> str:
    return (
        f'<figure id="figure-{name}" aria-label="{_CAPTIONS[name]}"><div class="wide">{svg}</div>'
        f"<figcaption>{_CAPTIONS[name]}</figcaption></figure>"
    )


def _differences(study: Study) -> str:
    """Only the addresses that differ from the base arm's spec; the learning rates that were chosen are in the table."""
    parts = []
    for member in study.members:
        lines = [
            f"<li><code>{escape(address)}</code>: {escape(_value(there))} → {escape(_value(here))}</li>"
            for address, there, here in differing(study.base.spec, member.spec)
        ]
        if member.name != study.against:
            parts.append(f"<h3>{escape(member.name)}</h3><ul>{''.join(lines)}</ul>")
    return "\n".join(parts) or "<p>There is one arm only.</p>"


def _value(value: Any) -> str:
    return (shown(value) or "nothing") if value is not None else "nothing"


def _repeat(study: Study) -> list[str]:
    """The command, the machine, and the base arm's spec."""
    every = [run for member in study.members for run in (*member.runs.values(), *member.tried)]
    commands = dict.fromkeys(shlex.join(run.environment["command"]) for run in every if run.environment.get("command"))
    if not commands:
        commands = dict.fromkeys([f"signa report {shlex.quote(study.path.name)}"])
    facts: dict[str, dict[str, None]] = {}
    for run in every:
        for key, value in run.environment.items():
            if key not in ("command", "resumed") and value is not None:
                facts.setdefault(key, {})[str(value)] = None
    table = Table(("", ""), tuple((key, ", ".join(values)) for key, values in facts.items()))
    return [
        *(f"<pre>{escape(command)}</pre>" for command in commands),
        _details("Environment", _table(table, words=True)) if facts else "",
        _details(
            f"The whole spec of {study.against}",
            f"<pre>{escape(json.dumps(study.base.spec, indent=1, ensure_ascii=False))}</pre>",
        ),
    ]


def _details(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"
