"""Checkpoints of real ranks (gloo groups in threads): every layout of the world resumes, and nobody is left behind."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

import signa
from signa.checkpoints import archive, files, load, save
from signa.errors import CheckpointError, PeerLost, ReplicaDrift, SignaError
from signa.transport import Transport
from tests.ranks import worlds

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")  # catch_warnings is nothing for threads

SHAPES = {"a": (9, 21), "b": (9, 21), "c": (24, 16), "d": (12, 10), "bias": (7,), "emb": (13, 5)}


def model(seed: int = 0) -> nn.ParameterDict:
    generator = torch.Generator().manual_seed(seed)
    return nn.ParameterDict({n: nn.Parameter(torch.randn(*s, generator=generator)) for n, s in SHAPES.items()})


def gradient(name: str, t: int, j: int) -> Tensor | None:
    if name == "a" and (t + j) % 4 == 1:
        return None  # this worker takes no part, so the workers' state is not alike
    seed = sum(map(ord, name)) * 10_007 + 101 * t + j
    return torch.randn(*SHAPES[name], generator=torch.Generator().manual_seed(seed))


class Run:
    """A model, its optimizer and a schedule on some transport."""

    def __init__(self, transport: Transport, method: str = "ef21muonsign", seed: int = 0) -> None:
        self.model = model(seed)
        groups = [
            {"match": ["emb", "bias"], "method": "adamw", "lr": 0.01, "weight_decay": 0.1},
            {"match": "d", "method": method, "lr": 0.02, "matrix": "(h d) i -> h d i", "sizes": {"h": 3}},
            {"match": "*", "method": method, "lr": 0.02},
        ]
        self.opt = signa.build({"groups": groups}, self.model, transport=transport, seed=seed)
        self.plan = ExponentialLR(self.opt, 0.9)

    def train(self, steps: int) -> Run:
        for _ in range(steps):
            for j in self.opt.transport.local:
                with self.opt.worker(j):
                    for name, p in self.model.items():
                        p.grad = gradient(name, self.opt.steps, j)
            self.opt.step()
            self.opt.zero_grad()
            self.plan.step()
        return self

    def save(self, folder: Path, **more: Any) -> Path:
        return signa.save_checkpoint(folder, self.model, self.opt, plan=self.plan, **more)

    def load(self, folder: Path, **more: Any) -> Run:
        signa.load_checkpoint(folder, self.model, self.opt, plan=self.plan, **more)
        return self

    def state(self, name: str) -> dict[str, Tensor]:
        return self.opt.state[self.model[name]]

    def whole(self) -> dict[str, Tensor]:
        """Copies of the model and of what state is here."""
        state = {f"{n} {address}": view for n in SHAPES for address, view in self.state(n).items()}
        return {key: value.detach().clone() for key, value in {**dict(self.model.items()), **state}.items()}


def world(held: Sequence[int], f: Callable[[signa.Group], Any], timeout: float = 10.0, **group: Any) -> list[Any]:
    """What f returned or raised on every rank."""
    group = {"exchange": "alltoall", "server": "sharded", **group}

    def run(rank: int, arguments: dict[str, Any]) -> Any:
        return f(signa.Group(**arguments, workers_per_rank=held[rank], **group))

    return worlds.world(len(held), run, timeout=timeout)


def joined(runs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All ranks' state as one process has it: workers one after the other, the server's from who has it."""
    found: dict[str, Tensor] = {}
    for key in sorted({key for run in runs for key in run}):
        parts = [run[key] for run in runs if key in run]
        found[key] = torch.cat(parts) if " worker." in key else parts[0]
        assert " worker." in key or all(torch.equal(part, parts[0]) for part in parts), key
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def anywhere(held: Sequence[int], f: Callable[[Any], Run], **group: Any) -> dict[str, Tensor]:
    """The whole state after f on a world; a single 0 in front means a Loopback."""
    if held[0] == 0:
        return f(signa.Loopback(held[1])).whole()
    return joined(worlds.every(world(held, lambda g: f(g).whole(), **group)))


