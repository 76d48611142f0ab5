"""Refusals and corners that no other test goes through; ``run.py coverage`` found them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa import linalg, presets
from signa.checkpoints.plain import plain
from signa.checkpoints.world import _reason
from signa.codec import Dense
from signa.compressors import Compressor, compressors
from signa.errors import GradientError, RegistryError, RoutingError, SpecError, UnsupportedParameter
from signa.lmo import lmos
from signa.ordinary import ordinary
from signa.scratch import Scratch
from signa.theory.shape import shape_of
from signa.transport.gauge import in_threads
from signa.transport.launch import join, process_group_of
from signa.transport.matrices import Matrices

ALL = {"groups": [{"match": "*", "method": "signsgd", "lr": 0.1}]}


def pairs(**parameters: Any) -> list[tuple[str, Any]]:
    return list(parameters.items())


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(*shape))


# ---- what an optimizer is built of


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"nonfinite": "hope"}, ValueError, "nonfinite must be one of .*abstain.*, got 'hope'"),
        ({"seed": 1.5}, TypeError, "the seed must be an integer, got 1.5"),
        ({"seed": True}, TypeError, "the seed must be an integer, got True"),
    ],
)
def test_a_setting_that_is_none_is_refused(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        signa.build(ALL, nn.Linear(2, 2), **given)


@pytest.mark.parametrize("workers", [0, -1, 2.0, True, "3"])
def test_a_loopback_of_no_workers_is_refused(workers: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one worker, got .*: write Loopback"):
        signa.Loopback(workers)


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        ([weight(2, 2)], RoutingError, "SignA routes by name: pass the model, or model.named_parameters"),
        (pairs(w=[1.0, 2.0]), UnsupportedParameter, "parameter 'w' is no tensor: pass"),
        ([("w", weight(2, 2)), ("w", weight(2, 2))], RoutingError, "two parameters are called w"),
        (pairs(w=weight(2, 2).requires_grad_(False)), RoutingError, "nothing to optimize: no parameter requires"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, error: type[Exception], says: str) -> None:
    spec = {"groups": [{**ALL["groups"][0], "optional": True}]}
    with pytest.raises(error, match=says):
        signa.build(spec, model, transport=signa.Loopback())


def test_a_learning_rate_beside_a_spec_is_refused_and_a_method_needs_one() -> None:
    with pytest.raises(SpecError, match=r"lr does not go with a spec[\s\S]*set groups.N.lr in the spec"):
        signa.build(ALL, nn.Linear(2, 2), lr=0.1)
    with pytest.raises(SpecError, match=r"a Method needs a learning rate[\s\S]*pass lr=0.02"):
        signa.build(presets.get("signsgd").method, nn.Linear(2, 2))


def test_an_error_in_a_closure_comes_as_it_is_and_the_optimizer_goes_on() -> None:
    w = weight(2, 2)
    opt = signa.build("sgd", pairs(w=w), lr=0.1, transport=signa.Loopback())

    def closure() -> float:
        raise KeyError("no such batch")

    with pytest.raises(KeyError, match="no such batch"):
        opt.step(closure)
    w.grad = torch.ones(2, 2)
    opt.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), 0.9))


# ---- registries


def test_a_registry_takes_classes_that_have_a_name() -> None:
    with pytest.raises(RegistryError, match=r"is not an LMO: derive from it"):
        lmos.register(int)  # type: ignore[type-var]
    with pytest.raises(RegistryError, match=r'Nameless has no name: give it a field kind: Literal\["name"\]'):
        compressors.register(type("Nameless", (Compressor,), {"__annotations__": {"kind": str}, "kind": "two words"}))


def test_a_part_of_another_registry_is_refused_with_where_it_belongs() -> None:
    with pytest.raises(SpecError, match=r"aggregate: 'sign' is not a[\s\S]*is a compressor, for up.compressor"):
        signa.Method(aggregate=compressors.get("sign")())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{"spectral": 3}, {"spectral": {}, "sign": {}}, 7, {3: {}}])
def test_what_names_no_part_is_told_how_a_part_is_written(value: Any) -> None:
    with pytest.raises(SpecError, match=r"expected a compressor, got[\s\S]*write a name such as"):
        signa.Spec.load({"groups": [{"match": "*", "method": "signsgd", "lr": 0.1, "up": {"compressor": value}}]})


def test_a_ready_preset_is_registered_as_it_is() -> None:
    ready = presets.get("signsgd")
    presets.register("mine_as_it_is", ready)
    try:
        assert presets.get("mine_as_it_is") is ready
        with pytest.raises(RegistryError, match="is registered already"):
            presets.register("mine_as_it_is", ready)
    finally:
        presets.unregister("mine_as_it_is")


# ---- what specs are read from


class Lazy(Mapping[str, Any]):
    """As a configuration library's container, whose value is asked for when it is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key: str) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[str]:
        return iter(("lr",))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(("error", "reason"), [(KeyError("base"), "'base'"), (OSError(), "OSError")])
