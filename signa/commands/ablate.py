"""`signa ablate` and `signa report`: arms that differ in a few addresses, and what can be said about them."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import A_SPEC, AsJson, Plugins, assignment, counted, leads, print_json, refuse_paths, stem, verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..lab.ablation import Ablation
    from ..lab.ablation.board import Board
    from ..lab.ablation.plan import Plan
    from ..lab.ablation.report import Written
    from ..lab.ablation.tables import Table

Against = Annotated[str, typer.Option(metavar="ARM", help="The arm that the others are compared with.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    verb(app, "ablate signmuon --vary groups.signmuon.lr=0.01,0.02 --seeds 3")(ablate)
    verb(app, "report runs/NAME-ablation")(report)


def ablate(
    spec: Annotated[
        str, typer.Argument(help="A spec file, with or without a section ablate:, or a preset's name.", **A_SPEC)
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS=V1,V2", help="An axis; 'a=1;b=2 | a=3;b=4' changes several together. Repeatable."
        ),
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="ADDRESS=VALUE", help="Override one entry of every arm.")
    ] = None,
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="The spec as it is, and each single change, in place of the grid.")
    ] = False,
    random: Annotated[int | None, typer.Option(metavar="N", help="N combinations drawn from the grid.")] = None,
    optuna: Annotated[int | None, typer.Option(metavar="N", help="N trials of Optuna in the grid.")] = None,
    seeds: Annotated[str, typer.Option(help="How many, or which: 5, or 0,7,8.", show_default="3")] = "",
    tune: Annotated[
        int | None, typer.Option(metavar="POINTS", help="Learning rates tried for each arm; 0: none.", show_default="3")
    ] = None,
    tune_lr: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A learning rate that is tuned; several go together.")
    ] = None,
    against: Against = "",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Start no run after 2h, 90m, ...; call again to go on.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; several are processes of one thread each.")] = 1,
    out: Annotated[Path, typer.Option(help="The directory of ablation folders.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="The folder's name.", show_default="the spec's name, -ablation")] = "",
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the arms and the number of runs, and stop.")] = False,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Compare arms of one spec: each at its own best learning rate, with the same seeds, and with intervals.

    A call that was stopped, by its budget or by a kill, is made again and goes on where it was.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as for `signa train`
    from ..lab.ablation import execute, load_ablation, make_plan, parse_vary
    from ..lab.ablation.section import seconds_of

    plugins = tuple(plugin or ())
    changes = dict(assignment(text) for text in assign or [])
    refuse_paths(spec)
    base, section = load_ablation(spec, plugins=plugins, changes=changes)
    section = _overridden(section, one_at_a_time, random, optuna, seeds, tune, tune_lr or [], against, budget)
    axes = [parse_vary(text) for text in vary or []]
    plan = make_plan(base, section, name=name or f"{stem(spec)}-ablation", axes=axes)
    say = partial(typer.echo, err=as_json)  # with --json, stdout holds the data alone
    if leads() and not (dry and as_json):
        say(_announced(plan, jobs))
    if dry:
        if leads() and as_json:
            print_json(_planned(plan))
        return
    board = _board(say) if leads() else None
    try:
        left = execute(
            plan, out, jobs=jobs, budget=seconds_of(section.budget), plugins=plugins, board=board,
            command=["signa", *sys.argv[1:]],
        )  # fmt: skip
    except KeyboardInterrupt:
        if leads():
            typer.echo("the same command goes on where it was", err=True)
        raise
    finally:
        if board is not None:
            board.close()
    if not leads():
        return
    if as_json:
        print_json({"folder": str(left.folder), "made": left.made, "left": left.left, **_told(_written(left.folder))})
        return
    _report(left.folder, "")
    if left.left:
        typer.echo(f"the time is over: {left.left} runs or more are left; the same command goes on")


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An ablation's folder, any folder of runs, or a study.json.")
    ],
    against: Against = "",
    as_json: AsJson = False,
) -> None:
    """Write the tables, the figures and the page of a folder of runs again, from the runs alone."""
    _report(folder, against, as_json=as_json)


def _report(folder: Path, against: str, *, as_json: bool = False) -> None:
    written = _written(folder, against)
    if as_json:
        print_json(_told(written))
        return
    _print(written.table)
    for note in written.notes:
        typer.echo(note)
    typer.echo(f"{written.page} is the report; the folder report beside it has the tables and the figures")


def _written(folder: Path, against: str = "") -> Written:
    from ..lab.ablation import read_archive, read_study
    from ..lab.ablation.report import write_report

    return write_report((read_archive if folder.is_file() else read_study)(folder, against=against))


def _told(written: Written) -> dict[str, Any]:
    """A report as data: the cells as they are printed; `study.json` in the folder `report` has every number."""
    rows = [dict(zip(written.table.head, row)) for row in written.table.body]
    return {"page": str(written.page), "rows": rows, "notes": list(written.notes)}


def _planned(plan: Plan) -> dict[str, Any]:
    """A plan as data."""
    runs, more = plan.counts()
    tuned = {"points": plan.tune.points, "lr": list(plan.tune.lr)}
    arms = [{"name": arm.name, "changes": arm.changes, "rates": list(arm.rates)} for arm in plan.arms]
    return {"arms": arms, "against": plan.against, "seeds": list(plan.seeds), "tune": tuned, "runs": runs, "more": more}


def _overridden(
    section: Ablation,
    one_at_a_time: bool,
    random: int | None,
    optuna: int | None,
    seeds: str,
    tune: int | None,
    tune_lr: list[str],
    against: str,
    budget: str,
) -> Ablation:
    """The section with what the command line says instead."""
    from ..reading import changed
    from ..sources import read_value

    samplers: dict[str, Any] = {
        "--one-at-a-time": "one_at_a_time" if one_at_a_time else None,
        "--random": {"kind": "random", "arms": random} if random is not None else None,
        "--optuna": {"kind": "optuna", "trials": optuna} if optuna is not None else None,
    }
    chosen = {word: value for word, value in samplers.items() if value is not None}
    if len(chosen) > 1:
        first, second, *_ = chosen
        raise typer.BadParameter(f"it does not go with {second}: each says which arms there are", param_hint=first)
    given: dict[str, Any] = {
        "sampler": next(iter(chosen.values()), None),
        "seeds": read_value(f"[{seeds}]" if "," in seeds else seeds) if seeds else None,
        "tune.points": tune,
        "tune.lr": tune_lr or None,
        "against": against or None,
        "budget": budget or None,
    }
    return changed(section, {address: value for address, value in given.items() if value is not None})


def _announced(plan: Plan, jobs: int) -> str:
    """The arms and the number of runs."""
    runs, more = plan.counts()
    lines = [f"  {arm.name}{' (base)' if arm.name == plan.against else ''}" for arm in plan.arms[:40]]
    lines += [f"  and {len(plan.arms) - 40} more"] if len(plan.arms) > 40 else []
    widened = f", and up to {more} more where a best rate stands on an edge" if more else ""
    tuned = f"; {counted(plan.tune.points, 'rate')} of {', '.join(plan.tune.lr)} each" if plan.tune.points else ""
    seeds = ", ".join(map(str, plan.seeds))
    at_once = f", {jobs} at a time" if jobs > 1 else ""
    first = f"{counted(len(plan.arms), 'arm')}{tuned}; seeds {seeds}:"
    return "\n".join([first, *lines, f"{counted(runs, 'run')}{widened}{at_once}"])


def _board(say: Callable[[str], None]) -> Board:
    from ..lab.ablation.board import Lines, Live

    try:
        from rich.console import Console
    except ImportError:
        return Lines(say)
    console = Console()
    return Live(console) if console.is_terminal else Lines(say)


def _print(table: Table) -> None:
    """The table by rich on a terminal, arm by arm on one that it does not fit, as markdown elsewhere."""
    try:
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text
    except ImportError:
        typer.echo(table.markdown())
        return
    console = Console()
    if not console.is_terminal:
        typer.echo(table.markdown())
        return
    drawn = Drawn()
    for number, head in enumerate(table.head):
        drawn.add_column(Text(head), justify="right" if number else "left")
    for number, row in enumerate(table.body):
        drawn.add_row(*(Text(cell) for cell in row), style="bold" if number == table.best else "")
    whole = console.measure(drawn, options=console.options.update(max_width=10_000)).maximum
    if whole <= console.width:
        console.print(drawn)
    else:
        typer.echo(_tall(table))


def _tall(table: Table) -> str:
    """A line for each cell that says something, below its arm: rich would cut the numbers to make the columns fit."""
    wide = max(map(len, table.head[1:]))
    lines: list[str] = []
    for row in table.body:
        lines += ["", row[0]]
        lines += [f"  {head:<{wide}}  {cell}" for head, cell in zip(table.head[1:], row[1:]) if cell]
    return "\n".join([*lines[1:], ""])