# Resumed == uninterrupted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "server"),
    [("ef21muonsign", "sharded"), ("ef21muonsign", "replicated"), ("signmuon", "auto"), ("doublesqueeze", "sharded")],
)
def test_three_ranks_resume_where_they_stopped(method: str, server: str, tmp_path: Path) -> None:
    whole = anywhere([0, 3], lambda t: Run(t, method).train(20))
    anywhere([1, 1, 1], lambda t: _saved(Run(t, method).train(10), tmp_path), server=server)
    again = anywhere([1, 1, 1], lambda t: Run(t, method, seed=5).load(tmp_path).train(10), server=server)
    same(again, whole)


def _saved(run: Run, folder: Path, **more: Any) -> Run:
    run.save(folder, **more)
    return run


@pytest.mark.parametrize("there", [[6], [2, 2, 2], [2, 2, 1, 1], [0, 6]])
def test_the_same_workers_on_any_number_of_ranks(there: list[int], tmp_path: Path) -> None:
    whole = anywhere([0, 6], lambda t: Run(t).train(4))
    anywhere(there, lambda t: _saved(Run(t).train(2), tmp_path))
    for server, here in (("sharded", [3, 3]), ("sharded", [2, 2, 1, 1]), ("replicated", [2, 2, 2]), ("", [0, 6])):
        same(anywhere(here, lambda t: Run(t, seed=1).load(tmp_path).train(2), server=server or "auto"), whole)


def test_a_replicated_server_is_written_once(tmp_path: Path) -> None:
    anywhere([2, 2, 2], lambda t: _saved(Run(t), tmp_path / "replicated"), server="replicated")
    anywhere([2, 2, 2], lambda t: _saved(Run(t), tmp_path / "sharded"), server="sharded")
    for kind in ("replicated", "sharded"):
        told = json.loads((tmp_path / kind / "step-00000000" / "manifest.json").read_text())
        owned = [told["files"][f"rank-{r:05d}.pt"]["server"] for r in range(3)]
        assert sorted(name for names in owned for name in names) == ["a", "b", "c", "d"]
        assert (owned[1] == owned[2] == []) == (kind == "replicated")
        assert [told["files"][f"rank-{r:05d}.pt"]["workers"] for r in range(3)] == [[0, 1], [2, 3], [4, 5]]
        assert told["world"] == [2, 2, 2] and told["workers"] == 6


def test_a_rank_reads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere([2, 2, 2], lambda t: _saved(Run(t), tmp_path))
    read: list[set[str]] = []
    real = load._read

    def noting(found: Any, *args: Any) -> Any:
        content = real(found, *args)
        read.append(set(found._read))
        return content

    monkeypatch.setattr(load, "_read", noting)
    anywhere([2, 2, 2], lambda t: Run(t).load(tmp_path))
    assert sorted(sorted(names) for names in read) == [[f"rank-{r:05d}.pt", "shared.pt"] for r in range(3)]


def test_extras_are_each_ranks_own(tmp_path: Path) -> None:
    def write(group: signa.Group) -> None:
        run = Run(group)
        signa.save_checkpoint(tmp_path, run.model, run.opt, position=group.rank, plan=run.plan)

    def read(group: signa.Group) -> Any:
        run = Run(group)
        return signa.load_checkpoint(tmp_path, run.model, run.opt, plan=run.plan)["position"]

    worlds.every(world([2, 2, 2], write))
    assert world([2, 2, 1, 1], read) == [0, 1, 2, 0]
    assert world([3, 3], read) == [0, 1]


# Another number of workers -------------------------------------------------------------------------------------------


def senders_agree(found: dict[str, Tensor], workers: int) -> None:
    """EF21's law: H = mean of the h."""
    for name in ("a", "b", "c", "d"):
        h, H = found[f"{name} worker.up.h"], found[f"{name} server.up.H"]
        total = h[0].clone()
        for row in h[1:]:
            total += row
        assert len(h) == workers and torch.equal(H, total / workers), name


@pytest.mark.parametrize("policy", ["mean", "reset", "remap"])
@pytest.mark.parametrize("here", [[1], [1, 1], [2, 1, 1, 1]])
def test_another_number_of_workers_by_a_policy(policy: str, here: list[int], tmp_path: Path) -> None:
    old = anywhere([1, 1, 1], lambda t: _saved(Run(t).train(4), tmp_path))
    workers = sum(here)
    new = anywhere(here, lambda t: Run(t, seed=1).load(tmp_path, on_world_change=policy))
    senders_agree(new, workers)
    start = anywhere([0, workers], lambda t: Run(t))
    for key, value in new.items():
        if " worker." in key:
            mean = (old[key][0] + old[key][1] + old[key][2]) / 3
            expected = {
                "mean": torch.stack([mean] * workers),
                "reset": start[key],
                "remap": torch.stack([old[key][j % 3] for j in range(workers)]),
            }[policy]
            assert torch.equal(value, expected), key
        elif not key.endswith("server.up.H"):
            assert torch.equal(value, old[key]), key
    trained = anywhere(here, lambda t: Run(t, seed=1).load(tmp_path, on_world_change=policy).train(2))
    simulated = anywhere([0, workers], lambda t: Run(t, seed=2).load(tmp_path, on_world_change=policy).train(2))
    same(trained, simulated)


