"""What is said of an ablation: intervals that cover what they promise, and a report made from the run folders alone."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import sys
import xml.dom.minidom
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from signa.errors import SpecError
from signa.lab.ablation import Interval, Study, execute, read_archive, read_study
from signa.lab.ablation.report import write_report
from signa.lab.ablation.statistics import confidence, difference, level_at, mean_curve, reaches, t_quantile
from signa.lab.ablation.tables import Table, rows
from tests.lab.ablations import SCHEDULE, Fake, bowl, fake, plan
from tests.lab.tiny import signa

__all__ = ["fake"]
NAN, T = math.nan, Interval()
BOOTSTRAPS = [Interval(kind="percentile", draws=400), Interval(kind="bca", draws=400)]


def covered(interval: Interval, n: int, trials: int, draw: Any, mean: float) -> float:
    """How often the interval of n values holds their true mean."""
    generator = np.random.default_rng(5)
    found = [confidence(list(map(float, draw(generator, n))), interval) for _ in range(trials)]
    return sum(low <= mean <= high for low, high in found) / trials


def normal(generator: np.random.Generator, n: int) -> Any:
    return generator.normal(2.0, 3.0, n)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_t_interval_covers_what_it_promises_at_any_number_of_seeds(n: int) -> None:
    assert covered(T, n, 2000, normal, 2.0) == pytest.approx(0.95, abs=0.015)
    assert covered(Interval(level=0.8), n, 2000, normal, 2.0) == pytest.approx(0.8, abs=0.025)


def test_bootstraps_are_too_narrow_for_few_seeds_and_cover_with_many() -> None:
    for interval in BOOTSTRAPS:
        assert covered(interval, 5, 400, normal, 2.0) < 0.9
        assert covered(interval, 40, 400, normal, 2.0) > 0.91

    def skewed(generator: np.random.Generator, n: int) -> Any:
        return generator.exponential(1.0, n)

    assert covered(BOOTSTRAPS[1], 40, 400, skewed, 1.0) > 0.9


def test_bca_follows_the_skew_and_percentile_is_the_quantiles() -> None:
    values = [0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.6, 4.0]
    (low, high), (low_a, high_a) = (confidence(values, i.model_copy(update={"draws": 4000})) for i in BOOTSTRAPS)
    assert low_a > low and high_a > high + 0.2
    again = Interval(kind="percentile", draws=4000)
    assert confidence(values, again) == (low, high)
    assert confidence(values, again.model_copy(update={"seed": 1})) != (low, high)
    drawn = np.random.default_rng(0).integers(10, size=(4000, 10))
    assert low == pytest.approx(np.quantile(np.asarray(values)[drawn].mean(1), 0.025))


def test_students_quantiles() -> None:
    # scipy.stats.t.ppf
    for p, df, value in [
        (0.975, 1, 12.706204736), (0.975, 2, 4.302652730), (0.995, 3, 5.840909310), (0.9, 7, 1.414923928),
        (0.975, 30, 2.042272456), (0.75, 5, 0.726686844), (0.9995, 4, 8.610301582),
    ]:  # fmt: skip
        assert t_quantile(p, df) == pytest.approx(value, rel=1e-8)


def test_verdicts() -> None:
    base = {0: 1.0, 1: 2.0, 2: 3.0}
    lower = {seed: value - 0.1 + 0.01 * seed for seed, value in base.items()}
    assert difference(lower, base, T, "min").verdict == "better"
    assert difference(lower, base, T, "max").verdict == "worse"
    assert difference(base, lower, T, "min").verdict == "worse"
    assert difference(lower, base, Interval(level=0.999), "min").verdict == "indistinguishable"
    assert difference({0: 0.0, 1: 5.0, 2: 3.0}, base, T, "min").verdict == "indistinguishable"
    assert difference(base, base, T, "min").verdict == "indistinguishable"
    one = difference({0: 0.0}, base, T, "min")
    assert (one.mean, one.low, one.pairs, one.verdict) == (-1.0, -math.inf, 1, "indistinguishable")
    assert difference({0: 0.0, 7: 1.0}, base, T, "min").pairs == 1  # the seeds that both have
    assert difference(lower, {0: NAN, 1: 2.0, 2: 3.0}, T, "min").verdict == "base diverged"
    assert difference({0: 0.0, 1: NAN, 2: 0.0}, base, T, "min").verdict == "diverged"
    assert difference({}, base, T, "min").verdict == "not run"


def test_pairs_see_what_means_do_not() -> None:
    """The seeds' own spread is 1, the gain 0.01: only the pairing finds it."""
    base = {seed: float(seed) for seed in range(5)}
    found = difference({seed: value - 0.01 - 1e-4 * (seed % 2) for seed, value in base.items()}, base, T, "min")
    assert found.verdict == "better" and found.high - found.low < 1e-3


