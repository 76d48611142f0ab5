"""What `signa.theory` says of every preset and of composed sentences, and the counterexamples that it rests on.

``SIGNA_UPDATE_SNAPSHOTS=1`` rewrites theory_facts.txt, the verdicts of the presets in full.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa.lmo.newton_schulz import exact_polar
from signa.theory import WITNESSES, Claim, claims_text, theory

GOLDEN = Path(__file__).with_name("theory_facts.txt")
EXACT = {"kind": "spectral", "schedule": "exact"}
VOTE = {"up": "sign", "aggregate": "majority_vote"}
EF21 = "ef21(scaled_sign)"
POSITIVE = {"sign": {"zeros": "positive"}}


def weighted(*weights: float) -> dict[str, Any]:
    return {"weighted_mean": {"weights": list(weights)}}


def passing(nu: Any) -> list[Any]:
    return [{"momentum": {"nu": nu}}]


def said(**parts: Any) -> list[str]:
    return [claim.result or claim.verdict for claim in theory(signa.Method(**parts))]


def test_every_preset_has_a_verdict() -> None:
    text = (
        "\n\n\n".join(f"# {name}\n{claims_text(theory(signa.method(name)))}" for name in signa.presets.names()) + "\n"
    )
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


COMPOSED = [
    ({"worker": "momentum", "server": "frobenius"}, ["Theorem A"]),
    ({"server": "momentum spectral"}, ["Theorem A"]),  # the momentum of a mean is the mean of the momenta
    ({"worker": "decay momentum", "server": "column"}, ["Theorem A"]),
    ({"worker": "momentum", "aggregate": "median", "server": "row"}, ["Theorem A"]),
    ({"worker": "momentum", "server": "clip spectral"}, ["Theorem A"]),  # an oracle forgets the size
    ({"worker": "momentum", "server": "spectral spectral"}, ["Theorem A"]),
    ({"worker": "momentum", "server": "clip clip spectral"}, ["Theorem A"]),
    ({"worker": "momentum decay", "server": "row"}, ["Theorem A"]),
    ({"worker": "momentum row"}, ["Theorem B"]),
    ({"worker": "momentum normalise"}, ["Theorem B"]),
    ({"worker": "linf", **VOTE}, ["Theorem B", "Theorem C"]),
    (VOTE, ["Theorem B", "Theorem C"]),
    ({"worker": "momentum column clip", **VOTE}, ["Theorem B"]),  # what keeps signs is lost behind a sign
    ({"worker": "momentum", **VOTE, "server": "row", "down": "sign"}, ["Theorem B"]),  # of signs a scale
    ({"worker": "momentum", "up": "sign", "server": "linf"}, ["Theorem B"]),  # the sign of a mean of signs is a vote
    ({"worker": "momentum", "up": "sign"}, ["Theorem B"]),
    # Theorem C counts one vote each, and no tie that goes one way
    ({"up": "sign", "down": "sign"}, ["Theorem B", "Theorem C"]),
    ({"up": "sign", "aggregate": weighted(2, 2, 2), "down": "sign"}, ["Theorem B", "Theorem C"]),
    ({"up": "sign", "aggregate": weighted(10, 1, 1), "down": "sign"}, ["Theorem B"]),
    ({"up": "sign", "down": POSITIVE}, ["Theorem B"]),
    ({**VOTE, "down": POSITIVE}, ["Theorem B", "Theorem C"]),  # coins have settled the ties
    ({"up": "sign", "aggregate": {"majority_vote": {"ties": "zero"}}, "down": POSITIVE}, ["Theorem B"]),
    ({"worker": "momentum", "up": EF21, "server": "spectral"}, ["Theorem D"]),
    ({"up": "ef21(top_k)", "server": "linf"}, ["Theorem D"]),
    ({"worker": "momentum", "server": "spectral step", "down": EF21}, ["Theorem E"]),
    ({"worker": "momentum", "up": EF21, "server": "row step", "down": "ef21(top_k)"}, ["Theorem E"]),
    ({"up": "ef14(top_k)"}, ["Theorem F"]),
    ({"down": "ef14(scaled_sign)"}, ["Theorem F"]),
    ({"worker": "momentum", "up": "ef14(scaled_sign)"}, ["EF-SGD with momentum"]),
    ({"up": EF21}, ["EF21"]),
    ({"worker": "momentum", "up": EF21, "server": "step", "down": EF21}, ["EF21"]),
    ({}, ["SGD"]),
    ({"replica": "adam step"}, ["Adam"]),
    # Counterexamples
    ({"worker": "spectral", "up": "sign"}, ["Theorem 1", "nothing known"]),
    ({"worker": "momentum", "replica": ["spectral", "linf", "step"]}, ["Theorem 1", "nothing known"]),
    ({"worker": "momentum linf spectral"}, ["Theorems 2 and 3", "nothing known"]),
    ({"worker": "spectral", **VOTE, "server": "spectral"}, ["Counterexample G", "nothing known"]),
    ({"worker": "spectral", "up": "sign", "aggregate": weighted(3, 1, 2)}, ["Theorem 1", "nothing known"]),
    ({"worker": "spectral", "up": EF21}, ["Theorem 4", "nothing known"]),
    ({"worker": [{"momentum": {"nu": 0.5}}, "spectral"], "up": EF21}, ["nothing known"]),
    (
        {"worker": "spectral", "up": {"feedback": "ef21", "compressor": {"scaled_sign": {"per": "row"}}}},
        ["nothing known"],
    ),
    # Nothing
    ({"worker": "row", "up": EF21}, ["nothing known"]),
    ({"up": "scaled_sign"}, ["nothing known"]),
    ({"up": "ef14(top_k)", "server": "linf"}, ["nothing known"]),
    ({"up": {"feedback": {"ef14": {"decay": 0.9}}, "compressor": "top_k"}}, ["nothing known"]),
    ({"worker": "momentum clip", "server": "spectral"}, ["nothing known"]),
    ({"worker": "momentum", **VOTE, "server": "momentum"}, ["nothing known"]),
    ({"worker": "momentum adam"}, ["nothing known"]),
    ({**VOTE, "server": "step", "down": EF21}, ["nothing known"]),
    ({"worker": "clip decay spectral"}, ["nothing known"]),  # (clip g) + lambda X is the gradient of nothing
    ({"worker": "clip decay", **VOTE}, ["nothing known"]),
    ({"replica": "adam adam step"}, ["nothing known"]),
]


@pytest.mark.parametrize(("parts", "results"), COMPOSED, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_composed_sentences(parts: dict[str, Any], results: list[str]) -> None:
    assert said(**parts) == results


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"worker": "row", "up": EF21}, "put the LMO on the server"),
        ({"up": "scaled_sign"}, "biased and nothing remembers"),
        ({"up": "stochastic_sign", "aggregate": "majority_vote"}, "reads the compressor 'stochastic_sign'"),
        ({"replica": "step project"}, "reads the stage 'project'"),
        ({"up": "ef14(sign)"}, "needs a compressor with a contraction"),
        ({"up": {"feedback": {"ef14": {"drain": 0.9}}, "compressor": "top_k"}}, "decay or drain"),
        ({"up": "ef14(top_k)", "server": "linf"}, "beside an LMO"),
        ({"worker": "clip", "server": "spectral"}, "biased"),
        ({**VOTE, "server": "momentum"}, "two memories"),
        ({"worker": "spectral row", "server": "row"}, "two non-linear maps"),
        ({"worker": "clip decay spectral"}, "a decay stands behind"),
    ],
)
def test_the_reason_is_said(parts: dict[str, Any], reason: str) -> None:
    assert reason in theory(signa.Method(**parts))[-1].because


def test_a_part_from_outside_is_an_lmo_or_unknown() -> None:
    from typing import Literal

    class Half(signa.LMO):
        """The spectral ball again, under another name."""

        kind: Literal["half"] = "half"

        def direction(self, g: torch.Tensor) -> torch.Tensor:
            return exact_polar(g)

        def norm(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_norm(x, ord=2)

    class Odd(signa.Stage):
        """A stage that no theorem knows."""

        kind: Literal["odd"] = "odd"

        def __call__(self, x: torch.Tensor, state: Any, ctx: Any) -> torch.Tensor:
            return x

        def signal(self, s: Any) -> Any:
            return s

    signa.lmos.register(Half)
    signa.stages.register(Odd)
    try:
        (claim,) = theory(signa.Method(worker="momentum", server="half"))
        assert claim.result == "Theorem A" and claim.measure == "dual norm of 'half' at grad f"
        assert said(worker="half", up="sign") == ["Theorem 1", "nothing known"]  # tried out, not looked up
        assert said(server="half half") == ["nothing known"]  # nobody said that it is idempotent
        assert "reads the stage 'odd'" in theory(signa.Method(worker="odd"))[0].because
    finally:
        signa.lmos.unregister("half")
        signa.stages.unregister("odd")


def test_floors_and_conditions_are_said() -> None:
    with_momentum, without = (theory(signa.Method(worker=w, server="row"))[0] for w in ("momentum", ""))
    lion = theory(signa.method("lion"))[0]
    assert not with_momentum.floor and without.floor.startswith("2 kappa sigma / sqrt(N)")
    assert lion.floor.startswith("|1 - nu| 2 kappa sigma")
    assert any("Newton-Schulz" in need for need in theory(signa.method("muon"))[0].assumptions)
    exact = theory(signa.Method(worker="momentum", server=[EXACT]))[0]
    assert not any("Newton-Schulz" in need for need in exact.assumptions)
    assert any("coupled" in need for need in theory(signa.Method(worker="decay momentum", server="row"))[0].assumptions)
    assert "median" not in exact.source and "floor" not in exact.data() and exact.data()["verdict"] == "converges"


def only(**parts: Any) -> Claim:
    (claim,) = theory(signa.Method(**parts))
    return claim


def test_the_noise_that_ef21_does_not_average_is_a_floor() -> None:
    """Lemma 4(a) has the factor a for nu = 1 and beta alone: else each worker's own noise stays, whatever N is."""
    own = "2 kappa sigma (1 / sqrt(N) + 2 r / (1 - r))"
    around = {"up": EF21, "server": "row"}
    assert only(**around).floor.startswith(own)
    assert only(**around, worker=passing(0.5)).floor.startswith(f"|1 - nu| {own}")
    assert not only(**around, worker=passing("beta")).floor and not only(**around, worker="momentum").floor
    assert only(server="row step", down=EF21).floor.startswith("2 kappa sigma / sqrt(N)")  # nothing compressed up
    for nu in (0.0, 0.5):
        claim = only(up=EF21, worker=passing(nu))
        assert "sigma^2 / delta" in claim.floor and "N T" not in claim.rate
    for nu in (1.0, "beta"):
        claim = only(up=EF21, worker=passing(nu))
        assert not claim.floor and "1 / sqrt(N T)" in claim.rate
    both = only(up=EF21, worker="momentum", down=EF21)
    assert "EF21-BC" in both.source and "N T" not in both.rate and "EF21-BC" not in only(up=EF21).source