@pytest.mark.parametrize("method", ["signmuon", "doublesqueeze", "adamw", "ef21muonusign"])
def test_every_sort_of_state_survives_a_policy(method: str, tmp_path: Path) -> None:
    def go_on(transport: Transport, policy: str) -> Run:
        return Run(transport, method).load(tmp_path, on_world_change=policy).train(1)

    anywhere([1, 1, 1], lambda t: _saved(Run(t, method).train(2), tmp_path))
    for policy in ("mean", "reset", "remap"):
        same(anywhere([2, 2], partial(go_on, policy=policy)), anywhere([0, 4], partial(go_on, policy=policy)))


def test_another_number_of_workers_needs_a_policy(tmp_path: Path) -> None:
    anywhere([1, 1, 1], lambda t: _saved(Run(t), tmp_path))
    for result in world([1, 1], lambda g: Run(g).load(tmp_path)):
        assert isinstance(result, CheckpointError)
        assert "rank 0, 1: " in str(result) and "workers: 3 there, 2 here" in str(result)
        assert all(policy in str(result) for policy in ("'mean'", "'reset'", "'remap'"))


# One rank fails ------------------------------------------------------------------------------------------------------


def one_error(results: list[Any], *texts: str) -> None:
    """The same error everywhere."""
    assert all(type(result) is CheckpointError for result in results), results
    assert len({str(result) for result in results}) == 1
    for text in texts:
        assert text in str(results[0]), str(results[0])