def test_a_value_that_its_container_cannot_give_is_a_problem_at_its_address(error: Exception, reason: str) -> None:
    data, [problem] = ordinary({"groups": [Lazy(error)], "other": 1})
    assert data == {"groups": [{"lr": None}], "other": 1}
    assert (problem.path, problem.because) == (("groups", 0, "lr"), reason)
    with pytest.raises(SpecError, match=r"groups\.0\.lr"):
        signa.Spec.load({"groups": [Lazy(error)]})


# ---- numbers and memory


def test_a_torch_without_precision_for_each_backend_is_asked_for_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.6 to 2.8, which have one setting."""
    asked = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    setting = linalg._Precision()
    setting._settings = []
    setting.enter()
    setting.enter()
    setting.leave()
    assert asked == ["high", "highest"]
    setting.leave()
    assert asked == ["high", "highest", "high"]


def test_scratch_keeps_no_more_than_it_may() -> None:
    scratch, cpu = Scratch(kept=16), torch.device("cpu")
    small, long = scratch.take("a", (4,), torch.float32, cpu), scratch.take("a", (5,), torch.float32, cpu)
    assert long.shape == (5,) and long.data_ptr() != small.data_ptr()
    assert scratch.take("a", (4,), torch.float32, cpu).data_ptr() == small.data_ptr()


# ---- the wire


@pytest.mark.parametrize("given", [{}, {"dense": torch.ones(1, 2, 2), "fields": (), "silent": torch.zeros(1)}])
def test_a_message_is_floats_or_fields(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give either the floats, or the fields and who is silent"):
        Matrices(Dense(2, 2, torch.float32), **given)  # type: ignore[arg-type]


def test_what_is_no_process_group_is_refused() -> None:
    for given in ("nccl", SimpleNamespace(rank=0), SimpleNamespace(get_group=lambda: 3)):
        with pytest.raises(TypeError, match=r"is no process group: pass one of torch\.distributed, a DeviceMesh"):
            process_group_of(given)
    group = SimpleNamespace(rank=lambda: 0)
    assert process_group_of(SimpleNamespace(get_group=lambda: group)) is process_group_of(group) is group


def test_a_launcher_that_left_out_a_variable_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(signa.errors.PeerLost, match="start with torchrun --nproc-per-node=N, or unset WORLD_SIZE"):
        join("gloo", 1.0)


def test_ranks_that_do_not_come_are_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("store timed out\nat some line")

    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    with pytest.raises(signa.errors.PeerLost, match=r"did not come together within 3 s \(store timed out\)$"):
        join("gloo", 3.0)


def test_an_error_of_a_measuring_rank_comes_out() -> None:
    own = torch.get_num_threads()

    def act(group: Any, store: Any) -> int:
        if group.rank() == 1:
            raise ZeroDivisionError("rank 1")
        return 0

    with pytest.raises(ZeroDivisionError, match="rank 1"):
        in_threads(2, act)
    assert torch.get_num_threads() == own


# ---- checkpoints


def test_reasons_are_told_without_a_stack() -> None:
    assert _reason(OSError(28, "No space left on device", "/data/x")).startswith("No space left on device (/data/x): ")
    assert _reason(ZeroDivisionError("of nothing")) == "ZeroDivisionError: of nothing"
    assert _reason(OSError("only words")) == "OSError: only words"
    assert _reason(GradientError("told by us")) == "told by us"


def test_a_sparse_or_empty_tensor_is_copied_for_a_checkpoint() -> None:
    sparse = torch.eye(2).to_sparse()
    copied = plain({"sparse": sparse, "none": torch.empty(0, 3)}, "extra")
    sparse.values().fill_(5.0)
    assert torch.equal(copied["sparse"].to_dense(), torch.eye(2)) and copied["none"].shape == (0, 3)


def test_an_optimizer_that_was_copied_steps_as_the_first() -> None:
    w = weight(3, 2)
    opt = signa.build("muon_worker", pairs(w=w), lr=0.1, transport=signa.Loopback())
    both: tuple[nn.Parameter, signa.SignA] = copy.deepcopy((w, opt))
    for parameter, one in ((w, opt), both):
        parameter.grad = torch.arange(6.0).view(3, 2)
        one.step()
    assert torch.equal(w, both[0]) and not math.isclose(float(w.detach().sum()), 6.0)


# ---- theory


@pytest.mark.parametrize("aggregate", ["centered_clip", "trimmed_mean"])
def test_an_aggregate_that_no_result_reads_is_said(aggregate: str) -> None:
    odd = shape_of(signa.Method(aggregate=aggregate)).odd  # type: ignore[arg-type]
    assert odd == (f"no result here reads the aggregator '{aggregate}'",)
