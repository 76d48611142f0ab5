"""What is measured inside a step, against numbers made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import signa
from signa.lab.diagnostics import Diagnostics

Matrix = NDArray[np.float64]

G = np.array([[3.0, -4.0, 0.5], [1.0, 2.0, -6.0]])

POLAR = {"kind": "spectral", "schedule": "exact"}
MOMENTUM = {"kind": "momentum", "beta": 0.5}
VOTE = {"up": "sign", "aggregate": "majority_vote"}
EF21 = {"worker": [MOMENTUM], "up": "ef21(scaled_sign)"}
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {"worker": [MOMENTUM]},
    "signsgd": {"worker": [MOMENTUM], **VOTE},
    "muon": {"worker": [MOMENTUM], "server": [POLAR]},
    "signmuon": {"worker": [MOMENTUM, POLAR], **VOTE},
    "muonusign": {"worker": [MOMENTUM], **VOTE, "server": [POLAR]},
    "muonsign": {"worker": [MOMENTUM], **VOTE, "server": [POLAR], "down": "sign"},
    "ef21muonusign": {**EF21, "server": [POLAR]},
    "ef21muonsign": {**EF21, "server": [POLAR, "step"], "down": "ef21(scaled_sign)", "replica": []},
}


def layer(rows: int = 2, columns: int = 3) -> nn.Linear:
    made = nn.Linear(columns, rows, bias=False, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(torch.linspace(-1, 1, rows * columns, dtype=torch.float64).view(rows, columns))
    return made


def built(method: str, model: nn.Module, workers: int = 1, **fields: Any) -> signa.SignA:
    group = {"match": "*", "lr": 0.1, **METHODS[method], **fields}
    return signa.build({"groups": [group]}, model, transport=signa.Loopback(workers))


def step(diagnostics: Diagnostics, *gradients: Matrix, each: bool = False) -> dict[str, float]:
    """One step with these workers' gradients of the first parameter (and 1 for every other)."""
    opt = diagnostics.optimizer
    first, *others = [route.named.parameter for route in opt.routing]
    for worker, gradient in enumerate(gradients):
        with opt.worker(worker):
            loss = (first * torch.from_numpy(gradient).to(first)).sum() + sum(p.sum() for p in others)
            loss.backward()
    with diagnostics:
        opt.step()
    opt.zero_grad()
    return diagnostics.record(each=each)


def polar(x: Matrix) -> Matrix:
    u, s, v = np.linalg.svd(x, full_matrices=False)
    kept = s > 1e-9 * s[0]
    return u[:, kept] @ v[kept]


def size(x: Matrix) -> float:
    return float(np.linalg.norm(x))


def cosine(a: Matrix, b: Matrix) -> float:
    return float((a * b).sum()) / (size(a) * size(b))


def scaled_sign(x: Matrix) -> Matrix:
    return np.abs(x).mean() * np.sign(x)


@pytest.mark.parametrize(
    ("method", "lam", "direction"),
    [
        ("sgd", 1.0, lambda g: g / 2),
        ("signsgd", 3**-0.5, np.sign),
        ("muon", 1.0, polar),
        ("signmuon", 3**-0.5, lambda g: np.sign(polar(g))),
        ("muonusign", 1.0, lambda g: polar(np.sign(g))),
        ("muonsign", 3**-0.5, lambda g: np.sign(polar(np.sign(g)))),
    ],
)
def test_alignment_gain_and_update_of_a_first_step(
    method: str, lam: float, direction: Callable[[Matrix], Matrix]
) -> None:
    """lam = sqrt(m) / nominal norm: sqrt(2) / sqrt(6) for signs, sqrt(2) / sqrt(2) for a polar factor."""
    found, d = step(Diagnostics(built(method, layer())), G), direction(G)
    assert found["gain"] == pytest.approx(lam * size(d) / math.sqrt(2), rel=1e-9)
    assert found["update_rms"] == pytest.approx(0.1 * lam * size(d) / math.sqrt(6), rel=1e-9)
    assert found["gain_spread"] == 1.0


def test_closed_forms_of_the_alignment_at_the_start() -> None:
    """SGD 1, SignSGD |G|_1 / (|G|_F sqrt(m n)), Muon |G|_* / (|G|_F sqrt(r))."""
    entries, spectrum = np.abs(G).sum(), np.linalg.norm(G, "nuc")
    for method, rho in (
        ("sgd", 1.0),
        ("signsgd", entries / (size(G) * math.sqrt(6))),
        ("muon", spectrum / (size(G) * math.sqrt(2))),
    ):
        assert step(Diagnostics(built(method, layer())), G)["rho"] == pytest.approx(rho, rel=1e-9), method


