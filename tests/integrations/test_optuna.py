"""Optuna draws values of a spec, and its best parameters are addresses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import signa
from signa.errors import SpecError
from signa.integrations.optuna import suggest
from tests.integrations.common import SPEC, batches, needs, network

optuna = needs("optuna")

SPACE = {
    "groups.matrices.lr": {"low": 1e-3, "high": 1.0, "log": True},
    "groups.matrices.weight_decay": {"low": 0.0, "high": 0.2, "step": 0.1},
    "groups.matrices.method": ["signmuon", "muon"],
    "groups.matrices.worker.momentum.beta": [0.5, 0.9],
    "groups.rest.matrix": ["", "o -> o 1"],
}


def base() -> signa.Spec:
    return signa.Spec.load(SPEC)


def test_a_study_finds_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real study; what it says is best is a spec again, by its addresses."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tried: list[signa.Spec] = []

    def objective(trial: optuna.Trial) -> float:
        spec = suggest(trial, base(), SPACE)
        tried.append(spec)
        model = network()
        opt = signa.build(spec, model)
        for x, y in batches(5):
            loss = nn.functional.mse_loss(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        return float(loss.detach())

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=12)
    best = base().replace(study.best_params)
    assert best == tried[study.best_trial.number]
    assert study.best_params.keys() == SPACE.keys()
    groups = [spec.groups[0] for spec in tried]
    assert {str(group.method.up.compressor) for group in groups} == {"sign", "identity"}
    assert {group.method.worker[0].beta for group in groups} == {0.5, 0.9}
    assert {round(group.weight_decay, 6) for group in groups} <= {0.0, 0.1, 0.2}
    rates = [group.lr for group in groups]
    assert all(1e-3 <= rate <= 1.0 for rate in rates) and sum(rate < 0.03 for rate in rates) >= 3  # even in the log


def test_every_field_of_a_range_counts() -> None:
    distributions = optuna.distributions

    def asked(values: object) -> object:
        trial = optuna.create_study().ask()
        suggest(trial, base(), {"groups.rest.lr": values})
        return trial.distributions["groups.rest.lr"]

    assert asked({"low": 0.1, "high": 0.5}) == distributions.FloatDistribution(0.1, 0.5)
    assert asked({"low": 0.1, "high": 0.5, "log": True}) == distributions.FloatDistribution(0.1, 0.5, log=True)
    assert asked({"low": 0.1, "high": 0.5, "step": 0.2}) == distributions.FloatDistribution(0.1, 0.5, step=0.2)
    assert asked([0.1, 0.2]) == distributions.CategoricalDistribution([0.1, 0.2])
    trial = optuna.create_study().ask()
    cut = signa.Spec.load({"groups": [SPEC["groups"][0] | {"matrix": "(a o) i -> a o i", "sizes": {"a": 1}}]})
    suggest(trial, cut, {"groups.matrices.sizes.a": {"low": 2, "high": 6, "step": 2}})
    assert trial.distributions["groups.matrices.sizes.a"] == distributions.IntDistribution(2, 6, step=2)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"groups.matrices.lr": 0.1}, r"groups.matrices.lr: 0.1 is no space\n  instead: write a list of choices, or"),
        ({"groups.matrices.lr": []}, r"\[\] is no space"),
        ({"groups.matrices.lr": {"low": 0.1}}, "the range has no 'high'"),
        ({"groups.matrices.lr": {"low": 0.1, "hihg": 1}}, r"a range has no 'hihg'\n  instead: did you mean 'high'"),
        ({"groups.matrices.worker": [["momentum"], "spectral"]}, r"a choice is a name.*not \['momentum'\]"),
        ({"groups.matrices.rate": [0.1]}, "rate"),
        ({"groups.nobody.lr": [0.1]}, "nothing is called 'nobody' here"),
        ({"groups.matrices.lr": ["fast"]}, "groups.matrices.lr: expected a number, got 'fast'"),
    ],
)
def test_what_is_no_space_is_refused(space: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        suggest(optuna.create_study().ask(), base(), space)


def test_a_preset_by_name_has_its_groups_names() -> None:
    trial = optuna.trial.FixedTrial({"groups.signmuon.lr": 0.125})
    spec = suggest(trial, "signmuon", {"groups.signmuon.lr": {"low": 0.1, "high": 0.2}})
    assert [group["lr"] for group in signa.param_groups(torch.nn.Linear(2, 2), spec)] == [0.125, 3e-4]
