"""What somebody new tries first: names spelled as classes are, arguments in the other order, a sentence in Python."""

from __future__ import annotations

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
