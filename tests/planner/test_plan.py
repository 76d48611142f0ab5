"""What is said of a plan, and what goes in: models, machines, bad input, ten thousand workers."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import signa
from signa.errors import SpecError
from signa.planner import BASE, Inside, Link, Machine, Plan, Planner, measured, of_module, of_text, predict, timing
from signa.planner.models import MODELS
from signa.planner.sweep import draw, read_sweep, run, write_csv
from signa.planner.verdict import GAIN, crossings, gains, verdict
from signa.routing import Routing
from signa.spec import Spec
from tests.cli.conftest import run as terminal
from tests.cli.terminal import Terminal
from tests.planner.machines import GLOO, made_up

run_command = terminal
SPEC = Spec.load("signmuon")
NVLINK = Link(3.6e12, 5e-6, 1.0, "nccl")
SMALL = ("plan", "signmuon", "--model", "64x64*3,32x48,10", "--link", "10Mbps", "--machine", "machine.json")


# The verdict ---------------------------------------------------------------------------------------------------------


def gpt2(**rates: float) -> Planner:
    model = of_text("gpt2")
    return Planner(SPEC, model, made_up(SPEC, model, **rates), compute=0.2)


def test_eight_hosts_with_nvlink_gain_nothing() -> None:
    plan = gpt2(send=4e3, Muon=4e3).at(8, NVLINK)
    assert not gains(plan)
    assert "no gain expected: DDP" in verdict(plan) and "fewer bits can save no more than that" in verdict(plan)


def test_cheaper_arithmetic_is_no_gain_of_the_wire() -> None:
    plan = gpt2(send=4e3, Muon=40.0).at(8, NVLINK)
    assert plan.speedup("signa") > 2 and not gains(plan)
    assert "by another cause: the optimizers' arithmetic" in verdict(plan)


def test_what_is_saved_can_be_spent() -> None:
    plan = gpt2(send=20.0, Muon=4e3).at(4, Link(1e10, backend="nccl"))
    assert not gains(plan) and "it spends on packing and its own arithmetic" in verdict(plan)


def test_a_slow_link_gains() -> None:
    plan = gpt2(send=4e3, Muon=4e3).at(4, Link(1e8))
    assert gains(plan) and verdict(plan).startswith("gain expected: 'signa")


def test_crossings_are_where_the_ratio_is_the_gain() -> None:
    planner = gpt2(send=100.0, Muon=400.0)
    found = crossings(planner, 8, Link(1e9, backend="nccl"))
    for one in found:
        ((low, high),) = one.rates
        assert low == 1e5 and _gain(planner.at(8, Link(high, backend="nccl")), one.against) == pytest.approx(GAIN, 0.02)
        ((few, most),) = one.workers
        assert most == 10_000 and _gain(planner.at(few, Link(1e9, backend="nccl")), one.against) >= GAIN
    assert found[0].rates[0][1] > found[1].rates[0][1], "bfloat16 is the harder one to beat"
    assert "on links below" in str(found[0]) and "to 10,000 workers" in str(found[0])


def _gain(plan: Plan, against: str) -> float:
    return plan.speedup(plan.best.name, against)


def test_group_is_told_where_its_own_choice_is_slower(run_command: Terminal) -> None:
    """Its constants are 100 us and 10 Gb/s: at 60 ms a round counts, and on a slow link bytes do."""
    said = run_command(*SMALL, "--workers", "8", "--latency", "0us", "--rates", "messages=1e12")
    assert "on this link Group(exchange='alltoall') is" in said


# Size ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["signmuon", "ef21muonsign"])
def test_ten_thousand_workers_are_no_more_work_than_ten(name: str) -> None:
    spec, model = Spec.load(name), of_text("gpt2")
    planner = Planner(spec, model, made_up(spec, model))
    begun = time.process_time()
    plan = planner.at(10_000, Link(1e10))
    assert time.process_time() - begun < 2.0
    assert plan[BASE].bits == pytest.approx(64, rel=1e-3)


def test_a_sweep(tmp_path: Path) -> None:
    planner = gpt2()
    workers, links = read_sweep("workers=2:10000"), read_sweep("link=10Mbps:400Gbps")
    assert workers.values[:4] == [2, 5, 10, 20] and workers.values[-1] == 10_000
    assert links.values[0] == 1e7 and links.values[-1] == 4e11
    plans = run(planner, workers, 8, Link(1e9))
    assert [plan.workers for plan in plans] == workers.values
    assert [plan.link.rate for plan in run(planner, links, 8, Link(1e9))] == links.values
    assert {plan.workers % 8 for plan in run(planner, workers, 8, Link(1e9), Inside(8, NVLINK))} == {0}
    write_csv(plans, tmp_path / "plan.csv")
    rows = list(csv.DictReader((tmp_path / "plan.csv").open()))
    assert len(rows) == sum(map(len, plans)) and float(rows[0]["step_s"]) == pytest.approx(
        plans[0]["signa"].step, rel=1e-5
    )
    if draw(workers, plans, tmp_path / "plan", "a title"):
        assert (tmp_path / "plan.png").stat().st_size > 5000 and "a title" in (tmp_path / "plan.svg").read_text()


@pytest.mark.parametrize("text", ["workers=10:2", "workers=1:4", "link=10:20", "nodes=1:2", "workers", "workers=2:x"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--sweep"):
        read_sweep(text)


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "entries"), [
    ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200),
    ("llama7b", 6_738_415_616), ("llama70b", 68_976_648_192), ("resnet18", 11_689_512), ("resnet50", 25_557_032),
    ("tinyllama", 1_100_048_384),
])  # fmt: skip
def test_models_have_their_published_sizes(name: str, entries: int) -> None:
    """As their released weights count, a tied head once."""
    assert sum(one.parameter.numel() for one in of_text(name)) == entries


def test_every_model_is_tested() -> None:
    tested = next(mark for mark in test_models_have_their_published_sizes.pytestmark if mark.name == "parametrize")
    assert {name for name, _ in tested.args[1]} == set(MODELS)


def test_models_route_as_real_ones_do() -> None:
    """Embeddings and heads to AdamW; a module on the meta device is as good as a real one."""
    routes = {route.named.name: route.group for route in Routing.of(SPEC, of_text("llama7b"))}
    names = [group.name for group in SPEC.groups]
    assert names[routes["embed.tokens.weight"]] == "embeddings" and names[routes["head.weight"]] == "heads"
    assert names[routes["blocks.3.mlp.down.weight"]] == "signmuon" and names[routes["norm.weight"]] == "rest"
    tied = nn.Sequential(nn.Embedding(8, 4, device="meta"), nn.Linear(4, 8, bias=False, device="meta"))
    tied[1].weight = tied[0].weight
    (found,) = of_module(tied)
    assert found.tied and "Embedding" in found.module and found.parameter.shape == (8, 4)
    assert not found.parameter.is_meta and found.parameter.untyped_storage().nbytes() == 4


def test_shapes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    path.write_text("blocks.*.weight: 16x8*2\nhead.weight: [4, 8]\n")
    found = {one.name: tuple(one.parameter.shape) for one in of_text(str(path))}
    assert found == {"blocks.0.weight": (16, 8), "blocks.1.weight": (16, 8), "head.weight": (4, 8)}


@pytest.mark.parametrize(("text", "said"), [
    ("gpt9", "'gpt9' is no model"), ("512x", "'512x' is no shape"), ("0x4", "is no shape"), ("4x4*0", "is no shape"),
])  # fmt: skip
def test_what_is_no_model_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("*", r"\*")):
        of_text(text)


def test_nodes_have_as_many_workers_each() -> None:
    model = of_text("8x8")
    with pytest.raises(SpecError, match="10 workers on nodes of 4"):
        predict(SPEC, model, workers=10, link=NVLINK, machine=made_up(SPEC, model), inside=Inside(4, NVLINK))


# Machines ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signa.planner.timing._BUDGET", 0.005)


def test_a_machine_is_measured_once_and_saved(tmp_path: Path) -> None:
    """A method with every part."""
    spec, model = Spec.load("ef21muonsign"), of_text("24x16*3,5")
    found = measured(spec, model)
    assert all(0 < value < 1e14 for value in found.rates.values()) and set(GLOO) <= set(found.rates)
    row = predict(spec, model, workers=4, link=Link(1e9), machine=found)["signa"]
    assert 1e-5 < row.compute < 1
    found.save(tmp_path / "machine.json")
    again = Machine.load(tmp_path / "machine.json")
    assert again == found and measured(spec, model, known=again) == again


def test_a_pause_of_the_machine_is_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_BUDGET", 0.01)
    calls = iter([0.001] * 4 + [0.05] + [0.001] * 1000)

    def made(m: int, n: int, count: int) -> Callable[[], list[float]]:
        def act() -> list[float]:
            time.sleep(taken := next(calls))
            return [taken]

        return act

    (seconds,) = timing._timed(8, 8, 1, made)
    assert seconds == 0.001


def test_a_matrix_that_is_too_large_is_timed_at_smaller_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def seconds(m: int, n: int) -> float:
        return 2e-9 * m * n + 3e-11 * m * n * min(m, n)

    def made(m: int, n: int, count: int) -> Callable[[], list[float]]:
        asked.append((m, n))
        return lambda: [count * seconds(m, n)]

    monkeypatch.setattr(timing, "_CUBES", 1 << 22)
    (rate,) = timing._per_matrix(384, 256, 1, made)
    assert rate == pytest.approx(1 / seconds(384, 256), rel=1e-6)
    assert max(asked) < (384, 256) and len(set(asked)) == 2


def test_an_unknown_rate_is_refused() -> None:
    with pytest.raises(SpecError, match="this machine has no rate 'send 8x8 float32: "):
        predict(SPEC, of_text("8x8"), workers=2, link=NVLINK, machine=Machine())


def test_rates_can_be_overridden() -> None:
    machine = Machine({"pack Signs": 1.0, "pack Dense": 1.0, "copy": 1.0})
    assert machine.overridden({"pack*": 2.0}).rates == {"pack Signs": 2.0, "pack Dense": 2.0, "copy": 1.0}
    with pytest.raises(SpecError, match="'paint' matches no rate"):
        machine.overridden({"paint": 2.0})
    with pytest.raises(SpecError, match="must be above 0"):
        machine.overridden({"copy": 0.0})


def test_a_file_that_is_no_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    for text in (
        "{}",
        "no json",
        '{"form": 1, "together": 1, "rates": {"copy": 0}}',
        '{"form": 9, "together": 1, "rates": {}}',
    ):
        path.write_text(text)
        with pytest.raises(SpecError, match="holds no machine"):
            Machine.load(path)
    Machine({"copy": 1.0}, together=4).save(path)
    with pytest.raises(SpecError, match="with 4 processes at once, and not with 1"):
        Machine.load(path)


@pytest.mark.slow
def test_processes_measure_at_once() -> None:
    """Each of four on few cores gets less than one alone."""
    model = of_text("256x256*4")
    alone, four = (measured(SPEC, model, known=Machine(together=count)) for count in (1, 4))
    assert set(alone.rates) == set(four.rates) and four.together == 4
    assert all(value > 0 for value in four.rates.values())


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command(run_command: Terminal) -> None:
    said = run_command(*SMALL, "--workers", "4", "--compute", "2ms", "--latency", "50us")
    assert "signmuon, 64x64*3,32x48,10: 13,834 parameters in 5 tensors; 4 workers, a host each" in said
    assert "link of a host 10 Mbit/s = 1.25 MB/s, 1.18 MB/s of payload; latency 50 us; gloo" in said
    assert "forward and backward 2 ms" in said
    assert BASE in said and "faster than DDP bfloat16 + Muon" in said
    rates = json.loads(Path("machine.json").read_text())["rates"]
    again = run_command(*SMALL, "--workers", "4", "--compute", "2ms", "--latency", "50us")
    assert again == said and json.loads(Path("machine.json").read_text())["rates"] == rates

    data = json.loads(run_command(*SMALL, "--workers", "4", "--json"))
    assert "optimizer and communication only" in data["setting"] and data["rates"] == rates
    rows = {row["name"]: row for row in data["rows"]}
    assert rows[BASE]["bits"] == 48 and isinstance(data["gain"], bool)
    slower = json.loads(run_command(*SMALL, "--workers", "4", "--json", "--rates", "send*=10"))
    assert {row["name"]: row for row in slower["rows"]}["signa"]["compute"] > 0.3
    small = json.loads(run_command(*SMALL, "--workers", "4", "--json", "--bucket-mb", "1e-6"))
    assert {row["name"]: row for row in small["rows"]}["signa"]["sent"] > rows["signa"]["sent"]
    free = json.loads(run_command(*SMALL, "--workers", "4", "--json", "--backend", "nccl", "--latency", "0s"))
    assert {row["name"]: row for row in free["rows"]}["signa"]["communication"] < rows["signa"]["communication"]
    nodes = json.loads(run_command(*SMALL, "--workers", "4", "--json", "--nodes", "2", "--intra", "1Mbps"))
    slow = json.loads(
        run_command(*SMALL, "--workers", "4", "--json", "--nodes", "2", "--intra", "1Mbps", "--intra-latency", "1s")
    )
    assert "4 workers on 2 hosts" in nodes["setting"]
    assert slow["rows"][0]["communication"] == pytest.approx(nodes["rows"][0]["communication"] + 3, rel=1e-3)

    run_command(*SMALL, "--workers", "4", "--sweep", "workers=2:20", "--out", "folder")
    assert Path("folder/plan.csv").read_text().startswith("workers,link_bps,way,")
    swept = json.loads(run_command(*SMALL, "--workers", "4", "--sweep", "link=1Mbps:10Mbps", "--json"))
    assert [one["link_bps"] for one in swept["plans"]] == [1e6, 2e6, 5e6, 1e7]


def test_a_sentence_and_a_module(run_command: Terminal) -> None:
    Path("nets.py").write_text("import torch\ndef net(): return torch.nn.Linear(64, 64, device='meta')\n")
    words = ("--workers", "2", "--link", "10Mbps", "--machine", "machine.json")
    said = run_command("plan", "momentum | sign | majority_vote", "--model", "nets:net", *words)
    assert "4,160 parameters in 2 tensors" in said


@pytest.mark.parametrize(("words", "said"), [
    (("--link", "10"), "'10' is no rate"), (("--latency", "30"), "'30' is no duration"),
    (("--compute", "fast"), "'fast' is no duration"), (("--nodes", "3"), "3 does not divide 4 workers"),
    (("--out", "folder"), "give --sweep"), (("--backend", "mpi"), "'mpi' is none of gloo, nccl"),
    (("--rates", "copy"), "'copy'"), (("--intra", "fast"), "'fast' is no rate"), (("--model", "x"), "'x' is no model"),
    (("--sweep", "x=1:2"), "'x=1:2' is no sweep"), (("--workers", "1"), "greater than or equal to 2"),
    (("--machine", "nets.json"), "nets.json holds no machine"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_measured(
    run_command: Terminal, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], said: str
) -> None:
    monkeypatch.setattr("signa.planner.timing.stack", None)
    Path("nets.json").write_text("[]")
    found = run_command(*SMALL, "--workers", "4", *words, code=2)
    assert said in " ".join(found.replace("│", " ").split())


def test_an_aggregator_that_does_not_take_so_many_workers() -> None:
    with pytest.raises(SpecError, match="weights"):
        spec = signa.Method(worker="momentum", up="sign", aggregate={"kind": "weighted_mean", "weights": [1, 2]})
        model = of_text("8x8")
        chosen = Spec.load({"groups": [{"match": ["*"], "method": spec, "lr": 0.1}]})
        predict(chosen, model, workers=3, link=NVLINK, machine=made_up(chosen, model))