@pytest.mark.parametrize("method", ["ef21muonusign", "ef21muonsign"])
def test_the_channels_of_ef21_over_three_steps(method: str) -> None:
    """Both senders and the receiver done again in numpy, two workers, the second behind the first."""
    model = layer()
    diagnostics = Diagnostics(built(method, model, workers=2))
    x = model.weight.detach().numpy().copy()
    w, last = x.copy(), np.zeros((2, 3))
    m, h = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    draw = np.random.default_rng(0)
    for number in range(3):
        workers = list(draw.standard_normal((2, 2, 3)))
        found = step(diagnostics, *workers)
        contraction, kept, lag = [], [], []
        for j, gradient in enumerate(workers):
            m[j] = 0.5 * m[j] + 0.5 * gradient
            r = m[j] - h[j]
            h[j] += scaled_sign(r)
            contraction.append(np.abs(r).sum() ** 2 / (6 * size(r) ** 2))
            kept.append(1 - size(scaled_sign(r) - r) ** 2 / size(r) ** 2)
            lag.append(size(m[j] - h[j]) / size(m[j]))
        d = polar(h.mean(0))
        x -= 0.1 * d
        expected = {
            "rho": cosine((workers[0] + workers[1]) / 2, d),
            "gain": 1.0,
            "update_rms": 0.1 * math.sqrt(2 / 6),
            "up_contraction": np.mean(contraction),
            "up_kept": np.mean(kept),
            "up_lag": np.mean(lag),
            "up_zero_rate": 0.0,
        }
        if number:
            expected["sign_flips"] = float((np.sign(d) != np.sign(last)).mean())
        if method == "ef21muonsign":
            r = x - w
            w += scaled_sign(r)
            expected |= {
                "down_contraction": np.abs(r).sum() ** 2 / (6 * size(r) ** 2),
                "down_kept": 1 - size(scaled_sign(r) - r) ** 2 / size(r) ** 2,
                "down_lag": size(x - w) / size(x),
                "down_zero_rate": 0.0,
                "gap": size(x - w) / size(w),
            }
            np.testing.assert_allclose(model.weight.detach().numpy(), w, atol=1e-12)
        middles = {k: v for k, v in found.items() if not k.endswith(("_min", "_max", "_spread"))}
        assert middles == pytest.approx(expected, rel=1e-7)  # shares are float32
        # what scaled_sign keeps is what its law says
        assert found["up_kept"] == pytest.approx(found["up_contraction"], rel=1e-9)
        last = d


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
def test_zeros_at_the_uplink_and_ties_of_the_vote() -> None:
    """Two workers: entries 0 and 1 agree, 2 and 3 cancel, 4 and 5 are zero at one of them."""
    a, b = np.array([[1.0, -1, 1, 2, 0, 0]]), np.array([[2.0, -3, -1, -5, 1, 1]])
    opt = built("signsgd", layer(1, 6), workers=2, worker=[], up={"sign": {"zeros": "keep"}})
    found = step(Diagnostics(opt), a, b)
    assert found["up_zero_rate"] == pytest.approx((2 / 6 + 0) / 2)
    assert found["tie_rate"] == pytest.approx(2 / 6)  # a kept zero abstains: one vote is no tie
    assert step(Diagnostics(opt), a, -a)["tie_rate"] == 1.0


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
def test_a_matrix_that_nobody_votes_on_has_no_ties() -> None:
    found = step(Diagnostics(built("signsgd", layer(), workers=2)), 0 * G, 0 * G)
    assert "tie_rate" not in found and found["up_zero_rate"] == 1.0
    assert "rho" not in found and found["gain"] == 0.0 and "gain_spread" not in found


def test_what_a_method_does_not_have_is_left_out() -> None:
    found = step(Diagnostics(built("muon", layer())), G)
    assert set(found) == {f"{q}{end}" for q in ("rho", "gain", "update_rms") for end in ("", "_min", "_max")} | {
        "gain_spread"
    }
    kept = step(Diagnostics(built("sgd", layer(), up="ef14(scaled_sign)")), G)
    assert {"up_contraction", "up_kept"} <= set(kept) and "up_lag" not in kept


def test_sign_flips_are_between_consecutive_steps_whatever_is_measured() -> None:
    up, turned = np.ones((2, 3)), -np.ones((2, 3))
    turned[0, 0] = 1.0
    diagnostics = Diagnostics(built("signsgd", layer(), worker=[]), every=3)
    found = [step(diagnostics, g) for g in (turned, up, turned, up, turned, turned)]
    assert [bool(f) for f in found] == [False, False, True, False, False, True]
    assert [f["sign_flips"] for f in found if f] == [pytest.approx(5 / 6), 0.0]
    with pytest.raises(KeyError):
        step(Diagnostics(diagnostics.optimizer), up)["sign_flips"]


