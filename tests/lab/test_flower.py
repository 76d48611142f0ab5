"""A federated run is `signa train`, bit for bit: its clients told apart by letters alone, over Flower's grid, and over
Flower's own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from signa.commands import federated
from signa.errors import LayoutMismatch, PeerLost, ReplicaDrift, SpecError
from signa.flower.client import Participant
from signa.flower.server import serve
from signa.lab import runner
from signa.lab.settings import load_experiment
from signa.spec import Spec
from tests.lab.test_launched import ROOT, environment, torchrun
from tests.lab.tiny import found

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
TASK = "{kind: shakespeare, layers: 1, heads: 2, width: 32, context: 16}"
SETTINGS = {
    "task": TASK, "batch": "4", "steps": "4", "workers": "4", "sample": "0.5", "local_steps": "2", "accumulate": "2",
    "device": "cpu", "eval_every": "2", "log_every": "2", "checkpoint_every": "0", "timeout": "60",
}  # fmt: skip
WORDS = [word for key, value in SETTINGS.items() for word in ("--set", f"train.{key}={value}")]
#: What a run with clients measures besides: the wire, and how many processes there are.
OURS = ("ranks", "payload_sent", "payload_received", "payload_bits_up", "payload_bits_down")
Answer = Callable[[int, str, dict[str, Any]], "dict[str, Any] | None"]


def experiment(method: str = "signmuon", **changes: Any) -> Spec:
    from signa.sources import read_value

    settings = {f"train.{key}": read_value(value) for key, value in SETTINGS.items()}
    return load_experiment(method, changes=settings | {f"train.{key}": value for key, value in changes.items()})


class Near:
    """Clients in this process; with ``forgets`` they forget everything but their bytes after each message."""

    def __init__(self, spec: Spec, answer: Answer = lambda worker, kind, told: told, *, forgets: bool = False) -> None:
        self.spec, self.answer, self.forgets = spec, answer, forgets
        self.clients: dict[int, Participant] = {}
        self.states: dict[int, bytes] = {}
        self.asked: list[tuple[str, int, int]] = []

    def gather(self, workers: int) -> None:
        """All are here."""

    def ask(self, kind: str, requests: Mapping[int, Any], letters: Mapping[int, list[bytes]]) -> dict[int, Any]:
        told: dict[int, Any] = {}
        for worker, request in requests.items():
            self.asked.append((kind, worker, len(letters[worker])))
            client = self.clients.get(worker) or Participant(self.spec, worker)
            if worker in self.states:
                client.load(self.states[worker])
            reply = (
                client.gradient(request["step"], letters[worker]) if kind == "train" else client.finish(letters[worker])
            )
            self.clients |= {} if self.forgets else {worker: client}
            self.states |= {worker: client.save()} if self.forgets else {}
            if (answer := self.answer(worker, kind, reply)) is not None:
                told[worker] = answer
        return told


def same(one: Path, other: Path) -> None:
    """Metrics, digest and every other number but the wire's."""
    (mine, summary), (theirs, there) = found(one), found(other)
    strip = [[{k: v for k, v in record.items() if k not in OURS} for record in part] for part in (mine, theirs)]
    assert strip[0] == strip[1]
    assert {k: v for k, v in summary.items() if k not in OURS} == {k: v for k, v in there.items() if k not in OURS}


@pytest.mark.parametrize("method", [pytest.param("signmuon", marks=pytest.mark.slow), "ef21muonsign"])
def test_letters_and_bytes_are_all_that_a_client_needs(tmp_path: Path, method: str) -> None:
    """Client sampling, local steps, accumulation; under EF21-P also as if each message had a process of its own."""
    spec = experiment(method)
    runner.train(spec, name="one", out=tmp_path)
    result = serve(spec, Near(spec, forgets=method == "ef21muonsign"), name="two", out=tmp_path)
    same(tmp_path / "one", tmp_path / "two")
    told = json.loads((tmp_path / "two" / "federated.json").read_text())
    assert told["equal_in_the_end"] == [0, 1, 2, 3] and told["absent"] == 0 and told["clients"] == 4
    assert told["bytes_up"] == 4 * 2 * told["letter_up"] == 4 * result.payload_sent
    assert 4 * result.payload_received == pytest.approx(told["bytes_down"])
    assert result.payload_bits_up == pytest.approx(8 * told["letter_up"] / result.parameters)
    assert result.bits_up < result.payload_bits_up < 1.02 * result.bits_up + 8 * 400 / result.parameters


