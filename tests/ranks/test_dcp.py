"""torch.distributed.checkpoint: every worker's state survives, and any world goes on where another one stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

import signa
from signa.checkpoints import DCPState, WorldChange, redistribute
from signa.errors import CheckpointError, StateError
from signa.stack import Stack
from tests.ranks.test_checkpoints import SHAPES, Run, joined, same
from tests.ranks.worlds import processes

pytestmark = [
    pytest.mark.filterwarnings("ignore::signa.errors.Advice"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),  # it is, with one process
]
METHODS = ("signmuon", "ef21muonsign")  # and AdamW's groups in each; the second has a server, split over the ranks
POLICIES: tuple[WorldChange, ...] = ("mean", "reset", "remap")
Say = Callable[[Any], None]


def parts(run: Run, *args: Any, **named: Any) -> dict[str, Any]:
    """What a user hands to DCP."""
    return {"model": run.model.state_dict(), "optim": DCPState(run.opt, *args, **named), "plan": run.plan}


def save(run: Run, folder: Path) -> Run:
    dcp.save(parts(run), checkpoint_id=folder)
    return run


def load(run: Run, folder: Path, *args: Any, **named: Any) -> Run:
    dcp.load(parts(run, *args, **named), checkpoint_id=folder)
    return run


def data(state: dict[str, Tensor]) -> dict[str, bytes]:
    """Through a pipe between processes, plain bytes; a tensor would travel as a file handle."""
    buffers = {key: io.BytesIO() for key in state}
    for key, value in state.items():
        torch.save(value, buffers[key])
    return {key: buffer.getvalue() for key, buffer in buffers.items()}


def tensors(state: dict[str, bytes]) -> dict[str, Tensor]:
    return {key: torch.load(io.BytesIO(value)) for key, value in state.items()}


# Three ranks ---------------------------------------------------------------------------------------------------------


def on_ranks(r: int, arguments: dict[str, Any], say: Say, folder: Path) -> dict[str, Any]:
    """All that is done with three ranks; every rank's whole state after each."""
    store = dist.PrefixStore("default", arguments["store"])
    dist.init_process_group("gloo", store=store, rank=r, world_size=3, timeout=timedelta(seconds=20))
    beside = dist.new_group(backend="gloo")

    def run(method: str, seed: int = 0) -> Run:
        return Run(signa.Group(exchange="alltoall", server="sharded", timeout=20.0), method, seed)

    found: dict[str, Any] = {}
    for method in METHODS:
        first = save(run(method).train(3), folder / method)
        found[f"{method} saved"] = data(first.whole())
        found[f"{method} uninterrupted"] = data(first.train(4).whole())
        found[f"{method} resumed"] = data(load(run(method, seed=9), folder / method).train(4).whole())
        found[f"{method} looked"] = data(load(run(method, 9), folder / method, folder / method).train(4).whole())
        found[f"{method} from loopback"] = data(
            load(run(method, seed=9), folder / f"loopback {method}").train(4).whole()
        )
        later = dcp.async_save(parts(first), checkpoint_id=folder / f"{method} later", process_group=beside)
        first.train(2)  # while it writes
        later.result()
    for policy in POLICIES:
        there = folder / "five"
        found[policy] = data(load(run(METHODS[1], 9), there, there, on_world_change=policy).train(2).whole())
    other = run("signmuon", seed=9)
    before = data(other.whole())
    try:
        load(other, folder / METHODS[1], folder / METHODS[1])
    except StateError as error:
        found["refused"] = str(error)
    found["unwritten"] = data(other.whole()) == before and other.opt.steps == 0
    other.train(1)  # nobody is left behind by the refusal
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dcp")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    for method in METHODS:
        save(Run(signa.Loopback(3), method).train(3), folder / f"loopback {method}")
    save(Run(signa.Loopback(5), METHODS[1]).train(3), folder / "five")
    ended = processes(3, on_ranks, folder, timeout=20.0, deadline=60.0)
    assert [rank.code for rank in ended] == [0, 0, 0]
    return [rank.result for rank in ended]