def test_nothing_is_measured_every_zero_steps() -> None:
    assert step(Diagnostics(built("signsgd", layer()), every=0), G) == {}


def test_middles_extremes_and_names_over_layers() -> None:
    model = nn.Sequential(layer(2, 3), layer(2, 3), layer(4, 2))
    found = step(Diagnostics(built("sgd", model, worker=[])), G, each=True)
    gains = [size(G) / math.sqrt(2), math.sqrt(6) / math.sqrt(2), math.sqrt(8) / math.sqrt(4)]
    assert found["gain"] == pytest.approx(gains[1])
    assert (found["gain_min"], found["gain_max"]) == pytest.approx((gains[2], gains[0]))
    assert found["gain_spread"] == pytest.approx(gains[0] / gains[2])
    assert [found[f"gain/{i}.weight"] for i in range(3)] == pytest.approx(gains)


def test_a_pattern_of_several_matrices_measures_each() -> None:
    opt = built("muon", layer(4, 3), matrix="(two h) d -> two h d", sizes={"two": 2})
    g = np.concatenate([G, 10 * np.abs(G)])
    found = step(Diagnostics(opt), g, each=True)
    for b in range(2):
        half = g[2 * b : 2 * b + 2]
        assert found[f"rho/weight[{b}]"] == pytest.approx(cosine(half, polar(half)), rel=1e-9)


def test_auxiliary_groups_are_left_out_unless_there_is_no_other() -> None:
    model = nn.Sequential(layer(), layer())
    groups = [{"match": "0.*", "lr": 0.1, **METHODS["muon"]}, {"match": "*", "method": "adamw", "lr": 1.0}]
    found = step(Diagnostics(signa.build({"groups": groups}, model)), G, each=True)
    assert "rho/0.weight" in found and "rho/1.weight" not in found
    assert "rho/1.weight" in step(Diagnostics(signa.build({"groups": groups[1:]}, model)), G, each=True)


def test_shares_are_of_all_entries() -> None:
    """One zero of 6 entries in a layer, none of 2 in the other."""
    model, g = nn.Sequential(layer(), layer(1, 2)), G.copy()
    g[0, 0] = 0.0
    found = step(Diagnostics(built("signsgd", model)), g)
    assert found["up_zero_rate"] == pytest.approx(1 / 8) and found["up_zero_rate_max"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("method", METHODS)
def test_a_measured_run_is_the_same_run(method: str) -> None:
    """Bit for bit, with a worker that is away now and then, zeros (so coins are tossed), and odd shapes."""

    def run(every: int) -> list[torch.Tensor]:
        model = nn.Sequential(layer(5, 3), layer(2, 7), layer(5, 3))
        opt = built(method, model, workers=3, weight_decay=0.1)
        diagnostics = Diagnostics(opt, every=every)
        draw = torch.Generator().manual_seed(5)
        for number in range(4):
            for worker in range(3 if number != 2 else 2):
                with opt.worker(worker):
                    for p in model.parameters():
                        p.grad = torch.randint(-1, 2, p.shape, generator=draw).to(p)
            with diagnostics:
                opt.step()
            opt.zero_grad()
            assert bool(diagnostics.record()) == bool(every and (number + 1) % every == 0)
        return [p.detach() for p in model.parameters()] + [t for s in opt.state.values() for t in s.values()]

    plain = run(0)
    for every in (1, 3):
        assert all(torch.equal(a, b) for a, b in zip(plain, run(every), strict=True))


def test_values_that_need_every_worker_are_left_out_where_some_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = built("signsgd", layer())
    monkeypatch.setattr(type(opt.transport), "workers", property(lambda self: 2))
    found = step(Diagnostics(opt), G)
    assert not {"rho", "tie_rate"} & set(found) and {"gain", "up_zero_rate"} <= set(found)


def test_a_probe_is_gone_behind_its_block_and_behind_an_error() -> None:
    opt, seen = built("signsgd", layer()), []
    diagnostics = Diagnostics(opt)
    with pytest.raises(ZeroDivisionError), diagnostics:
        raise ZeroDivisionError
    with opt.probe(lambda sight: seen.append("outer")):
        with opt.probe(lambda sight: seen.append(sight.address)):
            step(Diagnostics(opt, every=0), G)
        assert seen[0] == "gradient" and "outer" not in seen
        count = len(seen)
        step(Diagnostics(opt, every=0), G)
        assert seen[count:] == ["outer"] * count
    step(Diagnostics(opt, every=0), G)
    assert len(seen) == 2 * count
