"""Corners in which ranks once parted from the simulation, or from each other."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

import signa
from signa.aggregators import MajorityVote, aggregators
from signa.errors import LayoutMismatch, PeerLost, RoutingError
from tests.ranks.cases import build, loopback, normal, parameters, plain, ranks, same, step
from tests.ranks.worlds import every, world


def spectral(transport: Any, order: Sequence[int] = ()) -> Tensor:
    """A module whose forward pass reads the buffer that it writes."""
    model = nn.utils.spectral_norm(nn.Linear(6, 4))
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            value.copy_(normal(name, value.shape, dtype=torch.float32))
    opt = signa.build("adamw", model, lr=0.01, transport=transport)
    for t in range(3):
        opt.zero_grad()
        for j in order or transport.local:
            with opt.worker(j):
                model(normal("x", (5, 6), t, j, dtype=torch.float32)).square().sum().backward()
        opt.step()
    return torch.cat([model.weight_orig.detach().flatten(), model.weight_u])


def test_every_worker_begins_with_the_buffers_of_the_step_before() -> None:
    reference = spectral(signa.Loopback(3))
    assert torch.equal(spectral(signa.Loopback(3), order=[2, 1, 0]), reference)
    for found in every(world(3, lambda r, arguments: spectral(signa.Group(**arguments)))):
        assert torch.equal(found, reference)


@pytest.mark.parametrize("longer", [0, 1])
def test_a_buffer_that_grows_on_one_rank_is_refused_everywhere(longer: int) -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("cache", torch.zeros(2))
            self.register_buffer("tail", torch.zeros(3))

    def rank(r: int, arguments: dict[str, Any]) -> None:
        model, group = Net(), signa.Group(**arguments)
        signa.replicate(model, group)
        opt = signa.build("signsgd", model, lr=0.1, transport=group)
        for t in range(2):
            opt.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            model.tail += 1
            model.cache = torch.ones(5 if r == longer and t else 2)
            opt.step()

    for error in world(2, rank, timeout=4.0):
        assert isinstance(error, LayoutMismatch) and "buffer 'cache' of a Net is (" in str(error), error


def test_a_layout_without_matrices_takes_no_part() -> None:
    method = {"groups": [{"match": "*", "method": "signmuon", "lr": 0.1, "matrix": "h i -> h 1 i"}]}
    options: dict[str, Any] = {"steps": 2, "shapes": {"w": (0, 4), "v": (3, 4)}, "grad": plain}
    same(loopback(method, 2, **options), ranks(method, [1, 1], **options))


class Counting(MajorityVote):
    """Says that it counts silent messages, but would count words, which cannot say silence."""

    kind: Literal["test_counting"] = "test_counting"  # type: ignore[assignment]
    counts_silent: ClassVar[bool] = True


def test_words_are_counted_only_where_they_say_everything() -> None:
    def one_speaks(name: str, p: Tensor, t: int, j: int) -> Tensor:
        return -plain(name, p, t, j).abs() if j == 0 else torch.zeros_like(p)

    aggregators.register(Counting)
    try:
        method = {"groups": [{"lr": 0.1, "worker": [], "up": "sign", "aggregate": "test_counting"}]}
        options: dict[str, Any] = {"steps": 1, "shapes": {"w": (3, 5)}, "grad": one_speaks}
        same(loopback(method, 3, **options), ranks(method, [1, 1, 1], **options))
    finally:
        aggregators.unregister("test_counting")


def test_an_error_that_everybody_has_poisons_nobody() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> list[str]:
        group = signa.Group(**arguments)
        narrow = {"groups": [{"match": "b", "method": "adamw", "lr": 0.1}]}
        with pytest.raises(RoutingError, match="no group takes parameter 'a'"):
            build(narrow, parameters(shapes={"a": (3, 3), "b": (2, 2)}), group)
        ps = parameters(shapes={"b": (2, 2)})
        opt = build(narrow, ps, group)
        step(opt, ps, 0, plain)
        return [str(opt.steps)]

    assert every(world(2, rank)) == [["1"], ["1"]]


def test_an_error_that_one_rank_has_is_told_to_all() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        narrow = {"groups": [{"match": "b", "method": "adamw", "lr": 0.1}]}
        build(narrow, parameters(shapes={"a": (3, 3), "b": (2, 2)} if r else {"b": (2, 2)}), signa.Group(**arguments))

    for error in world(2, rank, timeout=4.0):
        assert isinstance(error, LayoutMismatch) and "no group takes parameter 'a'" in str(error), error


def test_rank_0_may_take_longer_than_the_timeout() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> str:
        def act() -> str:
            time.sleep(1.2)
            return "done"

        told = signa.Group(**arguments).ranks.together(act if r == 0 else lambda: "-", "a long evaluation")
        return told[0]

    assert every(world(3, rank, timeout=0.5)) == ["done"] * 3


class SlowOnce:
    """A store that answers one question late."""

    def __init__(self, store: Any) -> None:
        self.store, self.slow = store, True

    def check(self, keys: list[str]) -> bool:
        if self.slow:
            self.slow = False
            time.sleep(1.5)
        return self.store.check(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_a_store_that_was_slow_once_is_asked_again() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> Any:
        ps = parameters(shapes={"w": (3, 3)})
        store = arguments.pop("store")
        group = signa.Group(**arguments, store=SlowOnce(store) if r == 0 else store)
        opt = build({"groups": [{"method": "signsgd", "lr": 0.1}]}, ps, group)
        ps["w"].grad = torch.ones(3, 3)
        if r == 1:
            time.sleep(2.0)  # the other waits, and asks the store
        opt.step()
        if r == 1:
            group.fail(ValueError("boom"), 1)
            return None
        begun = time.monotonic()
        with pytest.raises(PeerLost, match="rank 1 stopped: ValueError: boom"):
            opt.step()
        return time.monotonic() - begun

    assert every(world(2, rank, timeout=8.0))[0] < 4


def test_a_group_keeps_no_optimizer_alive() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> bool:
        group, ps = signa.Group(**arguments), parameters(shapes={"w": (65, 33)})
        opt = build({"groups": [{"method": "adamw", "lr": 0.1}]}, ps, group)
        step(opt, ps, 0, plain)
        bucket = weakref.ref(opt._engine.buckets[0])
        del opt
        gc.collect()
        return bucket() is None and "65" not in repr(group)

    assert every(world(2, rank)) == [True, True]


def test_what_is_no_transport_is_named() -> None:
    model = nn.Linear(3, 2)
    for wrong in (signa.Group, signa.Loopback, "group", 4):
        with pytest.raises(
            TypeError, match=r"transport must be signa\.Loopback\(5\) or signa\.Group\(\), with parenth"
        ):
            signa.build("signmuon", model, transport=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"replicate takes a model and a signa\.Group, got a Linear and a Loopback"):
        signa.replicate(model, signa.Loopback(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="in this order, got a Linear and an AdamW"):
        signa.save_checkpoint("x", model, torch.optim.AdamW(model.parameters()))  # type: ignore[arg-type]


def test_a_wrong_argument_of_a_checkpoint_poisons_nobody(tmp_path: Any) -> None:
    def rank(r: int, arguments: dict[str, Any]) -> int:
        ps = parameters(shapes={"a": (3, 3)})
        model = nn.ParameterDict(ps)
        opt = build({"groups": [{"method": "signmuon", "lr": 0.1}]}, ps, signa.Group(**arguments))
        with pytest.raises(ValueError, match="keep must be an integer from 1 on"):
            signa.save_checkpoint(tmp_path, model, opt, keep=0)
        with pytest.raises(ValueError, match="on_world_change must be one of"):
            signa.load_checkpoint(tmp_path, model, opt, on_world_change="meen")  # type: ignore[arg-type]
        step(opt, ps, 0, plain)
        return opt.steps

    assert every(world(2, rank)) == [1, 1]
