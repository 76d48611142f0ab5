"""What an ablation is going to run: axes, samplers, arms, and everything that is refused before a run begins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from signa.errors import Fault, SpecError
from signa.lab.ablation import Ablation, Plan, load_ablation, make_plan, parse_vary
from signa.lab.ablation.optuna_sampler import Optuna
from signa.lab.ablation.plan import spec_of, value_at
from signa.lab.ablation.section import seconds_of
from signa.lab.ablation.vary import Random
from signa.lab.tasks import Goal
from signa.rule import plain
from tests.lab.ablations import LR, SCHEDULE, SHIPPED, base, plan


def options(text: str) -> list[dict[str, Any]]:
    return [dict(option.changes) for option in parse_vary(text).options]


def refused(call: Any, *args: Any, **words: Any) -> str:
    with pytest.raises(SpecError) as caught:
        call(*args, **words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=polar6,jordan5, exact", [{"a": "polar6"}, {"a": "jordan5"}, {"a": "exact"}]),
        ("a=1e-3,2,true,[1, 2]", [{"a": 0.001}, {"a": 2}, {"a": True}, {"a": [1, 2]}]),
        ("a={kind: wsd, cooldown: 0.2},constant", [{"a": {"kind": "wsd", "cooldown": 0.2}}, {"a": "constant"}]),
        ("up=ef21(scaled_sign),ef14(top_k)", [{"up": "ef21(scaled_sign)"}, {"up": "ef14(top_k)"}]),
        ("a='x,y',\"z|w;\"", [{"a": "x,y"}, {"a": "z|w;"}]),
        ("a=[[x, y], {b: 'p,]'}],c", [{"a": [["x", "y"], {"b": "p,]"}]}, {"a": "c"}]),
        ("a=1;b={c: 2, d: 3} | a=3", [{"a": 1, "b": {"c": 2, "d": 3}}, {"a": 3}]),
        ("a=1;b=2", [{"a": 1, "b": 2}]),
        ("a=x=1", [{"a": "x=1"}]),
    ],
)
def test_vary_holds_any_yaml(text: str, found: list[dict[str, Any]]) -> None:
    assert options(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "'a' is not ADDRESS=VALUE"),
        ("a=", "'a=' is not ADDRESS=VALUE"),
        ("=1", "'=1' is not ADDRESS=VALUE"),
        ("a=1,,2", "there is nothing on one side of ','"),
        ("a=1 |", "there is nothing on one side of '|'"),
        ("a=[1,2", "a bracket or a quotation mark is not closed"),
        ("a='x", "a bracket or a quotation mark is not closed"),
        ("a=1,2;b=3", "'a' has several values in one option\n  instead: write an option each: a=1 | a=2"),
    ],
)
def test_a_vary_that_is_none_is_refused(text: str, said: str) -> None:
    assert refused(parse_vary, text).startswith(f"--vary '{text}': {said}")


def test_the_grid_is_named_by_what_changes() -> None:
    two = plan(vary={SCHEDULE: ["polar6", "jordan5"], "train.schedule.warmup": [0.0, 0.25]})
    assert [arm.name for arm in two.arms] == [
        "schedule=polar6, warmup=0", "schedule=polar6, warmup=0.25",
        "schedule=jordan5, warmup=0", "schedule=jordan5, warmup=0.25",
    ]  # fmt: skip
    assert two.against == "schedule=polar6, warmup=0"  # the spec as it is
    assert two.arms[3].spec["train"]["schedule"]["warmup"] == 0.25
    assert value_at(two.arms[3].spec, SCHEDULE) == "jordan5"
    assert len({arm.folder for arm in two.arms}) == 4 and all("/" not in arm.folder for arm in two.arms)


def test_one_at_a_time_has_the_spec_as_it_is_and_single_changes() -> None:
    made = plan(sampler="one_at_a_time", vary={SCHEDULE: ["polar6", "jordan5"], "train.batch": [4, 8]})
    assert [(arm.name, arm.changes) for arm in made.arms] == [
        ("base", {}), ("schedule=jordan5", {SCHEDULE: "jordan5"}), ("batch=8", {"train.batch": 8}),
    ]  # fmt: skip
    assert made.against == "base"


def test_random_combinations_depend_on_the_samplers_seed_alone() -> None:
    vary = {"train.batch": [1, 2, 3, 4], "train.workers": [1, 3, 5]}

    def drawn(**sampler: Any) -> list[str]:
        return [arm.name for arm in plan(vary=vary, sampler={"kind": "random", **sampler}).arms]

    assert drawn(arms=5) == drawn(arms=5, seed=0) != drawn(arms=5, seed=1)
    assert len(drawn(arms=5)) == len(set(drawn(arms=5))) == 6 and drawn(arms=5)[0] == "base"
    assert len(drawn(arms=99)) == 12  # the spec as it is stands in the grid
    counts = {choice: 0 for choice in ((0, 0), (0, 1), (1, 0), (1, 1))}
    for seed in range(400):
        counts[list(Random(arms=1, seed=seed).choices([2, 2]))[1]] += 1  # type: ignore[index]
    assert min(counts.values()) > 70


def test_several_addresses_vary_together() -> None:
    vary = {"size": {"small": {"train.batch": 2, "train.workers": 3}, "large": {"train.batch": 8}}}
    made = plan(vary=vary)
    assert [(arm.name, arm.spec["train"]["batch"], arm.spec["train"]["workers"]) for arm in made.arms] == [
        ("small", 2, 3), ("large", 8, 1),
    ]  # fmt: skip


def test_arms_are_named_and_bring_their_rates() -> None:
    made = plan(
        vary={}, arms={"signmuon": {}, "muon": {"groups.1.method": "muon", "groups.1.lr": 0.02}}, against="muon"
    )
    assert [(arm.name, arm.rates) for arm in made.arms] == [("signmuon", (0.05,)), ("muon", (0.02,))]
    assert made.against == "muon" and made.tune.lr == ("groups.1.lr",)


def test_rates_are_scaled_together_and_the_first_stands_on_the_lattice() -> None:
    made = plan(tune={"lr": [LR, "groups.vocabulary.lr"]})
    spec = spec_of(made, made.arms[1], 0.1, 7)
    assert [group.lr for group in spec.groups] == [0.006, 0.1] and spec.train["seed"] == 7
    assert spec_of(made, made.arms[1], None, 0).groups[1].lr == 0.05
    assert spec.groups[1].method.worker[1].schedule == "jordan5"  # type: ignore[attr-defined]


def test_the_number_of_runs_is_known_before() -> None:
    assert plan().counts() == (2 * (3 + 2), 8)
    assert plan(tune={"points": 5, "widen": 1, "seed": 9}, seeds=4).counts() == (2 * (5 + 4), 2)
    assert plan(tune={"points": 0}, seeds=[3, 4]).counts() == (4, 0)


def test_the_key_is_what_the_runs_depend_on() -> None:
    key = plan().key
    assert plan(reach=0.5, interval={"kind": "bca"}, against="schedule=jordan5", budget="2h").key == key
    for section in ({"seeds": 4}, {"tune": {"points": 5}}, {"tune": {"widen": 0}}, {"tune": {"seed": 1}},
                    {"vary": {SCHEDULE: ["polar6", "exact"]}}):  # fmt: skip
        assert plan(**section).key != key
    again = Plan.model_validate(json.loads(json.dumps(plain(plan()))))
    assert again == plan() and again.key == key


def test_every_arm_is_validated_before_anything_runs() -> None:
    vary = {SCHEDULE: ["polar6", "polar66"], "train.batch": [4, 0]}
    said = refused(plan, vary=vary)
    assert said.startswith("3 problems")
    assert "arm 'schedule=polar66, batch=4': " in said and "arm 'schedule=polar6, batch=0': train.batch: " in said
    assert "nothing is called 'wroker' here" in refused(plan, vary={"groups.1.wroker.momentum.beta": [0.9]})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"vary": {}}, "there is nothing to compare"),
        ({"vary": {"train.seed": [0, 1]}}, "train.seed is not varied"),
        ({"vary": {"groups.1.lr": [0.1, 0.2]}}, "'groups.1.lr' is varied and tuned"),
        ({"vary": {"groups.matrices.lr": [0.1, 0.2]}}, "'groups.matrices.lr' is varied and tuned"),
        ({"tune": {"lr": "groups.1.method"}}, "ablate.tune.lr: 'groups.1.method' is {"),
        ({"against": "polar7"}, "ablate.against: no arm is called 'polar7'"),
        ({"arms": {"again": {SCHEDULE: "jordan5"}}}, "the arms 'schedule=jordan5' and 'again' are the same spec"),
        ({"arms": {" x": {"train.batch": 8}}}, "' x' is no arm's name"),
        ({"vary": {"train.batch": [1, 2], "both": {"x": {"train.batch": 3}}}}, "two axes change 'train.batch'"),
        ({"vary": {"train.batch": list(range(1, 60)), "train.workers": list(range(1, 60))}}, "more than 1000 arms"),
        ({"vary": {"train.batch": [2, 2]}}, "the arms 'batch=2' and 'batch=2 #2' are the same spec"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(section: dict[str, Any], said: str) -> None:
    assert said in refused(plan, **section)


def test_rates_may_be_varied_where_nothing_is_tuned_and_begin_a_search_beside_other_changes() -> None:
    assert [arm.rates for arm in plan(vary={LR: [0.1, 0.2]}, tune={"points": 0}).arms] == [(), ()]
    together = {"method": {"a": {"groups.1.method": "muon", LR: 0.02}, "b": {"groups.1.method": "signsgd", LR: 0.2}}}
    assert [arm.rates for arm in plan(vary=together).arms] == [(0.02,), (0.2,)]


def test_which_rate_is_tuned_must_be_clear() -> None:
    two = base(**{"groups.0.method": "signsgd", "groups.1.name": "hidden"})
    section = Ablation.model_validate({"vary": {"train.batch": [2, 4]}})
    assert "which learning rate is tuned cannot be told" in refused(make_plan, two, section, name="x")
    assert "--tune-lr groups.1.lr, or leave" in refused(make_plan, two, section, name="x")


WRITTEN = """\
groups:
  - {name: vocabulary, match: ["embed.*", "head.*"], method: adamw, lr: 3.0e-3}
  - {name: matrices, ndim: ">=2", method: signmuon, lr: 0.05}