def whole(ranks: list[dict[str, Any]], what: str) -> dict[str, Tensor]:
    return joined([tensors(found[what]) for found in ranks])


@pytest.mark.parametrize("method", METHODS)
def test_ranks_resume_where_they_stopped(method: str, ranks: list[dict[str, Any]]) -> None:
    uninterrupted = whole(ranks, f"{method} uninterrupted")
    same(uninterrupted, whole(ranks, f"{method} resumed"))
    same(uninterrupted, whole(ranks, f"{method} looked"))
    same(uninterrupted, Run(signa.Loopback(3), method).train(7).whole())


@pytest.mark.parametrize("method", METHODS)
def test_one_process_and_three_ranks_take_over_from_each_other(
    method: str, ranks: list[dict[str, Any]], folder: Path
) -> None:
    uninterrupted = whole(ranks, f"{method} uninterrupted")
    same(uninterrupted, whole(ranks, f"{method} from loopback"))
    same(uninterrupted, load(Run(signa.Loopback(3), method, seed=9), folder / method).train(4).whole())


@pytest.mark.parametrize("method", METHODS)
def test_every_workers_momentum_is_in_the_files(method: str, ranks: list[dict[str, Any]], folder: Path) -> None:
    """The trap: of a key that all ranks have, DCP keeps one rank's value and says nothing."""
    rows = {f"optim.c/worker.momentum.m/{j}": torch.zeros(SHAPES["c"]) for j in range(3)}
    dcp.load(rows, checkpoint_id=folder / method)
    for j, row in enumerate(rows.values()):
        assert torch.equal(row, tensors(ranks[j][f"{method} saved"])["c worker.momentum.m"][0])
        assert not any(torch.equal(row, other) for k, other in enumerate(rows.values()) if k != j)
    keys = dcp.FileSystemReader(folder / method).read_metadata().state_dict_metadata
    assert "optim.emb/replica.adam.v" in keys  # equal everywhere: one key, without a worker
    assert ("optim.c/server.step.x" in keys) == (method == "ef21muonsign")


def test_training_goes_on_while_a_save_is_written(ranks: list[dict[str, Any]], folder: Path) -> None:
    for method in METHODS:
        later = load(Run(signa.Loopback(3), method, seed=9), folder / f"{method} later")
        same(whole(ranks, f"{method} uninterrupted"), later.whole())


