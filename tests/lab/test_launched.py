"""`signa train` on several ranks: what torchrun starts, what one process simulates, and how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from signa.errors import SpecError
from signa.lab.settings import Settings, read_settings
from signa.lab.world import World, _same, device_of, share, together
from signa.transport import Group
from signa.transport.launch import Launched, launched
from tests.lab.tiny import found, signa, tiny, words

ROOT = Path(__file__).parents[2]
PAYLOAD = ("ranks", "payload_sent", "payload_received", "payload_bits_up", "payload_bits_down")
EVERY = ("--steps", "8", "--set", "train.checkpoint_every=4", "--set", "train.timeout=60")
HANGS = 300  # seconds; a busy machine takes 60 for what takes 8 on an idle one
Patch = pytest.MonkeyPatch
Said = pytest.CaptureFixture[str]

#: A plug-in that makes worker 2, on the second of two ranks, end the run at step 6 in the way that $HOW says.
ENDING = """
import os, signal, time
from signa.lab.tasks.text import ShakespeareTask as Task

real = Task.loss

def loss(self, model, worker, step):
    if (worker, step) == (2, 6):
        if os.environ["HOW"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["HOW"] == "bug":
            raise ZeroDivisionError("a bug")
        if os.environ["HOW"] == "sleep":
            time.sleep(30)
        return real(self, model, worker, step) * float("nan")
    return real(self, model, worker, step)

Task.loss = loss
"""


def environment(**more: str) -> dict[str, str]:
    """This one with one thread, as torchrun would set."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node=2 -m signa ...`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "signa"]
    env = environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    return subprocess.run([*launcher, *command], capture_output=True, text=True, env=env, timeout=HANGS, check=False)


def pair(*command: str, **env: str) -> list[tuple[int, str, str]]:
    """Two ranks without torchrun, which would end one as soon as the other has died: exit status, stdout, stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2", **env}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "signa", *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **both),
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=HANGS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, said, strict=True)]


def same(one: Path, other: Path) -> None:
    """The runs found the same, bit for bit; only one of them sent anything."""
    (mine, summary), (theirs, there) = found(one), found(other)
    assert [{k: v for k, v in r.items() if k not in PAYLOAD} for r in mine] == [
        {k: v for k, v in r.items() if k not in PAYLOAD} for r in theirs
    ]
    assert {k: v for k, v in summary.items() if k not in PAYLOAD} == {
        k: v for k, v in there.items() if k not in PAYLOAD
    }
    assert re.fullmatch("[0-9a-f]{16}", summary["model_digest"])


def test_ranks_find_what_one_process_finds(monkeypatch: Patch, tmp_path: Path) -> None:
    overlap = ("--set", "train.overlap=true")
    assert tiny(monkeypatch, tmp_path, *EVERY, *overlap, "--name", "one") == 0
    done = torchrun(*words(tmp_path, *EVERY, *overlap, "--name", "two"))
    assert done.returncode == 0, done.stderr
    same(tmp_path / "one", tmp_path / "two")
    metrics, summary = found(tmp_path / "two")
    assert summary["ranks"] == 2 and summary["payload_sent"] > 1000 < summary["payload_received"]
    bits = 8 * summary["payload_sent"] / summary["parameters"] / 3  # rank 0 holds three of five workers
    assert summary["payload_bits_up"] == pytest.approx(bits) and metrics[0]["payload_sent"] > 1000
    assert found(tmp_path / "one")[1]["payload_sent"] == 0.0
    assert done.stdout.count("validation loss") == 1 and done.stdout.count("two: step 8/8") == 1
    assert re.search(r"payload of rank 0   [\d,]+ bytes sent", done.stdout)
    told = (tmp_path / "two" / "exchanges.txt").read_text()
    assert "signs -> signs -> signs" in told and "overlap=True" in told
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_a_dead_rank_is_named_and_its_run_goes_on_in_one_process(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(ENDING)
    plugin = ("--plugin", str(tmp_path / "ending.py"), "--workers", "3", "--name", "dead")
    (code, _, err), (killed, out, _) = pair(*words(tmp_path, *EVERY, *plugin), HOW="kill")
    assert (code, killed, out) == (1, -9, "")
    assert re.fullmatch(
        r"rank 0: error: PeerLost: .*no sign of life from rank 1: go on with signa train --resume .*\n", err
    ), err
    assert signa(monkeypatch, "train", "--resume", str(tmp_path / "dead")) == 0
    assert tiny(monkeypatch, tmp_path, *EVERY, "--workers", "3", "--name", "whole") == 0
    same(tmp_path / "whole", tmp_path / "dead")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "timeout", "first", "second"),
    [
        ("bug", 60, r"rank 0: error: .*rank 1 stopped: ZeroDivisionError: a bug.*\n", r"(?s)Traceback.*: a bug\n"),
        ("nan", 60, *[r"rank {}: error: the training loss is nan at step 8 of 8: .*\n"] * 2),
        (
            "sleep",
            12,
            r"rank 0: error: CollectiveTimeout: .*no answer for 12.0 s in step 6, .*no sign of life from rank 1: .*\n",
            "",
        ),
    ],
)
def test_every_rank_says_in_one_line_why_it_ends(
    tmp_path: Path, how: str, timeout: int, first: str, second: str
) -> None:
    """With time to spare: on a busy machine a rank may stand for seconds in a step before the one that counts."""
    (tmp_path / "ending.py").write_text(ENDING)
    plugin = ("--plugin", str(tmp_path / "ending.py"), "--workers", "3", "--set", f"train.timeout={timeout}")
    (code, _, err), (other, _, told) = pair(*words(tmp_path, *EVERY, *plugin), HOW=how, PYTHONWARNINGS="ignore")
    lines = [line for line in err.splitlines(keepends=True) if "Advice" not in line and not line.startswith("  ")]
    assert code == 1 and re.fullmatch(first.format(0), "".join(lines)), err
    assert other != 0 and (not second or re.fullmatch(second.format(1), told)), told


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_under_torchrun(monkeypatch: Patch, tmp_path: Path) -> None:
    assert tiny(monkeypatch, tmp_path, *EVERY, "--name", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr("signa.lab.tasks.text.ShakespeareTask.sample", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny(patch, tmp_path, *EVERY, "--name", "one")
    done = torchrun("train", "--resume", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr
    same(tmp_path / "whole", tmp_path / "one")


@pytest.mark.slow
def test_several_methods_on_ranks(monkeypatch: Patch, tmp_path: Path) -> None:
    arms = ("--compare", "signmuon,muon=1e30,adamw")
    assert tiny(monkeypatch, tmp_path, *EVERY, *arms, "--name", "one") == 0
    done = torchrun(*words(tmp_path, *EVERY, *arms, "--name", "two"))
    assert done.returncode == 0, done.stderr
    for name in ("signmuon", "adamw"):
        same(tmp_path / "one" / name, tmp_path / "two" / name)
    assert done.stdout.count("| signmuon |") == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_refused_on_every_rank(tmp_path: Path) -> None:
    ends = pair(*words(tmp_path, *EVERY, "--name", "../x"))
    for rank, (code, _, err) in enumerate(ends):
        assert code == 2 and err.startswith(f"rank {rank}: error: '../x' is not a run name; because: "), err


@pytest.mark.parametrize(("workers", "ranks", "held"), [(5, 2, [3, 2]), (4, 4, [1] * 4), (8, 3, [3, 3, 2])])
def test_the_first_ranks_hold_one_more(workers: int, ranks: int, held: list[int]) -> None:
    assert share(workers, ranks) == held


def test_fewer_workers_than_ranks_are_refused(monkeypatch: Patch, capsys: Said, tmp_path: Path) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    settings = Settings(workers=3, device="cpu")
    with pytest.raises(SpecError) as caught, together(settings, "a run"):
        pass
    assert str(caught.value) == (
        "train.workers: there are 4 ranks for 3 workers\n  because: every rank holds at least one\n"
        "  instead: pass --workers 4, or torchrun --nproc-per-node=3"
    )


def test_ranks_with_different_runs_are_refused() -> None:
    group = Group.__new__(Group)
    told = [f"seed: 0\nsteps: {steps}" for steps in (3, 3, 4)]
    group.ranks = cast(Any, SimpleNamespace(texts=lambda *_: told))
    with pytest.raises(SpecError, match=r"different runs: 'steps: 3' on rank 0, 1 \| 'steps: 4' on rank 2"):
        _same(World(group, torch.device("cpu")), "seed: 0\nsteps: 3")


def test_torchruns_environment_is_read(monkeypatch: Patch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert launched() == Launched(3, 4, 3, 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launched() == Launched(3, 4, 1, 2)


def test_each_rank_of_a_machine_has_its_gpu(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    third = Launched(2, 4, 2, 4)
    assert device_of(Settings(device="cuda"), Launched(5, 8, 1, 2)) == torch.device("cuda", 1)
    assert device_of(Settings(device="cuda:0"), third) == torch.device("cuda", 0)
    assert device_of(Settings(device="cpu"), third) == torch.device("cpu")
    with pytest.raises(SpecError, match=r"rank 2 has no GPU: this machine has 2, and 4 ranks(?s:.*)nproc-per-node=2"):
        device_of(Settings(device="cuda"), third)


def test_an_exchange_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match="allgather does not go with server: sharded"):
        read_settings({"exchange": "allgather", "server": "sharded"})
    with pytest.raises(SpecError, match=r"int8 does not go with workers: 128(?s:.*)write exchange: lanes"):
        read_settings({"exchange": "int8", "workers": 128})
    assert read_settings({"exchange": "int8", "workers": 127}).exchange == "int8"
