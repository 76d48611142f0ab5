"""The section `ablate:` of a file: what is varied, how it is tuned, and how it is compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from ...errors import Fault
from ...plugin import load_plugins
from ...reading import validated
from ...rule import Count, Flag, Fraction, Frozen, Rule, Share, plain
from ...sources import read
from ...spec import Spec, Strings
from ..settings import load_experiment, read_settings
from .optuna_sampler import Optuna
from .vary import Axis, Grid, Sampler, axes_of, samplers

__all__ = [
    "Ablation", "Interval", "Optuna", "Referring", "Tune", "Written", "load_ablation", "seconds_of", "seeds_of",
]  # fmt: skip

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_TIME = re.compile(r" *(?:\d{1,9}(?:\.\d{1,9})?[smhd] *)+")
#: Runs of each arm; the intervals of all published studies of ours come from 3 to 20.
MOST_SEEDS = 1000
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """A time such as ``2h``, ``90m`` or ``1h30m`` in seconds; nothing is no limit.

    >>> seconds_of("1h30m"), seconds_of("45s"), seconds_of("")
    (5400.0, 45.0, inf)

    Raises:
        Fault: the text is no time.
    """
    if not text:
        return float("inf")
    if not _TIME.fullmatch(text):
        raise Fault(f"'{text}' is no time", instead="write 2h, 90m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def seeds_of(value: Any) -> Any:
    """Seeds from how many they are, or one by one.

    >>> seeds_of(3), seeds_of([7, 8])
    ((0, 1, 2), [7, 8])
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = range(min(value, MOST_SEEDS + 1))
    if isinstance(value, list | tuple | range) and len(value) > MOST_SEEDS:
        raise Fault(f"there are more than {MOST_SEEDS} seeds", instead="write fewer: an interval shrinks as their root")
    return tuple(value) if isinstance(value, range) else value


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise Fault("a seed stands twice", because="its run is the same to the last bit", instead="keep one")
    if not seeds:
        raise Fault("there are no seeds", instead="write seeds: 3")
    return seeds


def _time(text: str) -> str:
    seconds_of(text)
    return text


class Tune(Frozen):
    """How the learning rate of each arm is chosen, at the full horizon and by the goal on the validation split.

    Args:
        lr: the addresses that are scaled together, the first of which stands on the lattice; nothing means the rate of
            the only group that is not AdamW's.
        points: rates of the lattice 1, 2, 5 x 10^k around the arm's own; 0 leaves the rate alone.
        widen: how many more at most, one at a time, while the best stands on an edge.
        seed: the seed of the search, the first of the seeds where none is given.
    """

    lr: Strings = ()
    points: int = Field(default=3, strict=True)
    widen: int = Field(default=4, strict=True, ge=0)
    seed: Seed | Literal["first"] = "first"

    @field_validator("points")
    @classmethod
    def _odd(cls, points: int) -> int:
        if points != 0 and (points < 3 or points % 2 == 0):
            because = "an arm's own rate stands in the middle, and an optimum has a neighbour on each side"
            raise Fault(f"{points} points are no search", because=because, instead="write 3, 5 or 7, or 0 for none")
        return points


class Interval(Rule):
    """The confidence interval of a paired difference over seeds.

    ``t`` is Student's; ``percentile`` and ``bca`` are bootstraps of so many draws with a seed of their own, which need
    some twenty seeds to cover what they promise.
    """

    kind: Literal["t", "percentile", "bca"] = "t"
    level: Annotated[Fraction, Field(gt=0)] = 0.95
    draws: Count = 10_000
    seed: Seed = 0


class Ablation(Frozen):
    """Arms, seeds, tuning and comparison.

    Args:
        vary: addresses with their values, or names with options that change several addresses together.
        sampler: which combinations become arms: ``grid``, ``one_at_a_time``, ``{random: {arms: 8}}``, ``optuna``.
        arms: further arms by name, each the changes that it makes.
        against: the arm that the others are compared with; nothing means the one that changes nothing, else the first.
        seeds: how many, or which.
        tune: the search of each arm's learning rate.
        interval: of the differences.
        reach: the part of its horizon at which the base arm sets the level that the others are to reach.
        budget: a time after which no run is started; nothing is no limit.
        keep_checkpoints: of finished runs, which are removed otherwise.
    """

    vary: Annotated[dict[str, Any], AfterValidator(lambda v: (axes_of(v), v)[1])] = Field(default_factory=dict)
    sampler: Annotated[Sampler, samplers] = Grid()
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    against: str = ""
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(seeds_of), AfterValidator(_different)] = (0, 1, 2)
    tune: Tune = Tune()
    interval: Interval = Interval()
    reach: Share = 0.9
    budget: Annotated[str, AfterValidator(_time)] = ""
    keep_checkpoints: Flag = False

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What ``vary`` says."""
        return axes_of(self.vary)


class Written(Spec):
    """A spec with the section beside its groups."""

    ablate: Ablation = Ablation()


class Referring(Frozen):
    """The section with the spec by its path, which counts from this file, and changes of it."""

    spec: str
    set: dict[str, Any] = Field(default_factory=dict)
    ablate: Ablation = Ablation()


def load_ablation(
    source: str | Path, *, plugins: Sequence[Path] = (), changes: Mapping[str, Any] | None = None
) -> tuple[Spec, Ablation]:
    """The base spec and the section of a file, or of a preset's name or a plain spec, with an empty section.

    Raises:
        SpecError: everything that is wrong with either.
    """
    path = Path(source)
    changes = changes or {}
    if not path.suffix:
        return load_experiment(source, plugins=plugins, changes=changes), Ablation()
    load_plugins(plugins)
    data, places, problems = read(path)
    if isinstance(data, Mapping) and "spec" in data:
        found = validated(Referring, data, places, problems)
        base = path.parent / found.spec if Path(found.spec).suffix else found.spec
        return load_experiment(base, plugins=plugins, changes={**found.set, **changes}), found.ablate
    written = cast(Written, Written.load(path, plugins=plugins))
    settings = read_settings(written.train, places)
    spec = Spec.load({k: v for k, v in plain(written, resolved=False).items() if k != "ablate"}, plugins=plugins)
    spec = spec.replace({"train": plain(settings), **changes})
    read_settings(spec.train)
    return spec, written.ablate