@pytest.mark.parametrize("file", ["shared.pt", "rank-00001.pt", "manifest.json"])
def test_when_one_rank_cannot_write_all_raise_and_may_try_again(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, commits = files.write_file, files.commit
    broken = True

    def write(path: Path, data: Any) -> Any:
        if broken and path.name == file:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        return writes(path, data)

    def commit(*args: Any) -> None:
        if broken and file == "manifest.json":
            raise OSError(28, "No space left on device")
        commits(*args)

    monkeypatch.setattr(files, "write_file", write)
    monkeypatch.setattr(files, "commit", commit)
    errors: list[Any] = [None] * 3
    barrier = threading.Barrier(3)

    def f(group: signa.Group) -> dict[str, Tensor]:
        nonlocal broken
        run = Run(group).train(1)
        try:
            run.save(tmp_path)
        except CheckpointError as error:
            errors[group.rank] = error
        barrier.wait()
        assert not list(tmp_path.iterdir())
        barrier.wait()
        broken = False
        run.save(tmp_path)
        return run.train(1).whole()

    after = joined(worlds.every(world([1, 1, 1], f)))
    rank = 1 if "1" in file else 0
    one_error(errors, f"rank {rank}: No space left on device", "free some space", "a checkpoint of step 1")
    same(after, anywhere([0, 3], lambda t: Run(t).train(2)))
    same(anywhere([0, 3], lambda t: Run(t, seed=1).load(tmp_path).train(1)), after)


def test_a_directory_that_is_not_shared(tmp_path: Path) -> None:
    results = _as_rank_0(world([1, 1, 1], lambda g: Run(g).save(tmp_path / ("b" if g.rank == 2 else "a"))))
    one_error(results, "rank 2: '", "is not here: use a directory that all ranks share")
    assert not list((tmp_path / "a").iterdir()) and not (tmp_path / "b").exists()
    anywhere([1, 1, 1], lambda t: _saved(Run(t), tmp_path / "a"))
    results = _as_rank_0(world([1, 1, 1], lambda g: Run(g).load(tmp_path / ("b" if g.rank == 2 else "a"))))
    one_error(results, "rank 2: there is no '")


def _as_rank_0(results: list[Any]) -> list[Any]:
    """Every rank names its own directory in front."""
    return [type(e)(re.sub("/b': rank", "/a': rank", str(e))) for e in results]


def test_rank_zero_looks_at_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.write_file

    def elsewhere(path: Path, data: Any) -> Any:
        facts = real(path, data)
        if path.name == "rank-00002.pt":
            path.unlink()
        return facts

    monkeypatch.setattr(files, "write_file", elsewhere)
    results = world([1, 1, 1], lambda g: Run(g).save(tmp_path))
    one_error(results, "rank 0: '", "rank-00002.pt' is missing: it was written elsewhere: use a directory that all")
    assert not list(tmp_path.iterdir())


def test_ranks_that_save_different_things(tmp_path: Path) -> None:
    def f(group: signa.Group, **more: Any) -> None:
        run = Run(group)
        run.opt.steps += group.rank == 1 and "step" in more
        run.save(tmp_path, **({"x": 1} if group.rank == 1 and "x" in more else {}))

    results = world([1, 1, 1], lambda g: f(g, step=1))
    assert all("rank 0, 2: step is 0; rank 1: step is 1" in str(result) for result in results), results
    one_error(world([1, 1, 1], lambda g: f(g, x=1)), "rank 0, 2: extra is ['plan']; rank 1: extra is ['plan', 'x']")
    results = world([1, 1, 1], lambda g: Run(g).save(tmp_path, x=object() if g.rank == 2 else 1))
    one_error(results, "rank 2: x is a builtins.object")
    assert not list(tmp_path.iterdir())


def test_drifted_replicas_are_not_saved(tmp_path: Path) -> None:
    def f(group: signa.Group) -> None:
        run = Run(group)
        with torch.no_grad():
            run.model["c"][0, 0] += group.rank == 1
        run.save(tmp_path)

    for result in world([1, 1, 1], f):
        assert isinstance(result, ReplicaDrift) and "'c' on rank 1" in str(result)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rank-00001.pt", "rank-00002.pt"])
def test_what_one_rank_finds_damaged_nobody_loads(name: str, tmp_path: Path) -> None:
    anywhere([1, 1, 1], lambda t: _saved(Run(t).train(1), tmp_path))
    path = tmp_path / "step-00000001" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    untouched = anywhere([0, 2], lambda t: Run(t, seed=1))

    def f(group: signa.Group) -> None:
        run = Run(group, seed=1)
        try:
            run.load(tmp_path, on_world_change="reset")
        finally:
            if group.workers == 2:
                assert all(torch.equal(value, untouched[key]) for key, value in run.whole().items() if "w" not in key)

    one_error(world([1, 1, 1], f), f"rank {name[9]}: '", "is damaged (wrong sha256): take an older checkpoint")
    one_error(world([1, 1], f), "is damaged (wrong sha256)")  # by a policy that needs none of it


def test_a_rank_that_is_interrupted_stops_the_others_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = save.plain

    def interrupted(value: Any, where: str, *rest: Any) -> Any:
        if where == "x" and value == 1:
            raise KeyboardInterrupt
        return real(value, where, *rest)

    monkeypatch.setattr(save, "plain", interrupted)
    begun = time.monotonic()

    def f(group: signa.Group) -> None:
        run = Run(group)
        try:
            run.save(tmp_path, x=group.rank)
        except PeerLost:
            with pytest.raises(SignaError, match="no further step after a fault"):  # a poisoned group saves nothing
                run.save(tmp_path, x=5)
            raise

    results = world([1, 1, 1], f)
    assert time.monotonic() - begun < 5
    assert isinstance(results[1], KeyboardInterrupt)
    assert all(isinstance(results[r], PeerLost) and "rank 1 stopped: Keyboard" in str(results[r]) for r in (0, 2))
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_is_no_dead_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, loads = files.write_file, archive.Archive.verify

    def slow(path: Path, data: Any) -> Any:
        if path.name == "rank-00001.pt":
            time.sleep(1.1)
        return writes(path, data)

    def slowly(self: Any, name: str) -> None:
        if name == "rank-00001.pt":
            time.sleep(1.1)
        loads(self, name)

    monkeypatch.setattr(files, "write_file", slow)
    monkeypatch.setattr(archive.Archive, "verify", slowly)
    worlds.every(world([1, 1], lambda g: _saved(Run(g), tmp_path).load(tmp_path), timeout=0.8))