def test_a_client_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    """Its state is lost before step 2: it says where it is, and is asked once more, with all that it lacks."""
    spec = experiment(sample=1.0)
    near = Near(spec)
    lost = iter([2])

    def answer(worker: int, kind: str, told: dict[str, Any]) -> dict[str, Any]:
        if (worker, told["position"]) == (3, 1) and "letter" in told and next(lost, None):
            del near.clients[1]
        return told

    near.answer = answer
    serve(spec, near, name="run", out=tmp_path, keep=1)
    assert [(kind, sent) for kind, worker, sent in near.asked if worker == 1] == [
        ("train", 0), ("train", 1), ("train", 1), ("train", 1), ("train", 1), ("finish", 1),
    ]  # fmt: skip
    told = json.loads((tmp_path / "run" / "federated.json").read_text())
    assert told["models_sent"] == 1 and told["equal_in_the_end"] == [0, 1, 2, 3]


def test_a_silent_client_is_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = experiment(sample=1.0)
    near = Near(spec, lambda worker, kind, told: None if (worker, told["position"], kind) == (2, 2, "train") else told)
    serve(spec, near, name="run", out=tmp_path)
    told = json.loads((tmp_path / "run" / "federated.json").read_text())
    assert told["absent"] == 1 and told["bytes_up"] == 15 * told["letter_up"]
    assert told["equal_in_the_end"] == [0, 1, 2, 3]


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    spec = experiment()
    with pytest.raises(PeerLost, match="no client answered in step 0, within 60 s"):
        serve(spec, Near(spec, lambda *_: None), name="silent", out=tmp_path)
    with pytest.raises(ReplicaDrift, match="the model of client 2 is not the server's in the end"):
        serve(
            spec, Near(spec, lambda w, kind, told: told | {"digest": "0"} if (w, kind) == (2, "finish") else told),
            name="apart", out=tmp_path,
        )  # fmt: skip
    with pytest.raises(LayoutMismatch, match=r"worker \d writes wire version 1 and layout"):
        serve(spec, Near(experiment(seed=1)), name="seeds", out=tmp_path)
    with pytest.raises(SpecError, match=r"train\.diagnose_every: a federated run cannot be diagnosed"):
        serve(experiment(diagnose_every=2), Near(spec), name="inside", out=tmp_path)


# The command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[typer.Typer]:
    before = dict(os.environ)
    made = typer.Typer()
    made.callback()(lambda: None)
    federated.register(made)
    yield made
    os.environ.clear()
    os.environ.update(before)


def run(app: typer.Typer, *words: str) -> Any:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, ["federated", "signmuon", *WORDS, *words])