def test_weights_count_for_fewer_workers() -> None:
    """The variance of a weighted mean is sigma^2 sum w^2 / (sum w)^2, and it is the gradient of another f."""
    uneven = weighted(10, 1, 1)  # 144 / 102
    for parts in ({"server": "row"}, {"up": EF21, "server": "row"}):
        assert "sqrt(N_eff)" in only(**parts, aggregate=uneven).floor and "N_eff" not in only(**parts).floor
    for parts in ({}, {"up": "ef14(top_k)"}, {"worker": "momentum", "up": "ef14(top_k)"},
                  {"worker": "momentum", "up": EF21}):  # fmt: skip
        claim = only(**parts, aggregate=uneven)
        assert "1 / sqrt(N_eff T)" in claim.rate and "= 1.412" in claim.assumptions[-1]
        assert "1 / sqrt(N T)" in only(**parts, aggregate=weighted(3, 3)).rate
    vote = only(up="sign", aggregate=uneven, down="sign")
    assert vote.because.startswith("a weighted vote") and vote.floor.startswith("4 sqrt(m n)")
    assert "f = sum_j w_j f_j" in vote.assumptions[-1]


def test_other_balls_and_rescaled_rows_are_said() -> None:
    nuclear = only(worker="momentum", up=EF21, server="nuclear")
    assert nuclear.measure == "largest singular value of grad f" and any("||X||_F" in n for n in nuclear.assumptions)
    assert not any("||X||_F" in need for need in only(worker="momentum", up=EF21, server="row").assumptions)
    turbo = only(worker="momentum", server=[{"kind": "spectral", "schedule": "turbo4"}])
    assert any("rows rescaled" in need for need in turbo.assumptions)
    assert not any("Newton-Schulz" in need for need in turbo.assumptions)
    assert not any("rows rescaled" in need for need in theory(signa.method("muon"))[0].assumptions)


