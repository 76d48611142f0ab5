"""Hydra and OmegaConf: their containers are specs, their instantiate() calls signa.build, errors name the place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import signa
from signa.errors import SpecError
from tests.integrations.common import SPEC, needs, network, same_state

hydra, omegaconf = needs("hydra"), needs("omegaconf")
instantiate = needs("hydra.utils").instantiate
OmegaConf = omegaconf.OmegaConf

CONFIG = """
width: 3
rate: 0.02
rest: ${oc.dict.keys:rates}
rates: {adamw: 1.0e-3}
optimizer:
  groups:
    - name: matrices
      match: ["0.*", "2.*"]
      ndim: 2
      method: {method: signmuon, worker: [{momentum: {beta: 0.9}}, spectral]}
      lr: ${rate}
      matrix: (a b) i -> a b i
      sizes: {a: 1}
    - {name: rest, match: ["*"], method: "${rest.0}", lr: "${rates.adamw}"}
"""


def config() -> omegaconf.DictConfig:
    return OmegaConf.create(CONFIG)


def test_a_config_is_a_spec() -> None:
    """With lists, nested mappings and interpolations; the id is that of the same data written out."""
    cfg = config()
    plain = OmegaConf.to_container(cfg, resolve=True)["optimizer"]
    assert type(plain["groups"]) is list and plain["groups"][1] == {
        "name": "rest", "match": ["*"], "method": "adamw", "lr": 1e-3,
    }  # fmt: skip
    wanted = signa.Spec.load(plain)
    assert signa.Spec.load(cfg.optimizer) == wanted and signa.Spec.load(cfg.optimizer).id == wanted.id
    assert signa.Spec(groups=cfg.optimizer.groups) == wanted
    assert signa.Spec(**cfg.optimizer) == wanted
    assert signa.ParamGroup(**cfg.optimizer.groups[0]) == wanted.groups[0]
    assert signa.build(cfg.optimizer, network()).spec == wanted
    assert [group["lr"] for group in signa.param_groups(network(), cfg.optimizer)] == [0.02, 1e-3]
    assert wanted.groups[0].method.worker[0].beta == 0.9 and wanted.groups[0].sizes == {"a": 1}


def test_changes_may_be_containers() -> None:
    cfg = OmegaConf.create({"worker": ["momentum", {"normalise": {"per": "neuron"}}], "match": ["0.*"]})
    changes = {"groups.matrices.worker": cfg.worker, "groups.matrices.match": cfg.match}
    spec = signa.Spec.load(SPEC | {"groups": [SPEC["groups"][0] | {"method": "nsgd"}, SPEC["groups"][1]]})
    group = spec.replace(changes).groups[0]
    assert [stage.kind for stage in group.method.worker] == ["momentum", "normalise"] and group.match == ("0.*",)
    assert spec.replace(OmegaConf.create({"groups.rest.lr": 0.5})).groups[1].lr == 0.5


@pytest.mark.parametrize(
    ("address", "value", "said"),
    [
        ("groups.0.lr", "fast", "groups.matrices.lr: expected a number, got 'fast'"),
        ("groups.0.lr", "???", r"groups.0.lr: this value cannot be read\n  because: Missing mandatory value: .*lr"),
        (
            "groups.1.lr",
            "${nowhere}",
            r"groups.1.lr: this value cannot be read\n  because: Interpolation key 'nowhere'",
        ),
        ("groups.0.method.worker.0.momentum.beta", 2.0, r"groups.matrices.worker.momentum.beta: expected a number < 1"),
        ("groups.0.sizes.a", 0, r"groups.matrices.sizes.a: expected a number > 0|groups.matrices.sizes.a: .*>= 1"),
        ("groups.0.method.wroker", ["spectral"], "unknown key 'wroker'"),
    ],
)
def test_errors_name_the_place(address: str, value: object, said: str) -> None:
    cfg = config()
    OmegaConf.update(cfg.optimizer, address.replace("groups.", "groups.", 1), value, force_add=True)
    with pytest.raises(SpecError, match=said):
        signa.Spec.load(cfg.optimizer)


def test_every_value_that_cannot_be_read_is_named() -> None:
    cfg = config()
    cfg.optimizer.groups[0].lr = "${nowhere}"
    cfg.optimizer.groups[1].method = "???"
    with pytest.raises(SpecError) as caught:
        signa.Spec.load(cfg.optimizer)
    assert [problem.address for problem in caught.value.problems] == ["groups.0.lr", "groups.1.method"]
    with pytest.raises(SpecError, match=r"groups\.1\.method: this value cannot be read"):
        signa.Spec(groups=[OmegaConf.create(SPEC)["groups"][0], cfg.optimizer.groups[1]])


def test_instantiate_builds() -> None:
    """``_target_: signa.build`` with the model at the call; the optimizer's parameters are the model's own."""
    cfg = OmegaConf.create({"_target_": "signa.build", "spec": SPEC, "seed": 7, "nonfinite": "skip"})
    model = network()
    opt = instantiate(cfg, model=model)
    assert isinstance(opt, signa.SignA) and opt.seed == 7 and opt.nonfinite == "skip"
    assert same_state(opt, signa.build(SPEC, network(), seed=7))
    owned = {id(p) for group in opt.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.parameters()}


def test_instantiate_in_its_other_ways() -> None:
    """A partial that is given the model later, a preset's name, a transport that is instantiated on the way."""
    cfg = OmegaConf.create({
        "rate": 0.5,
        "opt": {
            "_target_": "signa.build", "_partial_": True, "spec": "signmuon", "lr": "${rate}",
            "transport": {"_target_": "signa.Loopback", "workers": 3},
        },
    })  # fmt: skip
    model = network()
    opt = instantiate(cfg.opt)(model=model)
    assert opt.transport.workers == 3 and opt.param_groups[0]["lr"] == 0.5
    groups = instantiate(OmegaConf.create({"_target_": "signa.param_groups", "spec": SPEC}), model=model)
    assert groups[0]["params"][0] is model[0].weight
    spec = instantiate(OmegaConf.create({"_target_": "signa.Spec.load", "source": SPEC}))
    assert spec == signa.Spec.load(SPEC)


def test_composed_by_hydra(tmp_path: Path) -> None:
    """A config group on the disc, an override as on a command line, and a step."""
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "config.yaml").write_text("defaults: [optimizer: signs, _self_]\nrate: 0.02\n")
    text = "_target_: signa.build\nspec:\n  groups:\n    - {match: ['*'], method: signsgd, lr: '${rate}'}\n"
    (tmp_path / "optimizer" / "signs.yaml").write_text(text)
    with hydra.initialize_config_dir(str(tmp_path), version_base=None):
        cfg = hydra.compose("config", overrides=["rate=0.25", "optimizer.spec.groups.0.method=sgd"])
    model = nn.Linear(2, 1, bias=False)
    opt = instantiate(cfg.optimizer, model=model)
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones(1, 2)
    opt.step()
    assert torch.equal(model.weight, before - 0.25)


def test_the_core_does_not_import_them() -> None:
    code = "import sys, signa; signa.Spec.load({'groups': [{'match': '*', 'method': 'sgd', 'lr': 1}]}); signa.build; "
    code += "sys.exit(bool({'omegaconf', 'hydra'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
