"""What somebody new tries first: names spelled as classes are, arguments in the other order, a sentence in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn, optim

import signa
from signa.commands.common import counted
from signa.errors import SpecError
from tests.cli.terminal import Terminal


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("typed", "write"),
    [
        ("MyStage", "my_stage"),
        ("My-Stage", "my_stage"),
        ("topRows2D", "top_rows2_d"),
        ("my stage", "my_stage"),
        ("2fast", "it in small letters, digits and _"),
        ("Lambda", "it in small letters, digits and _"),
        ("...", "it in small letters, digits and _"),
    ],
)
def test_a_name_in_another_spelling_is_told_ours(typed: str, write: str, run: Terminal) -> None:
    said = " ".join(run("new", "stage", typed, code=2).split())
    assert f"'{typed}' is no name for specs: write {write}" in said
    assert not list(Path().glob("*.py"))


def test_one_is_one(run: Terminal) -> None:
    Path("one.yaml").write_text("groups: [{match: '*', method: signsgd, lr: 0.1}]\n")
    assert ", 1 group (0)" in run("check", "one.yaml")
    Path("two.yaml").write_text("groups: [{match: 'a*', method: sgd, lr: 0.1}, {match: '*', method: sgd, lr: 0.1}]\n")
    assert ", 2 groups (0, 1)" in run("check", "two.yaml")
    assert [counted(number, "arm") for number in (0, 1, 2)] == ["0 arms", "1 arm", "2 arms"]


def test_the_model_in_the_spec_s_place_is_told_the_call(net: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        signa.build(net, "signmuon")  # type: ignore[arg-type]
    assert str(caught.value) == "a Sequential is a model and no spec\n  instead: write signa.build(spec, model)"
    with pytest.raises(SpecError, match=r"write signa\.param_groups\(model, spec\)"):
        signa.param_groups("signmuon", net)  # type: ignore[arg-type]


def test_groups_for_another_optimizer_take_a_rate(net: nn.Sequential) -> None:
    """A Method has none of its own, so without the argument there was no way to give one."""
    mine = signa.method("signmuon", worker=[{"momentum": {"beta": 0.5}}, "spectral"])
    for what in ("muon", mine, "momentum(beta=0.5) spectral | sign | majority_vote"):
        matrices, rest = signa.param_groups(net, what, lr=0.125)
        assert (matrices["lr"], rest["lr"]) == (0.125, 3e-4)
        assert matrices["signa_names"] == ["0.weight", "1.weight"]
    assert optim.SGD([matrices, rest]).param_groups[0]["lr"] == 0.125
    with pytest.raises(SpecError, match="a Method needs a learning rate"):
        signa.param_groups(net, mine)
    with pytest.raises(SpecError, match="lr does not go with a spec"):
        signa.param_groups(net, {"groups": [{"match": "*", "method": "muon", "lr": 0.1}]}, lr=0.1)


def test_python_takes_a_sentence_as_the_command_line_does(net: nn.Sequential) -> None:
    sentence = "momentum(beta=0.5) spectral | sign | majority_vote"
    opt = signa.build(sentence, net, lr=0.25, transport=signa.Loopback(3))
    by_hand = signa.build(signa.written.read_method(sentence), net, lr=0.25, transport=signa.Loopback(3))
    assert opt.spec == by_hand.spec and opt.spec.id == by_hand.spec.id
    assert opt.param_groups[0]["lr"] == 0.25
    with pytest.raises(SpecError, match="a Method needs a learning rate"):
        signa.build(sentence, net)
    with pytest.raises(SpecError, match="unknown stage 'momentun'"):
        signa.build("momentun | sign | mean", net, lr=0.1)


def test_a_plugin_that_registers_nothing_has_not_passed(run: Terminal) -> None:
    Path("idle.py").write_text("import signa\n\nclass Idle(signa.LMO):\n    pass\n")
    said = " ".join(run("check", "--plugin", "idle.py", code=2).split())
    assert "idle.py: no component is registered there" in said
    assert "instead: put @signa.lmos.register, or that of another sort, above the class" in said
    assert not json.loads(run("check", "--plugin", "idle.py", "--json", code=2))["ok"]


SLIP = """
from typing import Literal
import torch
import signa
@signa.lmos.register
class Slip(signa.LMO):
    kind: Literal["slip"] = "slip"
    def direction(self, g): {direction}
    def norm(self, x): return x.abs().amax((-2, -1))
"""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            SLIP.format(direction="return torch.sing(g)"),
            "'torch' has no attribute 'sing', at {here}/slip.py:8: def dir",
        ),
        (SLIP.replace("direction(", "go("), "slip (lmos): lacks direction: write it"),
        ("import signa\n\nsigna.lmos.registre\n", "error: slip.py:3:1: the plug-in failed: AttributeError"),
    ],
    ids=["within a law", "abstract", "while it loads"],
)
def test_a_slip_in_a_plugin_is_told_with_its_place(written: str, told: str, run: Terminal) -> None:
    Path("slip.py").write_text(written)
    try:
        assert told.format(here=Path.cwd().resolve()) in run("check", "--plugin", "slip.py", code=2)
    finally:
        if "slip" in signa.lmos.names():
            signa.lmos.unregister("slip")