@pytest.mark.parametrize("rows", [2, 3, 8, 32])
def test_rescaled_rows_keep_a_share_of_the_dual_norm(rows: int) -> None:
    """Lemma 1's share of an iteration that is normalised by rows: at least 1 / sqrt(rows), 1 for orthogonal rows."""
    generator = torch.Generator().manual_seed(rows)
    G = torch.randn(200, rows, rows + 2, generator=generator, dtype=torch.float64)
    common = torch.randn(200, 1, rows + 2, generator=generator, dtype=torch.float64)
    sizes = 10 ** (4 * torch.rand(200, rows, 1, generator=generator, dtype=torch.float64))
    alike = sizes * (0.1 * G + common)
    turbo = signa.lmos.get("spectral").model_validate({"schedule": "turbo4", "dtype": "parameter"})
    for X, least, most in ((alike, rows**-0.5, 0.999), (exact_polar(G), 0.99, 1.01)):
        rescaled = X * (X @ X.mT).abs().sum(-1, keepdim=True).rsqrt()
        assert float(torch.linalg.matrix_norm(rescaled, ord=2).max()) <= 1 + 1e-9
        for d in (exact_polar(rescaled), turbo.direction(X)):
            share = (X * d).sum((-2, -1)) / torch.linalg.matrix_norm(X, ord="nuc")
            assert least <= float(share.min()) <= most


