"""Several methods on one experiment: the same seeds, batches and dense groups, each with its own matrix learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import signa

from . import plots
from .records import RunFolder
from .refusal import refusal
from .runner import Diverged, Reporter, Result, train
from .settings import read_settings

__all__ = ["compare", "matrix_group", "table", "with_method"]


def compare(
    spec: signa.Spec,
    methods: Sequence[str],
    *,
    name: str,
    out: Path,
    plugins: Sequence[Path] = (),
    report: Reporter,
    command: Sequence[str] = (),
) -> tuple[Path, list[Result]]:
    """Train once per method, `NAME` or `NAME=LR`, and write `out/name`: a run folder for each, compare.md, loss.png and loss.svg.

    A method that diverges is named and left out; the others go on.

    Raises:
        SpecError: a method is unknown, or has no learning rate.
    """
    rates = read_settings(spec.train).compare
    arms = [
        (label, with_method(spec, label, lr, plugins)) for label, lr in map(lambda word: _parse(word, rates), methods)
    ]
    results = []
    with RunFolder(out, name, metrics=False) as folder:
        for label, arm in arms:
            try:
                results.append(train(arm, name=label, out=folder.path, plugins=plugins, report=report, command=command))
            except Diverged as error:
                report.say(f"{label}: {error}")
        folder.text("compare.md", table(results) + "\n")
    note = plots.draw({r.name: r.records for r in results}, folder.path / "loss", title=name)
    if note:
        report.say(note)
    return folder.path, results


def matrix_group(spec: signa.Spec) -> int:
    """The number of the group whose method is under comparison: the only one that is not `adamw`.

    Raises:
        SpecError: there is none, or there are several.
    """
    found = [i for i, group in enumerate(spec.groups) if group.method.name != "adamw"]
    if len(found) != 1:
        raise refusal(
            f"--compare exchanges the method of one group, and {len(found)} groups of this spec have a method other than adamw",
            address="groups",
            instead="give a spec with one such group",
        )
    return found[0]


def with_method(spec: signa.Spec, method: str, lr: float, plugins: Sequence[Path] = ()) -> signa.Spec:
    """The spec with another preset and learning rate in its matrix group."""
    group = f"groups.{matrix_group(spec)}"
    return signa.Spec.load(spec, plugins=plugins, set={f"{group}.method": method, f"{group}.lr": lr})


def _parse(word: str, rates: Mapping[str, float]) -> tuple[str, float]:
    method, _, number = (part.strip() for part in word.partition("="))
    if number:
        try:
            return method, float(number)
        except ValueError:
            raise refusal(f"--compare {word}: '{number}' is not a number", instead=f"write {method}=0.02") from None
    if method not in rates:
        raise refusal(
            f"--compare {method}: no learning rate is known for it",
            because=f"train.compare lists {', '.join(rates) or 'nothing'}",
            instead=f"write {method}=0.02, or add it to train.compare",
        )
    return method, rates[method]


def table(results: Sequence[Result]) -> str:
    """The results as a markdown table, the best validation loss first.

    >>> print(table([]))
    | method | val loss | bits up | bits down | round trip | s/step |
    | --- | --- | --- | --- | --- | --- |
    """
    rows = [
        "| method | val loss | bits up | bits down | round trip | s/step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in sorted(results, key=lambda r: r.val_loss):
        rows.append(
            f"| {r.name} | {r.val_loss:.4f} | {r.bits_up:.3f} | {r.bits_down:.3f} | {r.round_trip:.1f}x | {r.seconds_per_step:.3f} |"
        )
    return "\n".join(rows)
