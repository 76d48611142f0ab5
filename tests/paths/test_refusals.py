"""What must not be lost or done silently: gradients between blocks, the exact model, states, precision, names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import signa
from signa import engine, rule
from signa.errors import GradientError, RegistryError, RoutingError, StateError
from signa.feedback import EF21, feedbacks
from signa.lab.compare import refuse_changes
from signa.lab.settings import load_experiment
from signa.lmo import Row
from signa.routing import Layout
from signa.stage import Context, State


def weights(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def one(method: object, parameter: Tensor, workers: int = 1, **fields: object) -> signa.SignA:
    group = {"match": "*", "method": method, "lr": 0.1, **fields}
    return signa.build({"groups": [group]}, [("w", parameter)], transport=signa.Loopback(workers))


@pytest.mark.parametrize("zeroed", [True, False])
def test_a_gradient_from_outside_after_a_step_is_noticed(zeroed: bool) -> None:
    w = weights(3, 4)
    opt = one("muon_worker", w, 3)
    for j in range(3):
        with opt.worker(j):
            w.square().sum().backward()
    opt.step()
    if zeroed:
        opt.zero_grad(set_to_none=False)
    w.square().sum().backward()
    with pytest.raises(GradientError, match="outside"):
        opt.step()


def test_the_sum_of_the_rows_does_not_depend_on_the_order_of_the_blocks() -> None:
    sums = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 2, 3, 1, 0)):
        w = weights(5, 7)
        opt = one("sgd", w, 4)
        for j in order:
            with opt.worker(j):
                w.grad = weights(5, 7, seed=j + 1).detach()
        sums.append(w.grad)
        torch.nn.utils.clip_grad_norm_([w], 1e9)  # it multiplies by 1: no new gradient
        opt.step()
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_a_worker_that_is_no_number_leaves_the_optimizer_usable() -> None:
    w = weights(2, 2)
    opt = one("sgd", w, 2)
    with pytest.raises(TypeError), opt.worker(1.0):
        pass
    with opt.worker(1):
        w.sum().backward()
    opt.step()


def test_blocks_restore_buffers_that_a_forward_replaced() -> None:
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weights(2, 2)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, grow: int) -> Tensor:
            self.seen = torch.ones(grow)
            return self.weight.sum()

    model = Cache()
    opt = signa.build("sgd", model, lr=0.1, transport=signa.Loopback(2))
    for j in range(2):
        with opt.worker(j):
            model(j + 2).backward()
    assert torch.equal(model.seen, torch.ones(2))


def ef21(workers: int = 1) -> tuple[nn.Parameter, signa.SignA]:
    w = weights(4, 6)
    opt = one("ef21muonsign", w, workers)
    for _ in range(3):
        w.grad = w.detach().clone()
        opt.step()
    return w, opt


def test_exact_may_be_nested_and_gives_the_same_model_back() -> None:
    (w, opt), (v, other) = ef21(), ef21()
    before = w.detach().clone()
    with opt.exact():
        exact = w.detach().clone()
        with opt.exact():
            assert torch.equal(w, exact) and not torch.equal(w, before)
        assert torch.equal(w, exact)
    assert torch.equal(w, before)
    for parameter, optimizer in ((w, opt), (v, other)):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.equal(w, v)


def test_inside_exact_nothing_steps_or_loads_a_state() -> None:
    w, opt = ef21()
    saved = opt.state_dict()
    with opt.exact():
        w.grad = torch.ones_like(w)
        with pytest.raises(StateError, match="inside"):
            opt.step()
        with pytest.raises(StateError, match="inside"):
            opt.load_state_dict(saved)
    opt.step()


def test_a_model_loaded_inside_exact_stays_loaded() -> None:
    w, opt = ef21()
    new = torch.ones_like(w)
    with opt.exact(), torch.no_grad():
        w.copy_(new)
    assert torch.equal(w, new)
    w.grad = torch.zeros_like(w)
    with pytest.warns(signa.Advice, match="reset"):
        opt.step()
    with opt.exact():
        assert float((w.detach() - new).abs().max()) < 1  # X started anew from what was loaded


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_the_backends_own_precision_setting_changes_no_bit_and_comes_back() -> None:
    lmo, g = signa.lmos.get("spectral")(dtype="float32"), weights(48, 64).detach()
    plain, setting = lmo.direction(g), torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        assert torch.equal(lmo.direction(g), plain)
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


def test_a_tiny_row_beside_a_large_one_has_norm_one() -> None:
    d = Row().direction(torch.tensor([[1.0, 1.0], [2e-22, 1e-22], [6e-30, 1e-30]]))
    torch.testing.assert_close(d.norm(dim=-1), torch.ones(3))


def test_ef21_refuses_an_aggregate_that_is_not_linear() -> None:
    with pytest.raises(signa.SpecError, match="a sum of medians"):
        signa.method("ef21muonusign", aggregate="median")


def test_decay_has_one_place() -> None:
    with pytest.raises(signa.SpecError, match="twice"):
        signa.method("signmuon", worker=["decay", "decay", "spectral"])


def test_add_param_group_refuses_to_lose_rows_and_to_update_twice() -> None:
    w, v = weights(2, 3), weights(2, 3, seed=1)
    opt = one("sgd", w, 2)
    for params in ([v, v], [("a", v), ("a", weights(1, 1))], [("w", v)], [w]):
        with pytest.raises(RoutingError, match="already, or stands twice"):
            opt.add_param_group({"params": params, "method": "sgd", "lr": 0.1})
    with opt.worker(0):
        w.sum().backward()
    with pytest.raises(GradientError, match="before the blocks"):
        opt.add_param_group({"params": [v], "method": "sgd", "lr": 0.1})
    opt.step()
    opt.add_param_group({"params": [["v[0]", v]], "method": "sgd", "lr": 0.1})
    assert [route.named.name for route in opt.routing] == ["w", "v[0]"]


def test_a_step_that_fails_under_a_scaler_leaves_no_scale_behind() -> None:
    w = weights(2, 3)
    opt = one({"worker": ["momentum"]}, w)
    opt.found_inf, opt.grad_scale = torch.zeros(()), torch.full((), 1024.0)
    w.grad = torch.ones(2, 3).to_sparse()
    with pytest.raises(signa.SignaError, match="sparse"):
        opt.step()
    before, w.grad = w.detach().clone(), torch.ones(2, 3)
    opt.step()
    torch.testing.assert_close(before - w.detach(), torch.full((2, 3), 0.1 * 0.05))


@pytest.fixture
def two_axes() -> Iterator[None]:
    @signa.stages.register
    class Pairs(signa.Stage):
        kind: Literal["pairs"] = "pairs"

        def init(self, x0: Tensor) -> dict[str, Tensor]:
            return {"q": torch.zeros(*x0.shape[:-2], 2, x0.shape[-2], x0.shape[-2]), "r": torch.zeros(x0.shape[:-1])}

        def __call__(self, x: Tensor, state: dict[str, Tensor], ctx: signa.Context) -> Tensor:
            state["q"] += (x @ x.mT).unsqueeze(-3)
            state["r"] += x.sum(-1)
            return x

        def signal(self, s: signa.Signal) -> signa.Signal:
            return s

    yield
    signa.stages.unregister("pairs")


def test_state_of_any_shape_is_shared_out_and_saved_whole(two_axes: None) -> None:
    parameters = [(f"w{i}", weights(3, 4, seed=i)) for i in range(3)]
    spec = {"groups": [{"match": "*", "method": {"worker": ["pairs"]}, "lr": 0.1}]}
    opt = signa.build(spec, parameters)
    for _, w in parameters:
        w.grad = w.detach().clone()
    start = [w.detach().clone() for _, w in parameters]
    opt.step()
    for (name, w), x in zip(parameters, start, strict=True):
        saved = opt.state_dict()["state"][name]
        torch.testing.assert_close(saved["worker.pairs.q"], (x @ x.mT).expand(1, 1, 2, 3, 3))
        torch.testing.assert_close(saved["worker.pairs.r"], x.sum(-1).view(1, 1, 3))
        assert opt.state[w]["worker.pairs.q"].data_ptr() != saved["worker.pairs.q"].data_ptr()


def test_cautious_decay_counts_a_zero_direction_as_agreement() -> None:
    w = nn.Parameter(torch.tensor([[1.0, 1.0, 1.0]]))
    opt = one({"replica": [{"step": {"decay": "cautious"}}]}, w, weight_decay=0.5)
    w.grad = torch.tensor([[1.0, 0.0, -1.0]])
    opt.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[0.85, 0.95, 1.1]]))


@pytest.mark.parametrize("pattern", ["o i ... -> o (i ...)", "o ... -> o (...)", "... i -> i (...)"])
def test_a_pattern_may_have_an_ellipsis(pattern: str) -> None:
    layout, x = Layout.of((4, 3, 2, 5), pattern), torch.randn(2, 4, 3, 2, 5)
    assert layout.matrices(x, 1).shape == (2, layout.count, layout.m, layout.n)
    assert torch.equal(layout.parameter(layout.matrices(x, 1), 1), x)


def test_a_subclass_of_embedding_is_an_embedding() -> None:
    class Table(nn.Embedding):
        pass

    opt = signa.build("signmuon", nn.Sequential(Table(8, 4), nn.Linear(4, 4)))
    assert [opt.spec.groups[route.group].name for route in opt.routing][:2] == ["embeddings", "signmuon"]


def test_stacks_are_capped_and_no_bit_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Tensor]:
        parameters = [(f"w{i}", weights(9, 21, seed=i)) for i in range(5)]
        opt = signa.build({"groups": [{"match": "*", "method": "signmuon", "lr": 0.1}]}, parameters)
        for _, w in parameters:
            w.grad = w.detach().clone()
        opt.step()
        return [w.detach() for _, w in parameters] + [torch.tensor(len(opt._engine.stacks))]

    *whole, count = run()
    monkeypatch.setattr(engine, "MOST", 2 * 9 * 21)
    *parts, more = run()
    assert (int(count), int(more)) == (1, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_an_installed_plug_in_that_fails_is_named_and_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, name: str, error: Exception | None) -> None:
            self.name, self.value, self.error, self.loaded = name, f"{name}:x", error, False

        def load(self) -> None:
            self.loaded = True
            if self.error:
                raise self.error

    entries = [Entry("bad", ImportError("no such thing")), Entry("good", None)]
    monkeypatch.setattr(rule, "entry_points", lambda group: entries)
    monkeypatch.setattr(rule, "_entry_points_loaded", False)
    with pytest.warns(signa.Advice, match=r"'bad' \(bad:x\) failed: ImportError: no such thing"):
        with pytest.raises(RegistryError, match="unknown stage"):
            signa.stages.get("nobody")
    assert entries[1].loaded


def test_names_of_parts_are_reserved_and_only_classes_register() -> None:
    class Up(signa.LMO):
        kind: Literal["up"] = "up"

    with pytest.raises(RegistryError, match="part of every address"):
        signa.lmos.register(Up)
    with pytest.raises(RegistryError, match="derive from it"):
        signa.lmos.register(3)


def test_compare_refuses_what_every_arm_replaces() -> None:
    spec = load_experiment(Path("examples/shakespeare.yaml"))
    with pytest.raises(signa.SpecError, match="no effect"):
        refuse_changes(spec, ["groups.matrices.worker.momentum.beta"])
    refuse_changes(spec, ["train.steps", "groups.vocabulary.lr"])


def test_a_damaged_state_is_refused_whole() -> None:
    w, opt = ef21()
    before = w.detach().clone()
    for damage in ({"step": "x"}, {"spec": {}}, {"spec": 3}):
        state = opt.state_dict()
        state["signa"] |= damage
        with pytest.raises(StateError):
            opt.load_state_dict(state)
    assert torch.equal(w, before)


def test_a_part_written_in_python_is_refused_like_one_in_a_file() -> None:
    with pytest.raises(signa.SpecError, match=r"unknown key 'wroker'\n  instead: did you mean 'worker'"):
        signa.Method(wroker="momentum")  # type: ignore[call-arg]
    with pytest.raises(signa.SpecError, match=r"^up: unknown compressor 'sgn'"):
        signa.Method(up="sgn")  # type: ignore[arg-type]
    with pytest.raises(signa.SpecError, match="did you mean 'beta'"):
        signa.stages.get("momentum")(betta=0.2)


def test_what_a_method_has_derived_is_no_part_of_its_spec() -> None:
    spec = signa.Spec.load("ef21muonsign")
    before, text, sentence = spec.id, spec.dump(), str(spec.groups[3].method)
    assert spec.groups[3].method.step_address == "server.step"  # cached from here on
    assert (spec.id, spec.dump(), str(spec.groups[3].method)) == (before, text, sentence)


def test_a_plug_in_feedback_that_carries_the_model_is_reset_whole() -> None:
    """Whatever its state is called: after foreign weights, one small step stays near them, as with ef21."""

    class Renamed(EF21):
        kind: Literal["test_renamed"] = "test_renamed"  # type: ignore[assignment]

        def sender(self, x0: Tensor) -> State:
            return {"a": x0.clone()}

        def receiver(self, x0: Tensor) -> State:
            return {"b": x0.clone()}

        def encode(self, u: Tensor, compress: Any, state: State, ctx: Context) -> Tensor:
            return super().encode(u, compress, {"h": state["a"]}, ctx)

        def decode(self, a: Tensor, state: State) -> Tensor:
            return super().decode(a, {"H": state["b"]})

    feedbacks.register(Renamed)
    try:
        found = []
        for feedback in ("ef21", "test_renamed"):
            w = weights(8, 8, seed=0)
            method = signa.Method(worker="momentum", server="linf step", down=f"{feedback}(scaled_sign)", replica=())
            opt = signa.build({"groups": [{"match": "*", "method": method, "lr": 0.01}]}, [("w", w)])
            for t in range(4):
                if t == 3:
                    with torch.no_grad():
                        w.copy_(weights(8, 8, seed=5))
                w.grad = weights(8, 8, seed=10 + t).detach()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", signa.Advice)
                    opt.step()
            found.append(w.detach().clone())
        assert torch.equal(found[0], found[1])
        assert float((found[0] - weights(8, 8, seed=5).detach()).abs().max()) < 0.03
    finally:
        feedbacks.unregister("test_renamed")


def test_no_copy_is_made_of_the_exact_model() -> None:
    opt = signa.build("ef21muonsign", nn.Linear(6, 4), lr=0.02)
    with opt.exact(), pytest.raises(StateError, match="a copy inside"):
        copy.deepcopy(opt)
    assert copy.deepcopy(opt).steps == 0


def test_a_scaler_that_saw_no_gradient_says_an_integer() -> None:
    """torch.amp.GradScaler hands over ``found_inf = 0``, no tensor, where no parameter had a gradient."""
    opt = signa.build("signmuon", nn.Linear(6, 4), lr=0.02)
    opt.found_inf, opt.grad_scale = 0, torch.tensor(2.0)
    opt.step()
    assert opt.steps == 1


def test_counts_of_gradients_that_are_not_finite_are_state() -> None:
    w = weights(6, 4)
    opt = signa.build({"groups": [{"match": "*", "method": "signmuon", "lr": 0.1}]}, [("w", w)])
    w.grad = torch.full((6, 4), torch.nan)
    with pytest.warns(signa.Advice, match="'w' of worker 0 is not finite at step 0"):
        opt.step()
    assert copy.deepcopy(opt).nonfinite_counts == {(0, "w"): 1}