@pytest.mark.parametrize("policy", POLICIES)
def test_another_number_of_workers_by_the_policies_of_load_checkpoint(
    policy: WorldChange, ranks: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    Run(signa.Loopback(5), METHODS[1]).train(3).save(tmp_path)
    ours = Run(signa.Loopback(3), METHODS[1], seed=9).load(tmp_path, on_world_change=policy)
    here = load(Run(signa.Loopback(3), METHODS[1], 9), folder / "five", folder / "five", on_world_change=policy)
    same(ours.whole(), here.whole())
    more = load(Run(signa.Loopback(7), METHODS[1], 9), folder / "five", folder / "five", on_world_change=policy)
    same(Run(signa.Loopback(7), METHODS[1], seed=9).load(tmp_path, on_world_change=policy).whole(), more.whole())
    same(ours.train(2).whole(), whole(ranks, policy))


def test_policies_are_not_alike(ranks: list[dict[str, Any]]) -> None:
    found = [whole(ranks, policy)["c worker.momentum.m"] for policy in POLICIES]
    assert not any(torch.equal(a, b) for a, b in [(found[0], found[1]), (found[0], found[2]), (found[1], found[2])])


def test_all_ranks_refuse_another_run_and_go_on(ranks: list[dict[str, Any]]) -> None:
    errors = {found["refused"] for found in ranks}
    assert len(errors) == 1 and all(found["unwritten"] for found in ranks)
    assert errors.pop().startswith("this state does not fit the optimizer:\n  groups.1.method")


# What is refused -----------------------------------------------------------------------------------------------------


def unchanged(run: Run, act: Callable[[], Any], *texts: str, error: type[BaseException] = StateError) -> None:
    """The error names all of these, and the optimizer is as it was."""
    before, header = run.whole(), run.opt.state_dict()["signa"]
    with pytest.raises(error) as caught:
        act()
    for text in texts:
        assert text in str(caught.value)
    state = {key: value for key, value in run.whole().items() if " " in key}
    same({key: value for key, value in before.items() if " " in key}, state)
    assert run.opt.state_dict()["signa"] == header


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three workers' checkpoint."""
    there = tmp_path_factory.mktemp("three") / "saved"
    save(Run(signa.Loopback(3)).train(2), there)
    return there


def test_another_number_of_workers_needs_a_policy(three: Path) -> None:
    fewer, more = Run(signa.Loopback(2), seed=9), Run(signa.Loopback(4), seed=9)
    for run, n in ((fewer, 2), (more, 4)):
        unchanged(run, lambda: load(run, three, three), f"workers: 3 there, {n} here: say what becomes of their state")  # noqa: B023
    unchanged(fewer, lambda: load(fewer, three), "workers: 3 there, 2 here")
    # Without saved= it is DCP that does not find worker 3, before anything is read.
    unchanged(more, lambda: load(more, three), "worker.momentum.m/3", error=CheckpointException)


def test_other_methods_and_other_parameters_are_named(three: Path) -> None:
    other = Run(signa.Loopback(3), "signmuon", seed=9)
    unchanged(other, lambda: load(other, three, three), "groups.1.method", "groups.2.method")
    model = nn.ParameterDict({"a": nn.Parameter(torch.ones(9, 20)), "z": nn.Parameter(torch.ones(3))})
    opt = signa.build("ef21muonsign", model, transport=signa.Loopback(3))
    with pytest.raises(StateError) as caught:
        dcp.load({"optim": DCPState(opt, three)}, checkpoint_id=three)
    assert "'a': (9, 21) float32 there, (9, 20) float32 here" in str(caught.value)
    assert "'z' is here and not there" in str(caught.value) and "'emb' is there and not here" in str(caught.value)


def test_what_was_not_read_is_not_loaded(three: Path, tmp_path: Path) -> None:
    run = Run(signa.Loopback(3), seed=9)
    state = DCPState(run.opt)
    read = state.state_dict()
    without = {key: value for key, value in read.items() if key != "c/server.step.x"}
    unchanged(run, lambda: state.load_state_dict(without), "not all of it is there", "c/server.step.x")
    dcp.save({"optim": without}, checkpoint_id=tmp_path)
    partly = DefaultLoadPlanner(allow_partial_load=True)
    there = {"optim": DCPState(run.opt, tmp_path)}
    load_partly = partial(dcp.load, there, checkpoint_id=tmp_path, planner=partly)
    unchanged(run, load_partly, "not all of it is there", "c/server.step.x")
    unchanged(run, lambda: state.load_state_dict({**read, "signa": b""}), "'signa' is damaged, or was not read")
    unchanged(run, lambda: state.load_state_dict({**read, "signa": b"x" * 99}), "'signa' is damaged, or was not read")
    unchanged(run, lambda: state.load_state_dict(run.opt.state_dict()), "not written by SignA")
    unchanged(run, lambda: state.load_state_dict({**read, "c/server.step.x": torch.ones(3)}), "'c' server.step.x: (3,)")


def test_state_is_found_by_its_key(three: Path, tmp_path: Path) -> None:
    one, two = Run(signa.Loopback(2)).train(1), Run(signa.Loopback(1), "signmuon").train(2)
    dcp.save({"gen": DCPState(one.opt), "disc": DCPState(two.opt)}, checkpoint_id=tmp_path / "two")
    again = Run(signa.Loopback(1), "signmuon", seed=9)
    with pytest.raises(StateError, match=r"called 'optim' there; there is: key='disc', key='gen'"):
        DCPState(again.opt, tmp_path / "two").state_dict()
    reader = dcp.FileSystemReader(tmp_path / "two")
    dcp.load({"disc": DCPState(again.opt, reader, key="disc")}, storage_reader=reader)
    assert again.opt.steps == 2 and torch.equal(*(run.state("c")["worker.momentum.m"] for run in (two, again)))


def test_one_that_loads_does_not_save(three: Path, tmp_path: Path) -> None:
    state = {"optim": DCPState(Run(signa.Loopback(3)).opt, three)}
    with pytest.raises(CheckpointException, match=r"with saved= is for loading"):
        dcp.save(state, checkpoint_id=tmp_path / "a")
    with pytest.raises(StateError, match=r"with saved= is for loading"):
        dcp.async_save(state, checkpoint_id=tmp_path / "b", no_dist=True).result()
    assert not list(tmp_path.glob("*/.metadata"))


def test_what_makes_no_sense_is_refused_at_once(three: Path) -> None:
    opt = Run(signa.Loopback(2)).opt
    with pytest.raises(ValueError, match=r"on_world_change='mean' needs to know .* pass saved="):
        DCPState(opt, on_world_change="mean")
    with pytest.raises(ValueError, match=r"must be one of error, mean, reset, remap: 'men'"):
        DCPState(opt, three, on_world_change="men")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"for a signa.SignA, got an SGD"):
        DCPState(torch.optim.SGD([torch.ones(1)], 0.1))  # type: ignore[arg-type]
    with opt.exact(), pytest.raises(StateError, match=r"DCPState.state_dict\(\) inside 'with opt.exact\(\)'"):
        DCPState(opt).state_dict()
    opt.param_groups[0]["what"] = (1, 2.5)
    opt.param_groups[1]["what"] = opt
    with pytest.raises(CheckpointError, match=r"could not be read back without running code"):
        DCPState(opt).state_dict()


