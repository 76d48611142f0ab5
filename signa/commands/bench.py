"""`signa bench`: what a step and its parts take here, beside their floors and beside others' optimizers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .common import BENCHMARKS, one_of, verb, write_file


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "bench step --quick")(bench)


def bench(
    verb: Annotated[
        str,
        typer.Argument(
            metavar="VERB",
            help="step, spectral, pack, vote, exchange or simulate.",
            show_default=False,
            autocompletion=one_of(*BENCHMARKS),
        ),
    ],
    shapes: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="gpt2, 64x64*96, a model or a file as in signa plan; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="For vote, exchange and simulate.", show_default="8, 4, 64")] = 0,
    rounds: Annotated[
        int, typer.Option(min=0, help="In each of them everybody has a turn.", show_default="9, or 2 with --quick")
    ] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Of torch's operations.", show_default="torch's own")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds on tiny matrices, to see that it runs.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
) -> None:
    """Measure whole steps or a part of them, in turns with others in the same process: medians and quartiles.

    A floor is FLOPs at the rate of this machine's products and bytes at the rate of its copies, both measured
    for the same matrices. torch.optim's Muon and AdamW and a textbook loop always take part in step; pytorch-optimizer,
    heavyball, muonium and gram-newton-schulz where they are installed.
    """
    from ..bench import Options, run, table

    options = Options(tuple(shapes or ()), workers, rounds, threads, device, quick)
    data = run(verb, options, ["signa", *sys.argv[1:]])
    if json_file is not None:
        write_file(json_file, json.dumps(data, indent=1) + "\n")
    typer.echo(table(data))
