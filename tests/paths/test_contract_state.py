"""torch's own optimizer contract, the half that is about state: saved, loaded, copied, refused, and shown."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa import Method
from signa.errors import StateError
from tests.paths.compositions import METHODS, WORKERS, every_method, everything, start
from tests.paths.test_optimizer import build, same, states, through_a_file, train, with_zeros

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")


@every_method
def test_saved_and_loaded_it_goes_on(method: Method) -> None:
    """Through a file, into an optimizer of other numbers that has stepped, with its parameters in another order."""
    ps, opt = start(method, seed=4)
    train(opt, ps, range(3), with_zeros)
    state = through_a_file(opt.state_dict())
    assert opt.state_dict()["state"].keys() == ps.keys()
    turned = {n: nn.Parameter(ps[n].detach().clone()) for n in reversed(ps)}
    again = build(method, turned, workers=WORKERS, seed=5, lr=0.9)
    train(again, turned, range(1))
    with torch.no_grad():
        for n, p in turned.items():
            p.copy_(ps[n])
    again.load_state_dict(state)
    same(states(again), states(opt))
    train(opt, ps, range(3, 5), with_zeros)
    train(again, turned, range(3, 5), with_zeros)
    same(everything(turned, again), everything(ps, opt))
    assert again.steps == opt.steps == 5


@every_method
def test_a_state_of_another_method_is_refused_and_nothing_is_written(method: Method) -> None:
    others = [other for other in METHODS.values() if other is not method]
    other = others[len(str(method)) % len(others)]
    (ps, opt), (_, wrong) = start(method), start(other)
    before = everything(ps, opt)
    with pytest.raises(StateError, match=r"this state does not fit the optimizer:\n  groups\.0\."):
        opt.load_state_dict(wrong.state_dict())
    short = opt.state_dict()
    name = next((n for n, views in short["state"].items() if views), None)
    if name is not None:
        address = next(iter(short["state"][name]))
        short["state"][name][address] = short["state"][name][address][..., :-1]
        with pytest.raises(StateError, match=f"'{name}' {address}: .* there, .* here"):
            opt.load_state_dict(short)
    same(everything(ps, opt), before)


@every_method
def test_a_state_of_an_older_version_loads(method: Method) -> None:
    """What was added to the format since then is absent, and what a version calls itself does not matter."""
    ps, opt = start(method)
    train(opt, ps, range(2))
    old = opt.state_dict()
    old["signa"] = {key: value for key, value in old["signa"].items() if key not in ("nonfinite", "orthogonalisers")}
    old["signa"]["version"] = "0.0.1"
    for group in old["param_groups"]:
        group.pop("name", None)
    qs, again = start(method, {n: nn.Parameter(p.detach().clone()) for n, p in ps.items()})
    again.load_state_dict(old)
    train(opt, ps, [2])
    train(again, qs, [2])
    same(everything(qs, again), everything(ps, opt))


@every_method
@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_goes_its_own_way_and_as_the_original(method: Method, how: Callable[[Any], Any]) -> None:
    ps, opt = start(method)
    train(opt, ps, range(2))
    qs, twin = how((ps, opt))
    assert not {id(q) for q in qs.values()} & {id(p) for p in ps.values()}
    before = everything(ps, opt)
    train(twin, qs, range(2, 4))
    same(everything(ps, opt), before)
    train(opt, ps, range(2, 4))
    same(everything(ps, opt), everything(qs, twin))


@every_method
def test_it_says_what_it_is(method: Method) -> None:
    _, opt = start(method)
    text = repr(opt)
    assert text.startswith("SignA (") and "lr: 0.05" in text and "weight_decay: 0.1" in text
    again = signa.Spec.load(json.loads(opt.spec.dump("json")))
    assert again == opt.spec and again.id == opt.spec.id and again.groups[0].method == method
    bits = opt.bits()
    assert bits.up > 0 and bits.down > 0 and len(opt.trace()) == len(method.trace())