def test_the_state_is_a_copy_and_holds_what_the_groups_hold(tmp_path: Path) -> None:
    run, again = Run(signa.Loopback(2)).train(1), Run(signa.Loopback(2), seed=9)
    run.opt.param_groups[0]["what"] = (1, 2.5)
    run.opt.nonfinite_counts[(1, "a")] = 4
    state = DCPState(run.opt).state_dict()
    own = run.whole()
    run.train(1)
    DCPState(again.opt).load_state_dict(state)
    same(*({k: v for k, v in found.items() if " " in k} for found in (own, again.whole())))
    assert again.opt.param_groups[0]["what"] == (1, 2.5) and again.opt.nonfinite_counts == {(1, "a"): 4}
    assert (again.opt.seed, again.opt.steps) == (0, 1)


def test_state_that_is_on_another_rank_is_neither_saved_nor_asked_for(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that a node shards, a parameter's state is on one of the node's ranks alone."""
    found: list[str] = []

    class Noted(Stack):
        def __init__(self, group: Any, routes: Any, workers: range) -> None:
            found.append(routes[0].named.name)
            super().__init__(group, routes, workers)

    monkeypatch.setattr(redistribute, "Stack", Noted)
    whole, part = (Run(signa.Loopback(2), seed=9) for _ in range(2))
    part.opt.state[part.model["c"]] = {}
    full = DCPState(whole.opt).state_dict()
    assert set(DCPState(part.opt).state_dict()) == {key for key in full if not key.startswith("c/")} < set(full)
    load(part, three, three, on_world_change="mean")
    assert "c" not in found and "d" in found
    load(whole, three, three, on_world_change="mean")
    same(part.whole(), {key: value for key, value in whole.whole().items() if not key.startswith("c ")})