def test_show_prints_it_when_asked() -> None:
    from signa import show

    (entry,) = show.find("ef21muonusign")
    assert "Theorem D" in show.show_text(show.describe(entry, proofs=True))
    assert "Theorem" not in show.show_text(show.describe(entry))
    spec = signa.Spec.load("signmuon")
    assert "ascends: Theorem 1" in show.spec_text(spec, proofs=True) and "ascends" not in show.spec_text(spec)


# Counterexamples -----------------------------------------------------------------------------------------------------

ASCENTS = {"signmuon": 0, "muonusign": 1, "muonusign_1bit": 1, "muonsign": 1, "signmuon_polar": 2}


@pytest.mark.parametrize("name", ASCENTS)
@pytest.mark.parametrize(("beta", "nu"), [(0.0, 1.0), (0.9, "beta")])
def test_f_grows_at_every_step(name: str, beta: float, nu: Any) -> None:
    """f(X) = log(1 + exp<G, X>) is convex, smooth and positive; a method that a witness speaks against climbs it."""
    G = WITNESSES[ASCENTS[name]].matrix
    G = G / torch.linalg.matrix_norm(G, ord="nuc")
    method = signa.method(name)
    changes: dict[str, Any] = {}
    for part in ("worker", "replica", "server"):
        for address, stage in method.stages(part):
            if stage.kind == "momentum":
                changes |= {f"{address}.beta": beta, f"{address}.nu": nu}
            elif stage.kind == "spectral":
                changes[address] = EXACT
    for lr in (1e-3, 1.0):
        X = nn.Parameter(-3 * G.clone())
        group = {"method": method.replace(changes), "lr": lr, "scaling": "none"}
        opt = signa.build({"groups": [group]}, [("X", X)], transport=signa.Loopback(3))
        before = -torch.inf
        for _ in range(15):
            height = float(nn.functional.softplus((G * X.detach()).sum()))
            assert height > before
            before = height
            for j in range(3):
                with opt.worker(j):
                    X.grad = torch.sigmoid((G * X.detach()).sum()) * G
            opt.step()


def test_counterexample_g_is_what_its_comment_says() -> None:
    """Two orthogonal matrices of opposite determinants: one takes a vector to minus what the other takes it to."""
    G = WITNESSES[2].matrix
    U = exact_polar(G)
    S = torch.sign(U)
    D = exact_polar(S)
    assert float(U.abs().min()) > 0.006 and float(torch.linalg.svdvals(S).min()) > 0.3 < float(
        torch.linalg.svdvals(G).min()
    )
    assert round(float(torch.linalg.det(U))) == -1 and round(float(torch.linalg.det(D))) == 1
    values, vectors = torch.linalg.eigh((U.mT @ D + D.mT @ U) / 2)
    assert float(values[0]) == pytest.approx(-1, abs=1e-9)
    top = torch.linalg.svd(G).Vh[0]
    assert abs(float(vectors[:, 0] @ top)) > 0.9
    assert float((G * D).sum()) == pytest.approx(-10.7274, abs=1e-4)
    assert float((G * torch.sign(U)).sum()) > 0  # SignMuon itself descends here: the local polar step is what ascends


# The page's table ----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"


def verdicts() -> str:
    """Every preset's claims in a row each."""
    rows = ["| preset | verdict | result | measure | rate | floor | source |", "|---|---|---|---|---|---|---|"]
    for name in signa.presets.names():
        for claim in theory(signa.method(name)):
            cells = [name, claim.verdict, claim.result, claim.measure, claim.rate, claim.floor, claim.source]
            if claim.verdict != "nothing known":
                rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def test_the_pages_table_is_derived() -> None:
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table: verdicts -->\n")
    old, end, after = rest.partition("<!-- end -->")
    assert begin and end
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS"):
        PAGE.write_text(f"{before}{begin}{verdicts()}\n{end}{after}", encoding="utf-8")
    else:
        assert old.strip() == verdicts(), "SIGNA_UPDATE_SNAPSHOTS=1 rewrites the table"


def test_the_page_shows_the_witness() -> None:
    rows = [row.strip("[] ,") for row in PAGE.read_text(encoding="utf-8").partition("    G = ")[2].splitlines()[:6]]
    assert [tuple(float(x) for x in row.split(",")) for row in rows] == list(WITNESSES[2].rows)
