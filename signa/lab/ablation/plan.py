"""The plan: every arm's whole spec, its place, and what is to be run, settled and validated before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator

from ... import __version__
from ...address import set_address
from ...errors import Problem, SpecError
from ...rule import Frozen, closest, plain
from ...spec import Spec
from ..compare import matrix_group
from ..records import run_named
from ..refusal import refusal
from ..runner import resolve
from .section import Ablation, Interval, Tune
from .vary import AS_GIVEN, MOST_ARMS, Axis, Choice, Sampler, labelled, samplers

__all__ = ["Arm", "Plan", "make_plan", "spec_of", "value_at"]

SEED = "train.seed"
_NAME = re.compile(r"[A-Za-z0-9][^\x00-\x1f\x7f]{0,119}")


class Arm(Frozen):
    """One thing under comparison: what it changes, the resolved spec that comes of it, and where its runs lie.

    ``rates`` are the arm's own values of the addresses that are tuned, none where nothing is; ``choice`` is its place
    in the grid, nothing for an arm that was named.
    """

    name: str
    folder: Annotated[str, AfterValidator(run_named)]
    changes: dict[str, Any]
    spec: dict[str, Any]
    rates: tuple[float, ...]
    choice: Choice


class Plan(Frozen):
    """Everything that the runs are a function of, and how they are compared."""

    signa: str = __version__
    name: str
    arms: tuple[Arm, ...]
    against: str
    seeds: tuple[int, ...]
    sampler: dict[str, Any]
    sizes: tuple[int, ...]
    tune: Tune
    interval: Interval
    reach: float
    keep_checkpoints: bool

    @property
    def key(self) -> str:
        """Twelve hex digits for what the runs depend on; how they are compared may change between calls."""
        told = {name: plain(getattr(self, name)) for name in ("arms", "seeds", "sampler", "sizes", "tune")}
        text = json.dumps(told, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def base(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arm(self.against)

    @property
    def search_seed(self) -> int:
        """The seed with which learning rates are tried."""
        return self.seeds[0] if self.tune.seed == "first" else self.tune.seed

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}

    def counts(self) -> tuple[int, int]:
        """How many runs there are, and how many more if every search widens to its end."""
        tried = compared = len(self.arms)
        if trials := getattr(self.sampler_rule, "trials", 0):
            named = sum(not arm.choice for arm in self.arms)
            tried, compared = trials + 1 + named, 2 + named
        reused = self.tune.points and self.search_seed in self.seeds
        runs = tried * self.tune.points + compared * (len(self.seeds) - bool(reused))
        return runs, tried * self.tune.widen if self.tune.points else 0

    @property
    def sampler_rule(self) -> Sampler:
        """The sampler as a rule."""
        return samplers.parse(self.sampler)


def make_plan(spec: Spec, section: Ablation, *, name: str, axes: Sequence[Axis] = ()) -> Plan:
    """The plan of a base spec and a section, with these axes besides the section's own.

    Raises:
        SpecError: an arm is no valid spec (all that are not, at once), two arms are the same, or a name is unknown.
    """
    base, _ = resolve(spec.replace({SEED: section.seeds[0]}))
    every = labelled([*section.axes, *axes])
    tuned = _tuned(base, section.tune, every)
    changes = [option.changes for axis in every for option in axis.options] + [*section.arms.values()]
    if any(SEED in change for change in changes):
        raise refusal("train.seed is not varied", because="every arm runs with all the seeds", instead="write seeds: 5")
    arms: list[Arm] = []
    problems: list[Problem] = []
    for label, made, choice in _wanted(every, section):
        if not _NAME.fullmatch(label):
            raise refusal(f"'{label}' is no arm's name", instead="begin with a letter or a digit, on one line")
        try:
            resolved, _ = resolve(base.replace(made))
        except SpecError as error:
            problems += [
                replace(p, source=": ".join(filter(None, (f"arm '{label}'", p.source)))) for p in error.problems
            ]
            continue
        data = json.loads(json.dumps(plain(resolved)))
        same = next((arm for arm in arms if arm.spec == data), None)
        if same is not None and choice and AS_GIVEN in same.choice:  # an option may be what the spec says as well
            continue
        if same is not None:
            raise refusal(f"the arms '{same.name}' and '{label}' are the same spec", instead="remove one of them")
        folder = _folder(label, [arm.folder for arm in arms])
        rates = tuple(float(value_at(data, address)) for address in tuned)
        arms.append(Arm(name=label, folder=folder, changes=made, spec=data, rates=rates, choice=choice))
    if problems:
        raise SpecError(problems)
    if not arms:
        raise refusal(
            "there is nothing to compare",
            instead="write --vary ADDRESS=VALUE,VALUE, or the section ablate: with vary: or arms: in the file",
        )
    return Plan(
        name=name,
        arms=tuple(arms),
        against=_against(arms, section.against, json.loads(json.dumps(plain(base)))),
        seeds=section.seeds,
        sampler=plain(section.sampler),
        sizes=tuple(len(axis.options) for axis in every),
        tune=section.tune.model_copy(update={"lr": list(tuned)}),
        interval=section.interval,
        reach=section.reach,
        keep_checkpoints=section.keep_checkpoints,
    )


def _wanted(axes: Sequence[Axis], section: Ablation) -> list[tuple[str, dict[str, Any], Choice]]:
    """Name, changes and choice of every arm that is asked for."""
    found: list[tuple[str, dict[str, Any], Choice]] = []
    if axes:
        choices = section.sampler.choices([len(axis.options) for axis in axes])
        for choice in itertools.islice(choices, MOST_ARMS + 1):
            taken = [axis.options[i] for axis, i in zip(axes, choice) if i != AS_GIVEN]
            changes: dict[str, Any] = {}
            for option in taken:
                if twice := changes.keys() & option.changes.keys():
                    raise refusal(f"two axes change '{min(twice)}'", instead="let one axis change it")
                changes |= option.changes
            found.append((", ".join(option.label for option in taken) or "base", changes, choice))
    found += [(name, dict(changes), ()) for name, changes in section.arms.items()]
    if len(found) > MOST_ARMS:
        raise refusal(f"there are more than {MOST_ARMS} arms", instead="vary less, or draw some: --random 20")
    return found


def _tuned(base: Spec, tune: Tune, axes: Sequence[Axis]) -> tuple[str, ...]:
    """The addresses of the learning rates that are tuned."""
    if not tune.points:
        return ()
    tuned = tune.lr
    if not tuned:
        try:
            tuned = (f"groups.{matrix_group(base)}.lr",)
        except SpecError as error:
            raise refusal(
                f"which learning rate is tuned cannot be told: {error.problems[0].what}",
                address="ablate.tune.lr",
                instead="name it: --tune-lr groups.1.lr, or leave the rates as they are: --tune 0",
            ) from None
    tree = plain(base)
    for address in tuned:
        value = value_at(tree, address)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise refusal(f"'{address}' is {value!r}, and no rate > 0", address="ablate.tune.lr")
    places = {path_of(tree, address) for address in tuned}
    for axis in axes:
        changed = {address for option in axis.options for address in option.changes}
        # One that changes more with it, a method with its own rate, says where the search begins.
        if all(_place(tree, address) in places for address in changed):
            raise refusal(
                f"'{axis.name}' is varied and tuned",
                because="the search of each arm's learning rate would replace it",
                instead="leave it out of --vary, or out of the search: --tune 0",
            )
    return tuple(tuned)


def _place(tree: Mapping[str, Any], address: str) -> tuple[str | int, ...]:
    try:
        return path_of(tree, address)
    except SpecError:  # it leads into what another change brings
        return ()


def _against(arms: Sequence[Arm], name: str, base: Mapping[str, Any]) -> str:
    """The arm that is asked for, else the one that is the spec as it is, else the first."""
    names = [arm.name for arm in arms]
    if name and name not in names:
        raise refusal(f"no arm is called '{name}'", address="ablate.against", instead=closest(name, names))
    return name or next((arm.name for arm in arms if arm.spec == base), names[0])


def _folder(name: str, taken: Sequence[str]) -> str:
    """A folder's name from an arm's, another one for each arm."""
    plain_name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return next(
        f for f in itertools.chain([plain_name], (f"{plain_name}-{n}" for n in itertools.count(2))) if f not in taken
    )


def path_of(tree: Mapping[str, Any], address: str) -> tuple[str | int, ...]:
    """Where an address leads in a tree of mappings and lists, by the rules of ``--set``.

    >>> path_of({"groups": [{"name": "body", "method": {"worker": []}, "lr": 0.1}]}, "groups.body.lr")
    ('groups', 0, 'lr')

    Raises:
        SpecError: nowhere.
    """
    mark = object()
    copy = _copied(tree)
    set_address(copy, address, mark)
    return next(path for path, value in _leaves(copy) if value is mark)


def value_at(tree: Mapping[str, Any], address: str) -> Any:
    """The value at an address, None where nothing stands there."""
    node: Any = tree
    for segment in path_of(tree, address):
        if isinstance(node, Mapping):
            node = node.get(segment)
        else:
            node = node[segment]
    return node


def _copied(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _copied(item) for key, item in node.items()}
    return [_copied(item) for item in node] if isinstance(node, list | tuple) else node


def _leaves(node: Any, path: tuple[str | int, ...] = ()) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
        return
    for key, item in items:
        yield from _leaves(item, (*path, key))


def spec_of(plan: Plan, arm: Arm, rate: float | None, seed: int) -> Spec:
    """The spec of one run: the arm's, with a seed, and with its learning rates scaled so that the first is ``rate``.

    A rate of None leaves the arm's own.
    """
    changes: dict[str, Any] = {SEED: seed}
    if rate is not None:
        first = arm.rates[0]
        changes |= {a: float(f"{rate * own / first:.6g}") for a, own in zip(plan.tune.lr, arm.rates)}
    return Spec.load(arm.spec).replace(changes)
