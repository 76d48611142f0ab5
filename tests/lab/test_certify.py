"""The search for counterexamples finds those of the theorems by itself, nothing where there is none, no accidents."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

import signa
from signa.commands import certify as command
from signa.lab.theory import EXACT, census, certify, margins, remembers, small, theorem1, theorem2, walk, with_oracle
from signa.lab.theory.search import search
from signa.lab.theory.witness import proven, simplify, verified
from signa.lmo.newton_schulz import exact_polar

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "counterexamples"


def exactly(name: str) -> signa.Method:
    return with_oracle(signa.method(name), EXACT)


def matrix(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# How small --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "alphabet", "found", "deepest"),
    [
        ((2, 12), "sign", 0, 0.0),
        ((3, 9), "sign", 0, 0.0),
        ((4, 4), "sign", 0, 0.0),
        ((4, 5), "sign", 720, -0.031334),
        ((4, 6), "sign", 3600, -0.064147),
        ((5, 5), "sign", 20400, -1 / math.sqrt(17)),
        ((3, 3), "ternary", 0, 0.0),
        ((3, 4), "ternary", 4608, -0.060714),
        ((3, 5), "ternary", 111360, -0.120437),
    ],
)
def test_the_published_counts(shape: tuple[int, int], alphabet: str, found: int, deepest: float) -> None:
    result = census(*shape, alphabet)  # type: ignore[arg-type]
    assert result.found == found and result.deepest == pytest.approx(deepest, abs=1e-6)
    assert result.patterns == (2 ** ((shape[0] - 1) * (shape[1] - 1)) if alphabet == "sign" else 3 ** math.prod(shape))
    if found:
        S = matrix(result.witness)
        assert float((S * exact_polar(S)).min()) == pytest.approx(deepest, abs=1e-6)


def test_counting_by_columns_is_counting_all() -> None:
    """Against every single pattern: 3 x 4 with zeros, and 4 x 5 signs with the first row and column +1."""
    ternary = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 9).double()
    some = torch.cat([ternary, torch.ones(len(ternary), 3, dtype=torch.float64)], 1).view(-1, 3, 4)
    some = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))[:4000]]
    low = (some * exact_polar(some)).flatten(1).amin(1)
    assert bool((low > -0.0608).all()) and bool((low < -0.06).any())
    inner = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12).double().view(-1, 3, 4)
    S = torch.ones(len(inner), 4, 5, dtype=torch.float64)
    S[:, 1:, 1:] = inner
    assert int(((S * exact_polar(S)).flatten(1).amin(1) < -1e-9).sum()) == census(4, 5, "sign").found


# Running a method -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", signa.presets.names())
def test_matrices_beside_each_other_know_nothing_of_each_other(name: str) -> None:
    G = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = walk(exactly(name), lambda X: G + X, (5, 3, 4), 3, lr=0.1)[-1]
    for b in range(5):
        alone = walk(exactly(name), lambda X, b=b: G[b] + X, (3, 4), 3, lr=0.1)[-1]
        assert torch.equal(together[b], alone)


def test_margins_are_what_they_say() -> None:
    G = torch.stack([theorem1(1000.0), theorem1(5.0), torch.zeros(4, 4, dtype=torch.float64)])
    found = margins(exactly("signmuon"), G)
    assert found.descent.tolist() == pytest.approx([-42468 / 103, (532 - 215) / 103, 0], abs=1e-9)
    size = torch.linalg.matrix_norm(G) * 4
    assert found.cosine[:2].tolist() == pytest.approx((found.descent / size)[:2].tolist(), rel=1e-12)
    assert float(found.cosine[2]) == 0
    path = walk(exactly("ef21signmuon"), lambda _: G[0].clone(), (4, 4), 7)
    parts = [before - after for before, after in itertools.pairwise(path)]
    several = margins(exactly("ef21signmuon"), G[:1], 7)
    lengths = sum(float(torch.linalg.matrix_norm(d)) for d in parts)
    total = sum(float((G[0] * d).sum()) for d in parts)
    assert float(several.descent) == pytest.approx(total / 7)
    assert float(several.cosine) == pytest.approx(total / lengths / float(torch.linalg.matrix_norm(G[0])))


# The search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"), [("signmuon", (4, 4)), ("muonusign", (5, 5)), ("muonusign", (4, 5)), ("muonsign", (4, 5))]
)
def test_it_finds_the_theorems_by_itself(name: str, shape: tuple[int, int]) -> None:
    method = exactly(name)
    found = search(method, shape, accept=lambda G: verified(method, G), seconds=60, tries=60_000)
    assert found.accepted and found.cosine < 0
    assert float(margins(method, found.matrix[None]).descent) < 0


def test_a_witness_is_made_readable() -> None:
    found = certify(exactly("muonusign"), (4, 5), tries=1)
    G = matrix(found.matrix)
    assert found.ascends and torch.equal(G, G.round()) and int((G.abs() > 1).sum()) == 1
    descent = float((G * exact_polar(G.sign())).sum())
    assert descent < 0 and found.descent == pytest.approx(descent, rel=1e-9)
    assert found.values == pytest.approx([-descent * t for t in range(6)], rel=1e-9)
    assert found.margin == pytest.approx(descent / 2 / float(G.norm()), rel=2e-3)


@pytest.mark.parametrize(("name", "least"), [("muon", 1 / 2), ("signsgd", 1 / math.sqrt(20)), ("ef21muonusign", 0.3)])
def test_it_finds_nothing_where_there_is_nothing(name: str, least: float) -> None:
    method = exactly(name)
    found = certify(method, (4, 5), tries=3000, steps=20 if remembers(method) else 1)
    assert not found.ascends and found.tried >= 3000 and found.margin >= least - 1e-9


def test_the_budget_and_the_seed() -> None:
    method = exactly("signsgd")
    short = certify(method, (3, 3), seconds=0.0)
    assert short.tried < certify(method, (3, 3), tries=short.tried + 1).tried
    assert short.matrix == certify(method, (3, 3), tries=1).matrix != certify(method, (3, 3), tries=1, seed=1).matrix


def test_a_tie_is_no_witness() -> None:
    """Theorem 2 without its first row, whose zeros get coins: under some of them f ascends, under others not."""
    method, G = exactly("muonusign"), theorem2(100.0)
    assert verified(method, G) and not verified(exactly("muon"), G)
    G[0] = 0
    cosines = margins(method, G.expand(200, 5, 5)).cosine
    assert float(cosines.min()) < 0 < float(cosines.max())
    assert not verified(method, G)
    assert all(verified(exactly("signmuon"), theorem1(sigma)) for sigma in (50.0, 1000.0))


def test_a_negative_margin_that_fails_the_proof_is_said() -> None:
    """One step of EF21 is MuonUSign's, so every low margin is negative; five are not, so none is proven."""
    words = ["| ef21(scaled_sign) | mean | spectral | | step", "--exact", "--steps", "1", "--tries", "1"]
    said = run(*words, "--json")
    data = json.loads(said, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert not data["ascends"] and data["margin"] < 0 and any(map(any, data["matrix"]))
    assert "(negative, not proven), at" in run(*words)
    assert "not proven" not in run("muon", "--exact", "--tries", "1")


def test_a_proven_witness_beats_a_lower_one_that_is_not() -> None:
    method, asked = exactly("muonusign"), []

    def second(G: Tensor) -> bool:
        asked.append(float(margins(method, G[None]).cosine))
        return len(asked) == 2

    found = search(method, (4, 5), accept=second, tries=1)
    assert found.accepted and found.matrix.any() and asked[0] <= asked[1] < 0
    assert found.cosine == pytest.approx(asked[1], rel=1e-2)


def test_f_has_to_rise_over_the_last_half_as_well() -> None:
    from typing import Any, Literal

    class Stumble(signa.Stage):
        """Ten steps' length uphill at first, then downhill."""

        kind: Literal["stumble"] = "stumble"
        again: bool = False

        def init(self, x0: Tensor) -> Any:
            return {"t": torch.zeros_like(x0)}

        def __call__(self, x: Tensor, state: Any, ctx: Any) -> Tensor:
            state["t"] += 1
            uphill = (state["t"] == 1) | (self.again & (state["t"] > 2))
            return torch.where(uphill, -10.0, 1.0) * x

        def signal(self, s: Any) -> Any:
            return s

    signa.stages.register(Stumble)
    try:
        G = matrix([[1.0, 2.0], [3.0, -4.0]])
        once, often = (signa.Method(server=[{"kind": "stumble", "again": a}]) for a in (False, True))
        found = margins(once, G[None], 5)
        assert float(found.cosine) == pytest.approx(-6 / 14) and float(found.late) == pytest.approx(1)
        assert proven(once, G) == pytest.approx(1, abs=1e-6) and proven(often, G) < 0
        data = certify(often, (2, 2), steps=5, tries=1)
        assert data.ascends and data.remembers and data.over == 5
        assert "ascends on f(W) = <G, W> over 5 steps from a fresh state with" in command._text(data)
        assert not certify(once, (2, 2), steps=5, tries=1).ascends
    finally:
        signa.stages.unregister("stumble")


def test_simplify_keeps_half_the_margin() -> None:
    method, G = exactly("muonsign"), 0.37 * theorem2(500.0)
    simple = simplify(method, G)
    assert torch.equal(simple, simple.round()) and float(simple.abs().max()) < 100
    assert proven(method, simple) <= proven(method, G) / 2
    hopeless = theorem1(20.0) / 7  # Muon does not ascend, so nothing simpler does
    assert torch.equal(simplify(exactly("muon"), hopeless), hopeless)


# The command ------------------------------------------------------------------------------------------------------


def run(*words: str, code: int = 0) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    result = CliRunner().invoke(app, ["certify", *words])
    if code == 0:
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output
    assert result.exit_code == code
    return result.output + str(result.exception)


def test_the_command_prints_a_witness(tmp_path: Path) -> None:
    said = run("muonsign", "--shape", "4x5", "--tries", "1", "--out", str(tmp_path / "c.json"))
    assert "ascends on f(W) = <G, W> with the 4x5 matrix G =" in said and "f with lr 1: 0, " in said
    kept = json.loads((tmp_path / "c.json").read_text())
    G = matrix(kept["matrix"])
    assert kept["ascends"] and kept["seed"] == 0 and verified(signa.method("muonsign"), G)
    assert " ".join(str(int(x)) for x in G[0].tolist()) in " ".join(said.split("G =")[1].replace("[", " ").split())
    assert "no witness among 3x3 matrices" in run("muon", "--shape", "3x3", "--tries", "1")


def test_the_command_takes_a_sentence_and_a_spec() -> None:
    def method(*words: str) -> str:
        return json.loads(run(*words, "--json", "--shape", "2x2", "--seconds", "0"))["method"]

    assert method("momentum spectral | sign | majority_vote") == str(signa.method("signmuon"))
    assert method("momentum | ef21(scaled_sign) | mean | spectral step | ef21(scaled_sign)") == str(
        signa.method("ef21muonsign")
    )
    scion = str(ROOT / "examples" / "scion.yaml")
    assert "linf" in method(scion, "--group", "head") and "column" in method(scion, "--group", "0")
    assert "spectral(schedule=exact" in method("muon", "--exact")
    data = [json.loads(run(n, "--json", "--shape", "2x2", "--tries", "1", *w)) for n, *w in _steps()]
    assert [one["steps"] for one in data] == [1, 40, 3]


def _steps() -> list[tuple[str, ...]]:
    return [("signsgd",), ("ef_signsgd",), ("ef_signsgd", "--steps", "3")]


def test_the_command_takes_a_plugin() -> None:
    plugin = str(ROOT / "examples" / "own_lmo.py")
    try:
        said = run("momentum hadamard | sign | majority_vote", "--plugin", plugin, "--shape", "4x4", "--seconds", "0")
        assert "momentum hadamard | sign" in said
    finally:
        signa.lmos.unregister("hadamard")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nomuon"], "unknown preset 'nomuon'"),
        (["momentum | sign | | | | step | step"], "a sentence of 7 parts"),
        (["momentum | sgn"], "did you mean 'sign'?"),
        (["examples/scion.yaml"], "has 5 groups"),
        (["examples/scion.yaml", "--group", "heads"], "'heads' is no group"),
        (["muon", "--group", "head"], "--group does not go with a name"),
    ],
)
def test_the_command_refuses(words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert expected in run(*words, code=1)


# What is in the tree ----------------------------------------------------------------------------------------------


def test_the_witnesses_of_the_page_are_witnesses() -> None:
    found = json.loads((FOLDER / "results" / "certificates.json").read_text())["found"]
    ascending = [one for one in found if one["ascends"]]
    assert {one["preset"] for one in ascending} >= {"signmuon", "muonusign", "muonsign", "signmuon_polar"}
    for one in ascending:
        assert verified(exactly(one["preset"]), matrix(one["matrix"])), one
    assert verified(exactly("signmuon"), small()) and verified(signa.method("signmuon"), small())


def test_the_tables_of_the_page_are_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop("tables", None)
    import tables

    page = FOLDER / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(page.read_text(encoding="utf-8").replace("| `muon` |", "| `nuom` |"), encoding="utf-8")
    tables.rewrite(copy, FOLDER / "results")
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("<!-- table: ") == len(tables.TABLES)
    sys.modules.pop("tables", None)
