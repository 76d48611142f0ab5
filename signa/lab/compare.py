"""Several methods on one experiment: one seed, the same batches and dense groups, and a matrix learning rate each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..presets import method
from ..sentence import PARTS
from ..spec import Spec
from . import plots
from .records import RunFolder
from .refusal import refusal
from .runner import Diverged, Reporter, Result, new_folder, resolve, train
from .sinks import SinkConfig
from .tasks import Goal
from .world import together

__all__ = ["compare", "matrix_group", "refuse_changes", "table", "with_method"]


def compare(
    spec: Spec,
    methods: Sequence[str],
    *,
    name: str,
    out: Path,
    plugins: Sequence[Path] = (),
    sinks: Sequence[SinkConfig] = (),
    report: Reporter,
    command: Sequence[str] = (),
) -> tuple[Path, list[Result]]:
    """Train once per method, `NAME` or `NAME=LR`, and write `out/name`: a run folder each, compare.md and the plot.

    A method that diverges is named and left out; the others go on.

    Raises:
        SpecError: a method is unknown, or has no learning rate.
    """
    if not methods:
        raise refusal("--compare names no method", instead="write --compare signmuon,muon")
    spec, settings = resolve(spec)
    named = [_parse(word, settings.compare) for word in methods]
    arms = [(label, with_method(spec, label, lr)) for label, lr in named]
    results = []
    with together(settings, f"{spec.dump()}{named}") as world:
        with new_folder(world, lambda: RunFolder(out, name, metrics=False)) as folder:
            for label, arm in arms:
                try:
                    results.append(
                        train(
                            arm, name=label, out=folder.path, plugins=plugins, sinks=sinks, report=report,
                            command=command,
                        )
                    )  # fmt: skip
                except Diverged as error:
                    report.say(f"{label}: {error}")
            folder.text("compare.md", table(results) + "\n")
        if world.leads:
            metric = results[0].goal.metric if results else "val_loss"
            note = plots.draw({r.name: r.records for r in results}, folder.path / "loss", title=name, metric=metric)
            if note:
                report.say(note)
    return folder.path, results


def matrix_group(spec: Spec) -> int:
    """The number of the group whose method is under comparison: the only one that is not AdamW, or that is `matrices`.

    Raises:
        SpecError: there is none, or there are several.
    """
    adam = method("adamw").replica[0].kind
    found = [i for i, group in enumerate(spec.groups) if all(stage.kind != adam for stage in group.method.replica)]
    named = [i for i in found if spec.groups[i].name == "matrices"]
    found = named if len(named) == 1 else found
    if len(found) != 1:
        raise refusal(
            f"this spec has {len(found)} groups that are not AdamW's",
            address="groups",
            because="--compare exchanges the method of one such group",
            instead="give a spec with one, or name one of them matrices",
        )
    return found[0]


def with_method(spec: Spec, name: str, lr: float) -> Spec:
    """The spec with another preset and learning rate in its matrix group."""
    group = f"groups.{matrix_group(spec)}"
    return spec.replace({f"{group}.method": name, f"{group}.lr": lr})


def refuse_changes(spec: Spec, addresses: Iterable[str]) -> None:
    """Refuse ``--set`` on what every arm replaces, which would have no effect.

    Raises:
        SpecError: naming the address.
    """
    number = matrix_group(spec)
    heads = tuple(f"groups.{label}." for label in (str(number), spec.groups[number].name) if label)
    for address in addresses:
        for head in heads:
            if address.startswith(head) and address[len(head) :].split(".")[0] in (*PARTS, "method", "lr"):
                raise refusal(
                    f"--set {address} has no effect with --compare",
                    because="every arm replaces the method and the learning rate of that group",
                    instead="register a preset in a --plugin, or compare separate runs",
                )


def _parse(word: str, rates: Mapping[str, float]) -> tuple[str, float]:
    name, _, number = (part.strip() for part in word.partition("="))
    method(name)  # an unknown preset is the first thing to say
    if number:
        try:
            return name, float(number)
        except ValueError:
            raise refusal(f"--compare {word}: '{number}' is not a number", instead=f"write {name}=0.02") from None
    if name not in rates:
        raise refusal(
            f"--compare {name}: no learning rate is known for it",
            because=f"train.compare lists {', '.join(rates) or 'nothing'}",
            instead=f"write {name}=0.02, or add it to train.compare",
        )
    return name, rates[name]


def table(results: Sequence[Result]) -> str:
    """The results as a markdown table, the best first.

    >>> print(table([]))
    | method | val loss | bits up | bits down | round trip | s/step |
    | --- | --- | --- | --- | --- | --- |
    """
    goal = results[0].goal if results else Goal("val_loss")
    rows = [("method", goal.metric.replace("_", " "), "bits up", "bits down", "round trip", "s/step"), ("---",) * 6]
    for r in sorted(results, key=lambda r: r.value, reverse=goal.best == "max"):
        bits = f"{r.bits_up:.3f}", f"{r.bits_down:.3f}", f"{r.round_trip:.1f}x"
        rows.append((r.name, f"{r.value:.4f}", *bits, f"{r.seconds_per_step:.3f}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