def test_steps_to_reach_a_level() -> None:
    curve = [(10.0, 4.0), (20.0, 3.0), (30.0, 3.5), (40.0, 1.0)]
    assert [reaches(curve, level, "min") for level in (5.0, 4.0, 3.25, 3.0, 2.25, 1.0)] == [10, 10, 17.5, 20, 35, 40]
    assert math.isnan(reaches(curve, 0.9, "min")) and math.isnan(reaches([], 1.0, "min"))
    assert reaches([(s, -v) for s, v in curve], -3.25, "max") == 17.5
    assert level_at(curve, 0.9) == pytest.approx(1.0 + 2.5 * 0.4) and level_at(curve, 1.0) == 1.0
    assert math.isnan(level_at(curve, 0.1)) and math.isnan(level_at([], 0.9))


def test_nothing_is_carried_forward_in_a_mean_curve() -> None:
    assert mean_curve([[(1, 1.0), (2, 2.0), (3, 3.0)], [(1, 3.0), (3, 5.0)]]) == [(1, 2.0), (3, 4.0)]
    assert mean_curve([]) == []


@pytest.fixture
def figures() -> None:
    """For the tests that look at figures."""
    pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second: only the tests that ask for them have them."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("signa.lab.ablation.report.draw", lambda *_: {})


@pytest.fixture
def folder(fake: Fake, tmp_path: Path) -> Path:
    """Two schedules of which jordan5 is 0.3 worse, and an arm of which a seed diverges, with a hostile name."""

    def value(schedule: str, rate: float, seed: int) -> float:
        if schedule == "exact":
            return NAN if seed == 2 else 1.0 + abs(math.log10(rate / 0.05))
        return bowl(schedule, rate, seed) + 1e-4 * seed**2 * (schedule == "jordan5")

    fake.value = value
    arms = {"x<script>alert(1)</script> & $a_b$ | %": {SCHEDULE: "exact"}}
    return execute(plan(arms=arms), tmp_path).folder


def test_a_comparison_in_numbers(folder: Path) -> None:
    study = read_study(folder)
    best, other, wild = rows(study)
    assert [row.member.name[:6] for row in (best, other, wild)] == ["x<scri", "schedu", "schedu"]
    polar, jordan, hostile = other, wild, best
    assert (polar.difference, polar.member.rate, jordan.member.rate) == (None, 0.1, 0.5)
    own = polar.metrics["val_loss"]
    assert (own.mean, own.std, own.count) == (pytest.approx(1.01), pytest.approx(0.01), 3)
    assert jordan.difference is not None and jordan.difference.verdict == "worse"
    assert jordan.difference.mean == pytest.approx(0.3 + 5e-4 / 3)
    assert hostile.difference is not None and hostile.difference.verdict == "diverged"
    assert hostile.note == "1 of 3 seeds diverged" and hostile.metrics["val_loss"].count == 2
    # the level is 0.4 above the end, which the base has at 36 of 40 steps; jordan5 lies 0.3 higher
    assert polar.reach == pytest.approx(36) and jordan.reach == pytest.approx(36 + 3, abs=0.1)
    assert jordan.relative == pytest.approx(jordan.reach / 36) and len(jordan.reach_each) == 3
    against = rows(read_study(folder, against="schedule=jordan5"))
    assert [row.difference.verdict if row.difference else "" for row in against] == ["diverged", "better", ""]
    with pytest.raises(SpecError, match="did you mean 'schedule=jordan5'"):
        read_study(folder, against="schedule=jordan")