train: {steps: 7}
ablate:
  vary: {groups.matrices.worker.momentum.beta: [0.9, 0.95]}
  seeds: [4, 5]
"""


def test_a_file_holds_the_spec_and_the_section(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(WRITTEN)
    spec, section = load_ablation(file, changes={"train.batch": 3})
    assert spec.train["steps"] == 7 and spec.train["batch"] == 3 and section.seeds == (4, 5)
    assert [axis.name for axis in section.axes] == ["groups.matrices.worker.momentum.beta"]
    (tmp_path / "sub").mkdir()
    referring = tmp_path / "sub" / "refers.yaml"
    plain_spec = tmp_path / "plain.yaml"
    plain_spec.write_text(WRITTEN[: WRITTEN.index("ablate:")])
    referring.write_text("spec: ../plain.yaml\nset: {train.steps: 9}\nablate: {vary: {train.batch: [1, 2]}}\n")
    spec, section = load_ablation(referring)
    assert spec.train["steps"] == 9 and section.seeds == (0, 1, 2) and spec.groups[1].name == "matrices"
    spec, section = load_ablation(SHIPPED)
    assert section == Ablation() and spec.train["steps"] == 300
    assert load_ablation("signmuon")[1] == Ablation()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  sedes: 3", "both.yaml:8:3: ablate.sedes: unknown key 'sedes'|did you mean 'seeds'?"),
        ("  tune: {pionts: 3}", "both.yaml:8:10: ablate.tune.pionts: unknown key 'pionts'|did you mean 'points'?"),
        ("  tune: {points: 4}", "both.yaml:8:18: ablate.tune.points: 4 points are no search|write 3, 5 or 7"),
        ("  budget: soon", "both.yaml:8:11: ablate.budget: 'soon' is no time|write 2h"),
        ("  sampler: gird", "both.yaml:8:12: ablate.sampler: unknown sampler 'gird'|did you mean 'grid'?"),
        ("  reach: 2", "both.yaml:8:10: ablate.reach: |a number <= 1"),
        ("  interval: {kind: z}", "ablate.interval.kind: |'t', 'percentile' or 'bca'"),
        ("  arms: {x: 3}", "both.yaml:8:13: ablate.arms.x: |expected a mapping"),
    ],
)
def test_the_section_is_refused_at_its_place(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(f"{WRITTEN}{line}\n")
    text = refused(load_ablation, file)
    assert all(part in text for part in said.split("|")), text


def test_bad_sections_of_other_kinds(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(WRITTEN.replace("[4, 5]", "[4, 4]"))
    assert "ablate.seeds: a seed stands twice" in refused(load_ablation, file)
    file.write_text(WRITTEN.replace("[0.9, 0.95]", "0.9"))
    assert "both.yaml:6:" in refused(load_ablation, file) and "has no options" in refused(load_ablation, file)
    file.write_text(f"{WRITTEN}trian: {{}}\n")
    assert "did you mean 'train'?" in refused(load_ablation, file)
    file.write_text(WRITTEN.replace("{steps: 7}", "{stesp: 7}"))
    assert "both.yaml:4:" in refused(load_ablation, file) and "did you mean 'steps'?" in refused(load_ablation, file)


def test_times() -> None:
    assert seconds_of("1d2h3m4s") == 93784.0 and seconds_of("1.5h") == 5400.0
    for text in ("2", "h", "2 hours", "-2h"):
        with pytest.raises(Fault, match="is no time"):
            seconds_of(text)


def test_without_optuna_its_sampler_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refused(Optuna().ask, [2], Goal("val_loss"), lambda _: None)
    assert "pip install 'signa-optim[optuna]'" in said


def test_optuna_asks_for_what_it_can_use() -> None:
    pytest.importorskip("optuna")
    sampler = Optuna(trials=25, seed=3)
    best = (3, 1)

    def value(choice: tuple[int, ...]) -> float:
        return float(sum((a - b) ** 2 for a, b in zip(choice, best)))

    tried, over = sampler.ask([5, 4], Goal("x"), value)
    assert over and len(tried) == 25 and best in tried
    assert sampler.ask([5, 4], Goal("x"), lambda c: value(c) if c in tried[:2] else None)[0] == tried[:3]
    assert Optuna(trials=25, seed=4).ask([5, 4], Goal("x"), value)[0] != tried
    upward, _ = sampler.ask([5, 4], Goal("x", "max"), value)
    assert sum(map(value, upward)) > sum(map(value, tried))
    assert sampler.ask([5, 4], Goal("x"), lambda _: float("nan"))[1]
