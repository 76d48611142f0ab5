"""Everything that `signa report` writes, from a folder of runs alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .archive import archived
from .book import write
from .figures import MISSING, draw
from .html import page, reading
from .study import Study
from .tables import Table, compared, numbers_csv, rows, runs_csv, search_table, seeds_table

__all__ = ["Written", "write_report"]


@dataclass(frozen=True)
class Written:
    """The page, the table for the terminal, and what is worth a line."""

    page: Path
    table: Table
    notes: tuple[str, ...]


def write_report(study: Study) -> Written:
    """Write `report.html` and, in `report/`, the tables as .md, .csv and .tex, every run, the figures, and study.json,
    from which all of it can be written again."""
    folder = study.path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(study)
    table, searched = compared(study, found), search_table(study)
    figures = draw(study, found, folder)
    notes = _notes(study) + ([MISSING] if figures is None else [])
    text = [f"# {study.name}", "", table.markdown(), "", reading(study), *(f"\n{note}" for note in notes)]
    text += ["", f"## {study.goal.metric} of every seed", "", seeds_table(study).markdown()]
    text += ["", "## Learning rates tried", "", searched.markdown()] if searched.body else []
    write(folder / "table.md", "\n".join(text) + "\n")
    write(folder / "table.csv", numbers_csv(study, found))
    write(folder / "table.tex", table.latex() + "\n")
    write(folder / "runs.csv", runs_csv(study))
    write(folder / "study.json", archived(study))
    write(study.path / "report.html", page(study, found, figures or {}, notes))
    return Written(study.path / "report.html", table, tuple(notes))


def _notes(study: Study) -> list[str]:
    """What a reader should know before believing the table."""
    notes = []
    environments = [run.environment for run in study.findings]
    for what in ("threads", "device", "torch", "commit"):
        seen = dict.fromkeys(str(e[what]) for e in environments if e.get(what) is not None)
        if len(seen) > 1:
            notes.append(f"The runs differ in {what} ({', '.join(seen)}): equal specs need not give equal bits.")
    if 1 < len(study.seeds) < 5 and study.interval.kind != "t":
        notes.append(f"A bootstrap of {len(study.seeds)} seeds is too narrow: the interval t is the honest one.")
    if len(study.seeds) == 1:
        notes.append("One seed tells nothing about the spread: no arm can be told from another.")
    return notes