def test_what_is_written(folder: Path, figures: None) -> None:
    written = write_report(read_study(folder))
    there = {path.name for path in (folder / "report").iterdir()}
    drawn = {f"{name}.{kind}" for name in ("curves", "differences", "search") for kind in ("png", "svg")}
    assert there == drawn | {"table.md", "table.csv", "table.tex", "runs.csv", "study.json"}
    table = list(csv.DictReader((folder / "report" / "table.csv").open()))
    assert [line["verdict"] for line in table] == ["diverged", "", "worse"]
    assert list(map(float, table[1]["steps_to_reach_each"].split())) == pytest.approx([35.9, 36.0, 36.1])
    assert float(table[2]["difference"]) == pytest.approx(0.3 + 5e-4 / 3) and table[0]["difference"] == ""
    runs = list(csv.DictReader((folder / "report" / "runs.csv").open()))
    assert len(runs) == len(list(folder.rglob("spec.yaml"))) == len({line["folder"] for line in runs})
    assert {line["status"] for line in runs} == {"finished", "diverged"}
    text = (folder / "report" / "table.md").read_text()
    assert "| schedule=polar6 (base) | 0.1 | 1.0100 ± 0.0100 | 3 |" in text and "## Learning rates tried" in text
    assert "| schedule=polar6 | 1.0000 | 1.0100 | 1.0200 |" in text and "| diverged |" in text
    latex = (folder / "report" / "table.tex").read_text()
    assert r"x$<$script$>$alert(1)$<$/script$>$ \& \$a\_b\$ $|$ \%" in latex and r"\toprule" in latex
    for path in (folder / "report").glob("*.svg"):
        xml.dom.minidom.parse(str(path))
    assert written.notes == ()


