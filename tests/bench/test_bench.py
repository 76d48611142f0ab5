"""`signa bench`: floors by hand, turns, peers that are missing, and every verb on tiny matrices."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from signa import bench, cli
from signa.bench import Floor, Options, Peer, Rates, Row, contest, markdown, run, shapes, table
from signa.bench import verbs as verbs_module
from signa.bench.contest import Act, Case, figure
from signa.bench.floors import TRAFFIC, newton_schulz_flops
from signa.bench.ours import REST, STEPS, SignMuon, signmuon
from signa.bench.peers import PEERS, Stepping, enter, textbook_polar
from signa.errors import SpecError
from signa.lmo import Spectral

TINY = Options(shapes=("8x8*2,4x8",), rounds=3, quick=True)


# Floors --------------------------------------------------------------------------------------------------------------


def test_a_step_moves_so_many_bytes() -> None:
    """24.25 an entry with one worker: g, m, m again; the direction; its bits, twice; W, twice."""
    one = Floor.traffic(entries=1, parts=REST).moved
    assert one == 4 + 4 + 4 + 4 + 1 / 8 + 1 / 8 + 4 + 4 == 24.25
    many = Floor.traffic(entries=10, parts=REST, workers=8).moved
    assert many == 10 * (8 * (12 + 4 + 1 / 8) + 9 / 8 + 8 + 1 / 8)
    assert set(REST) == set(TRAFFIC)


def test_newton_schulz_takes_so_many_products() -> None:
    """Counted product by product, on the smaller side, whichever way the matrix lies."""
    m, n = 3, 12
    step = 2 * m * n * m + 2 * m * m * m + 2 * m * m * n  # X X^T, A A, Q X
    assert newton_schulz_flops(m, n, 5) == newton_schulz_flops(n, m, 5) == 5 * step == 5 * (4 * 4 + 2) * 3**3


def test_a_floor_is_work_over_rates() -> None:
    matrices = {(4, 4): 3, (4, 8): 1}
    floor = Floor.spectral(matrices, steps=2, workers=2) + Floor.traffic(entries=80, parts=("momentum",))
    rates = Rates(copy=96.0, gemm={(4, 4): 6 * 64.0, (4, 8): 10 * 64.0})
    assert floor.seconds(rates) == 2 * 2 * 3 + 2 * 2 * 1 + 80 * 12 / 96


def test_rates_are_of_this_machine() -> None:
    rates = Rates.measured(shapes("8x8*2,4x8"), "cpu")
    assert rates.copy > 1e6 and set(rates.gemm) == {(8, 8), (4, 8)} and min(rates.gemm.values()) > 1e4
    assert not Rates.measured(shapes("8x8"), "cpu", products=False).gemm


# Sets ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count", "entries"), [
    ("16x16*256", 256, 65_536), ("64x64*96", 96, 393_216), ("gpt-6x384", 24, 10_616_832),
    ("layer-384", 4, 1_769_472), ("gpt2", 48, 84_934_656), ("1b", 3, 16_252_928), ("7b", 2, 61_865_984),
    ("resnet18", 20, 11_166_912),
])  # fmt: skip
def test_the_sets(name: str, count: int, entries: int) -> None:
    """GPT-2: 12 layers of 12 x 768^2; ResNet-18: its 11,689,512 less norms and head."""
    these = shapes(name)
    assert (len(these.every), these.entries) == (count, entries)
    assert (these.whole > entries) == (name in ("1b", "7b")) == ("a sample of" in str(these))


def test_every_set_is_tested_and_every_verb_has_sets() -> None:
    tested = next(mark for mark in test_the_sets.pytestmark if mark.name == "parametrize")
    assert {name for name, *_ in tested.args[1]} == set(bench.SHAPES)
    assert all(set(verb.shapes) <= set(bench.SHAPES) for verb in bench.VERBS.values())
    assert shapes("7b").whole == 32 * (4 * 4096**2 + 3 * 4096 * 11_008)


def test_a_set_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="'gpt9' is no model"):
        shapes("gpt9")


# Turns ---------------------------------------------------------------------------------------------------------------


def test_everybody_has_a_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sys.modules["signa.bench.contest"], "taken", lambda one, device: (one(), 0.009)[1])
    acts: dict[str, Callable[[], object]] = {name: lambda name=name: said.append(name) for name in "abc"}
    found = contest({name: Act(act) for name, act in acts.items()}, 4, "cpu")
    assert said[:6] == list("aabbcc")  # not counted
    turns = [said[6 + at] for at in range(0, 24, 2)]  # two calls of 9 ms
    assert turns == list("abcbcacababc") and len(said) == 6 + 24
    assert found["a"].seconds == pytest.approx([0.009] * 4)
    said.clear()
    contest({name: Act(act) for name, act in acts.items()}, 1, "cpu", quick=True)
    assert said == list("aabbccabc")


def test_figures() -> None:
    assert figure([9.0, 1.0, 5.0]) == (5.0, 1.0, 9.0)
    assert figure([float(at) for at in range(9)]) == (4.0, 2.0, 6.0)


def test_ours_steps_and_tells_its_part() -> None:
    """What is timed is the optimizer's own step, for several workers too; the LMO's clock is taken off again."""
    own, these = Spectral.direction, shapes("8x8*2")
    for workers in (1, 3):
        one = SignMuon(these, workers, "cpu")
        before = [p.detach().clone() for p in one.parameters]
        one.ready()
        one()
        moved = [(p.detach() - x).abs() for p, x in zip(one.parameters, before)]
        assert all(torch.allclose(d, d[0, 0].expand(8, 8), atol=1e-6) and d[0, 0] > 0 for d in moved)
        assert 0 < one.inner < 10 and Spectral.direction is own
    assert str(signmuon()).startswith("momentum spectral(schedule=jordan5, steps=5") and STEPS == 5


# Peers ---------------------------------------------------------------------------------------------------------------


def test_a_peer_that_is_missing_is_named() -> None:
    assert enter(Peer("x", "no-such-distribution", None), [(4, 4)], "cpu") == "not installed"  # type: ignore[arg-type]


def test_a_peer_that_fails_says_how() -> None:
    def fails(parameters: Any) -> Callable[[], object]:
        raise RuntimeError("only on Tuesdays\nand so on")

    said = enter(Peer("x", "typer", fails), [(4, 4)], "cpu")
    assert str(said).endswith(" does not work here: RuntimeError: only on Tuesdays") and str(said)[0].isdigit()
    assert enter(Peer("x", "", fails), [(4, 4)], "cpu") == "does not work here: RuntimeError: only on Tuesdays"


@pytest.mark.parametrize("peer", [peer for peer in PEERS if not peer.distribution], ids=lambda peer: peer.name)
def test_a_peer_moves_every_matrix(peer: Peer) -> None:
    one = enter(peer, [(8, 8), (8, 4)], "cpu")
    assert isinstance(one, Stepping)
    before = [p.detach().clone() for p in one._parameters]
    for p in one._parameters:
        p.grad = None
    one()
    assert all(torch.equal(p, x) for p, x in zip(one._parameters, before))  # no gradients, no step
    one.ready()
    one()
    assert not any(torch.equal(p, x) for p, x in zip(one._parameters, before))


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.distribution], ids=lambda peer: peer.name)
def test_an_installed_peer_works_or_says_why_not(peer: Peer) -> None:
    one = enter(peer, [(8, 8)], "cpu")
    assert isinstance(one, Stepping) or one == "not installed" or " does not work here: " in one


def test_the_textbook_is_jordan5() -> None:
    g = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    ours = Spectral(schedule="jordan5").direction(g)
    for given, wanted in ((g, ours), (g.T, ours.T)):
        assert (textbook_polar(given).float() - wanted).abs().max() < 0.03


# Verbs ---------------------------------------------------------------------------------------------------------------

ROWS = {
    "step": ["SignMuon", "- its LMO", "- all but that", *(peer.name for peer in PEERS)],
    "spectral": ["jordan5", "polar6", "textbook", "torch.optim.Muon's"],
    "pack": ["pack", "unpack and update", "numpy.packbits(x >= 0)", "signs as int8", "clone and add"],
    "vote": ["vote of 3", "sum of int8 signs", "unpacked, then summed"],
    "exchange": ["SignA, 3 ranks", "all-reduce of float32", "all-reduce of bfloat16", "all-reduce of int8 signs"],
    "simulate": ["3 workers", "- their LMO", "- all but that", "3 x one worker's LMO"],
}


@pytest.mark.parametrize("verb", bench.VERBS)
def test_a_verb(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command, its table and its file: every figure has a spread, ours have floors, others a ratio or a reason."""
    absent = [Peer(peer.name, "no-such-distribution", peer.make) if peer.distribution else peer for peer in PEERS]
    monkeypatch.setattr(verbs_module, "PEERS", tuple(absent))
    threads = torch.get_num_threads()
    words = ["bench", verb, "--quick", "--shapes", "8x8*2,4x8", "--threads", "1", "--json", str(tmp_path / "x.json")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["verb"] == verb and data["rounds"] == 2 and data["environment"]["threads"] == 1
    assert {"cpu", "torch", "platform", "device", "commit"} <= set(data["environment"])
    assert torch.get_num_threads() == threads
    (case,) = data["cases"]
    assert case["matrices"] == {"8x8": 2, "4x8": 1} and case["entries"] == case["whole"] == 160
    assert case["rates"]["copy"] > 0
    assert [row["name"] for row in case["rows"]] == ROWS[verb]
    for row in case["rows"]:
        assert row["name"] in result.output
        if row["note"] == "not installed":
            assert row["seconds"] is None and "not installed" in result.output
            continue
        assert 0 < row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        assert (row["floor"] is None) == bool(row["of"]) == (row["ratio"] is not None)
        if row["floor"] is not None:
            assert row["over_floor"] == pytest.approx(row["seconds"]["median"] / row["floor"])
    assert sum(row["note"] == "not installed" for row in case["rows"]) == (4 if verb == "step" else 0)
    assert table(data) == result.output.rstrip("\n")
    page = markdown(data).splitlines()
    assert len(page) == 2 + len(ROWS[verb]) and page[2].startswith("| 8x8*2,4x8 | ")


def test_its_parts_are_the_whole() -> None:
    rows = {row["name"]: row for row in run("step", TINY)["cases"][0]["rows"]}
    floors = [rows[name]["floor"] for name in ("SignMuon", "- its LMO", "- all but that")]
    assert floors[0] == pytest.approx(floors[1] + floors[2])
    assert rows["SignMuon"]["seconds"]["median"] > rows["- its LMO"]["seconds"]["median"]


def test_options_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    def measure(*words: Any) -> Case:
        heard.append((words[0].name, *words[1:], torch.get_num_threads()))
        return Case(words[0], [Row("x")], {"copy": 1.0})

    verb = bench.Verb("x", ("64x64*96", "16x16*256"), 8, measure)
    monkeypatch.setitem(bench.VERBS, "vote", verb)
    own = torch.get_num_threads()
    assert [case["shapes"] for case in run("vote", Options())["cases"]] == ["64x64*96", "16x16*256"]
    assert heard[0] == ("64x64*96", 8, 9, "cpu", False, own)
    assert run("vote", Options(("4x4",), 5, 4, own + 1))["workers"] == 5
    assert heard[-1] == ("4x4", 5, 4, "cpu", False, own + 1) and torch.get_num_threads() == own
    run("vote", Options(quick=True))
    assert heard[-1][1:] == (3, 2, "cpu", True, own)


@pytest.mark.parametrize(("name", "options", "said"), [
    ("stop", Options(), "unknown benchmark 'stop'\\n  instead: "),
    ("step", Options(workers=3), "'step' is of one worker"),
    ("step", Options(device="mps"), "clocks are made for cpu, cuda and cuda:N"),
    ("step", Options(shapes=("x",)), "'x' is no model"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(name: str, options: Options, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        run(name, options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="no CUDA device"):
        run("pack", Options(device="cuda:0"))