def test_flower_that_is_missing_is_named(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("signa.flower.records.find_spec", lambda name: None)
    done = run(app, "--out", str(tmp_path / "runs"))
    assert isinstance(done.exception, SpecError) and "pip install 'signa-optim[flower]'" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_arguments_that_make_no_sense(app: typer.Typer) -> None:
    assert "'ray' is none of simulation, deployment" in run(app, "--engine", "ray").output
    assert "0 is not a number from 1 on" in run(app, "--keep", "0").output


def test_flower_in_one_process_is_the_simulation(app: typer.Typer, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    out = ("--out", str(tmp_path))
    done = run(app, *out, "--name", "two", "--clients", "3", "--steps", "3", "--seed", "5", "--keep", "1")
    assert done.exit_code == 0, done.output
    runner.train(experiment(workers=3, steps=3, seed=5), name="one", out=tmp_path)
    same(tmp_path / "one", tmp_path / "two")
    assert "3 of 3 clients have the server's model in the end, bit for bit" in done.output
    assert "federated.json, the bytes of the letters" in done.output
    told = json.loads((tmp_path / "two" / "federated.json").read_text())
    assert told["models_sent"] > 0 and os.environ["FLWR_TELEMETRY_ENABLED"] == "0"


def test_flower_as_json(app: typer.Typer, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    done = run(app, "--out", str(tmp_path), "--name", "told", "--clients", "2", "--steps", "2", "--json")
    assert done.exit_code == 0, done.output
    said, folder = json.loads(done.stdout), tmp_path / "told"
    assert said["folder"] == str(folder) and said["runs"] == [json.loads((folder / "summary.json").read_text())]
    assert said["letters"] == json.loads((folder / "federated.json").read_text())
    assert said["letters"]["clients"] == said["runs"][0]["workers"] == 2 and said["letters"]["bytes_up"] > 0


class Nodes:
    """A grid whose nodes come and go; node 10 + j answers for worker ``workers[j]``."""

    def __init__(self, there: list[int], workers: dict[int, int]) -> None:
        self.there, self.workers, self.hellos = there, workers, list[int]()

    def get_node_ids(self) -> list[int]:
        return self.there

    def send_and_receive(self, messages: list[Any], *, timeout: float) -> list[Any]:
        from signa.flower.records import HELLO, message

        assert timeout == 7.0
        for one in messages:
            if one.metadata.message_type == HELLO:
                self.hellos.append(one.metadata.dst_node_id)
        return [message({"worker": self.workers[m.metadata.dst_node_id], "position": 0}, reply_to=m) for m in messages]


def test_nodes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked once who it is; one that left is not asked, and one that comes back has another number."""
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    from signa.flower.grid import GridCarrier

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)
    grid = Nodes([10, 11], {10: 0, 11: 1, 12: 1, 13: 0})
    carrier = GridCarrier(grid, timeout=7.0, patience=0.3)
    carrier.gather(2)
    both: dict[int, dict[str, Any]] = {0: {"step": 3}, 1: {"step": 3}}
    assert set(carrier.ask("train", both, {0: [], 1: [b"x"]})) == {0, 1} and sorted(grid.hellos) == [10, 11]
    grid.there = [10]
    assert set(carrier.ask("train", both, {0: [], 1: []})) == {0}
    grid.there = [10, 12]
    assert set(carrier.ask("train", both, {0: [], 1: []})) == {0, 1} and sorted(grid.hellos) == [10, 11, 12]
    grid.there = [10, 12, 13]
    with pytest.raises(LayoutMismatch, match="two clients say that they are worker 0: give each its own partition-id"):
        carrier.ask("train", both, {0: [], 1: []})
    with pytest.raises(PeerLost, match=r"1 of 2 clients came within 0\.3 s"):
        GridCarrier(Nodes([10], {10: 0}), timeout=7.0, patience=0.3).gather(2)


def command(*words: str) -> list[str]:
    """The command in a process of its own."""
    code = "import typer; from signa.commands import federated as f; app = typer.Typer(pretty_exceptions_enable=False)"
    code += "; app.callback()(lambda: None); f.register(app); app()"
    return [sys.executable, "-c", code, "federated", "signmuon", *WORDS, *words]


def left() -> list[str]:
    """Command lines of Flower's processes that have the files of a run of ours."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"FLWR_HOME=" in (data := (process / "environ").read_bytes()) and b"signa-flower-" in data:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def gone() -> bool:
    """Whether none of them is left, some seconds from now at the latest: a killed process still has to end."""
    end = time.monotonic() + 10
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    return not left()


@pytest.mark.slow
def test_loopback_and_ranks_and_flowers_processes_are_one_run(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    few = ("--steps", "2", "--out", str(tmp_path), "--name")
    done = subprocess.run(
        command("--engine", "deployment", "--clients", "2", *few, "flower"), capture_output=True, text=True,
        env=environment(), cwd=ROOT, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 clients have the server's model in the end, bit for bit" in done.stdout and gone()
    ranks = torchrun("train", "signmuon", *WORDS, "--workers", "2", *few, "ranks")
    assert ranks.returncode == 0, ranks.stderr
    runner.train(experiment(workers=2, steps=2), name="loopback", out=tmp_path)
    same(tmp_path / "loopback", tmp_path / "flower")
    same(tmp_path / "loopback", tmp_path / "ranks")
    told = json.loads((tmp_path / "flower" / "federated.json").read_text())
    assert told["equal_in_the_end"] == [0, 1] and told["models_sent"] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_process(tmp_path: Path, how: signal.Signals) -> None:
    pytest.importorskip("flwr")
    process = subprocess.Popen(
        command("--engine", "deployment", "--clients", "2", "--out", str(tmp_path)),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT,
    )  # fmt: skip
    end = time.monotonic() + 60
    while len(left()) < 5 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(left()) >= 5  # the link, two nodes, and what they start
    process.send_signal(how)
    assert process.wait(60) != 0
    assert gone()


@pytest.mark.slow
def test_what_a_client_stops_with_reaches_the_terminal(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    plugin = tmp_path / "ending.py"
    plugin.write_text(
        "from signa.lab.tasks.text import ShakespeareTask as Task\n\n"
        "def loss(self, model, worker, step):\n    raise ZeroDivisionError('a bug')\n\nTask.loss = loss\n"
    )
    done = subprocess.run(
        command("--engine", "deployment", "--clients", "2", "--plugin", str(plugin), "--out", str(tmp_path / "runs")),
        capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "PeerLost: client" in done.stderr and "a bug" in done.stderr, done.stderr
    assert gone()