class Reader(HTMLParser):
    """Notes the tags, what they refer to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.refers: list[str] = []
        self.ids: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.refers += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in ("meta", "br") else self.open

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_everything_and_nothing_from_elsewhere(folder: Path, figures: None) -> None:
    text = write_report(read_study(folder)).page.read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == [] and "script" not in reader.tags and reader.tags.count("svg") == 3
    assert all(target.startswith("#") and target[1:] in reader.ids for target in reader.refers)
    assert len(set(reader.ids)) == len(reader.ids)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    for part in (
        "x<script>alert(1)</script> & $a_b$ | %", "signa ablate spec.yaml", "groups.matrices.worker.spectral.schedule",
        "polar6 → jordan5", "indistinguishable", "prefers-color-scheme: dark", "width=device-width",
        "1 of 3 seeds diverged", "torch2.6.0", '"steps": 4',
    ):  # fmt: skip
        assert part in reader.words or part in text, part
    changes = text[text.index("<h2>What differs") : text.index("<h2>Learning")]
    assert "groups.matrices.lr" not in changes and "polar6 → exact" in changes  # only what differs


def test_a_report_needs_the_run_folders_alone(folder: Path, tmp_path: Path) -> None:
    before = write_report(read_study(folder)).page.read_bytes()
    shutil.rmtree(folder / "report")
    (folder / "report.html").unlink()
    assert write_report(read_study(folder)).page.read_bytes() == before
    moved = tmp_path / "elsewhere" / "abl"
    shutil.copytree(folder, moved)
    assert write_report(read_study(moved)).page.read_bytes() == before


def test_a_report_can_be_written_again_from_one_file(folder: Path, tmp_path: Path) -> None:
    write_report(read_study(folder))
    file = tmp_path / "mine.json"
    shutil.copy(folder / "report" / "study.json", file)
    again = write_report(read_archive(file)).page.parent
    assert again == tmp_path / "mine"
    names = {path.name for path in (folder / "report").iterdir()}
    assert {path.name for path in (again / "report").iterdir()} == names
    for name in names - {"runs.csv", "loss.png"}:
        if name.endswith((".md", ".csv", ".tex", ".json", ".svg")):
            assert (again / "report" / name).read_bytes() == (folder / "report" / name).read_bytes(), name
    arms = [member.name for member in read_study(folder).members]
    assert read_archive(file, against=arms[-1]).against == arms[-1]
    with pytest.raises(SpecError, match="there is no such arm"):
        read_archive(file, against="nobody")
    for wrong in ("", "[]", "{}", '{"version": 2}', file.read_text().replace('"reach": 0.9', '"reach": 9')):
        file.write_text(wrong)
        with pytest.raises(SpecError, match="holds no study"):
            read_archive(file)


def test_a_report_in_the_middle_says_what_is_missing(fake: Fake, tmp_path: Path) -> None:
    assert execute(plan(), tmp_path, budget=11, now=lambda: float(len(fake.ran))).left == 3
    study = read_study(tmp_path / "abl")
    notes = {row.member.name: row.note for row in rows(study)}
    assert notes == {"schedule=polar6": "1 of 3 seeds missing", "schedule=jordan5": "2 of 3 seeds missing"}
    assert "3 runs or more are not done yet" in write_report(study).page.read_text()


def test_plain_runs_are_grouped_by_their_spec_without_the_seed(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for schedule, lr in (("polar6", "0.1"), ("jordan5", "0.5")):
        for seed in (0, 1, 2):
            source = folder / "runs" / f"schedule-{schedule}" / f"lr{lr}-seed{seed}"
            shutil.copytree(source, plain / f"{schedule}-{seed}")
    (plain / "half").mkdir()
    study = read_study(plain, against="polar6-0")
    assert [(m.name, sorted(m.runs)) for m in study.members] == [("jordan5-0", [0, 1, 2]), ("polar6-0", [0, 1, 2])]
    assert [row.difference.verdict for row in rows(study) if row.difference] == ["worse"]
    shutil.copytree(plain / "polar6-1", plain / "polar6-again")
    assert "1 more runs of the same spec and seed" in {member.note for member in read_study(plain).members}
    with pytest.raises(SpecError, match="there are no runs in"):
        read_study(plain / "half")
    single = read_study(plain / "polar6-2")
    assert [member.name for member in single.members] == ["polar6-2"] and write_report(single).page.exists()


def test_without_matplotlib_there_are_no_figures_and_a_line_says_so(
    folder: Path, figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write_report(read_study(folder))
    assert written.notes == ("no figures: matplotlib is not installed (pip install 'signa-optim[train]')",)
    assert "<svg" not in written.page.read_text() and not list((folder / "report").glob("*.png"))


def test_runs_of_different_machines_are_pointed_out(folder: Path) -> None:
    file = next((folder / "runs" / "schedule-polar6").glob("lr0.1-seed1/environment.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"threads": 8}))
    assert write_report(read_study(folder)).notes[0].startswith("The runs differ in threads (1, 8)")


def test_tables() -> None:
    table = Table(("arm", "-1 | a"), (("x_y", "-0.5 ± 1e-7"), ("z", "∞")), best=0)
    assert table.markdown().splitlines()[2] == "| x_y | -0.5 ± 1e-7 |" and r"-1 \| a" in table.markdown()
    assert r"\textbf{x\_y} & \textbf{$-$0.5 $\pm$ 1e-7} \\" in table.latex()


@pytest.mark.parametrize(("width", "whole"), [(60, False), (200, True)])
def test_a_terminal_that_the_table_does_not_fit(
    width: int, whole: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    console = pytest.importorskip("rich.console").Console
    monkeypatch.setattr("rich.console.Console", lambda: console(force_terminal=True, width=width, no_color=True))
    assert signa(monkeypatch, "report", str(folder)) == 0
    said = capsys.readouterr().out
    assert "…" not in said and ("┃" in said) == whole
    table = write_report(read_study(folder)).table
    assert all(cell in said for row in table.body for cell in row)
    assert whole or f"\n  {table.head[1]}" in said


def test_one_seed_is_said_to_tell_nothing(fake: Fake, tmp_path: Path) -> None:
    study: Study = read_study(execute(plan(seeds=1), tmp_path).folder)
    written = write_report(study)
    assert "One seed tells nothing" in written.notes[0] and "(one seed)" in written.table.markdown()


# The command line -----------------------------------------------------------------------------------------------------


def test_the_commands(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(plan_spec())
    words = ["ablate", str(spec), "--vary", f"{SCHEDULE}=polar6,jordan5", "--out", str(tmp_path)]
    assert signa(monkeypatch, *words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "2 arms; 3 rates of groups.1.lr each; seeds 0, 1, 2:\n  schedule=polar6 (base)\n  schedule=jordan5\n" in said
    assert "10 runs, and up to 8 more" in said and not (tmp_path / "spec-ablation").exists()
    assert signa(monkeypatch, *words, "--budget", "0s") == 0
    assert "the time is over: 6 runs or more are left; the same command goes on" in capsys.readouterr().out
    assert signa(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "| schedule=polar6 (base) | 0.1 |" in said and "report.html is the report" in said
    (tmp_path / "spec-ablation" / "report.html").unlink()
    assert signa(monkeypatch, "report", str(tmp_path / "spec-ablation"), "--against", "schedule=jordan5") == 0
    assert "| schedule=jordan5 (base) | 0.5 |" in capsys.readouterr().out
    assert (tmp_path / "spec-ablation" / "report.html").exists()


def test_the_commands_as_json(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(plan_spec())

    def told(*more: str) -> tuple[dict[str, Any], str]:
        words = ["ablate", str(spec), "--vary", f"{SCHEDULE}=polar6,jordan5", "--out", str(tmp_path), "--json"]
        assert signa(monkeypatch, *words, *more) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    planned, beside = told("--dry-run")
    assert [arm["name"] for arm in planned["arms"]] == ["schedule=polar6", "schedule=jordan5"]
    assert planned["arms"][1]["changes"] == {SCHEDULE: "jordan5"} and planned["against"] == "schedule=polar6"
    assert (planned["runs"], planned["more"], planned["seeds"], planned["tune"]["points"]) == (10, 8, [0, 1, 2], 3)
    assert not beside and not (tmp_path / "spec-ablation").exists()
    begun, _ = told("--budget", "0s")
    assert (begun["made"], begun["left"]) == (0, 6)
    whole, beside = told()
    assert whole["left"] == 0 and whole["made"] >= 10 and "[10/" in beside and "2 arms" in beside
    assert whole["folder"] == str(tmp_path / "spec-ablation") and Path(whole["page"]).exists()
    assert signa(monkeypatch, "report", whole["folder"], "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"] == whole["rows"] and {row["arm"] for row in whole["rows"]} >= {"schedule=polar6 (base)"}


def plan_spec() -> str:
    from tests.lab.ablations import base

    return base().dump()


def test_the_options(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(plan_spec())

    def dry(*more: str) -> str:
        vary = ("--vary", f"{SCHEDULE}=polar6,jordan5", "--vary", "train.batch=2,4,8")
        code = signa(monkeypatch, "ablate", str(spec), *vary, "--dry-run", *more)
        out, err = capsys.readouterr()
        return out if code == 0 else " ".join(err.replace("│", " ").split())

    assert dry().startswith("6 arms") and dry("--one-at-a-time").startswith("4 arms")
    assert dry("--random", "2").startswith("3 arms") and "1 arms" not in dry("--optuna", "3")
    assert "seeds 4, 7:" in dry("--seeds", "4,7") and "seeds 0, 1:" in dry("--seeds", "2")
    assert "5 rates of groups.1.lr, groups.0.lr" in dry(
        "--tune", "5", "--tune-lr", "groups.1.lr", "--tune-lr", "groups.0.lr"
    )
    assert "12 runs\n" in dry("--tune", "0", "--seeds", "2")
    assert "  schedule=jordan5, batch=8 (base)" in dry("--against", "schedule=jordan5, batch=8")
    assert "it does not go with --random" in dry("--one-at-a-time", "--random", "2")
    assert "'soon' is no time" in dry("--budget", "soon")
    assert "4 points are no search" in dry("--tune", "4")
    assert "batch=2" in dry("--set", "train.steps=9")
    assert "unknown key 'stesp'" in dry("--set", "train.stesp=9")


def test_runs_with_other_goals_are_not_compared(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    for number, source in enumerate(sorted((folder / "runs").glob("*/*"))[:2]):
        shutil.copytree(source, mixed / str(number))
    summary = mixed / "1" / "summary.json"
    told = json.loads(summary.read_text()) | {"goal": {"metric": "val_accuracy", "best": "max"}, "val_accuracy": 0.5}
    summary.write_text(json.dumps(told))
    with pytest.raises(SpecError, match=r"different goals: val_loss \(0\), val_accuracy \(1\)"):
        write_report(read_study(mixed))
