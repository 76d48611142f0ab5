"""Flower's deployment on one machine: a SuperLink, a SuperNode for every client, and a process for every message.

Everything talks on 127.0.0.1, keeps its files in a folder that is deleted, and ends with this process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import errors
from ..lab.refusal import refusal
from ..lab.report import Reporter, Result
from ..lab.settings import read_settings
from ..lab.sinks import chosen
from ..lab.terminal import closing
from ..spec import Spec
from .apps import client_app, server_app
from .records import flwr

__all__ = ["apps", "deploy"]

LINK = 'superlink.here = {{address = "127.0.0.1:{port}", insecure = true}}\nsuperlink.default = "here"\n'
PROJECT = """
[project]
name = "federated"
version = "1.0.0"
description = "A federated run of SignA"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "signa"

[tool.flwr.app.components]
serverapp = "federated_app:server"
clientapp = "federated_app:client"

[tool.flwr.app.config]
"""
APP = """from pathlib import Path

from signa.flower.deployment import apps

APPS = apps(Path(__file__).parent)
client = APPS[0]
server = APPS[1]
"""  # `flwr run` looks for these names without running the file


# In the processes that Flower starts ------------------------------------------------------------------------------


class Told:
    """A reporter that writes its calls into a file, for the process that has a terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tell(self, call: str, **words: Any) -> None:
        """One line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"call": call, **words}) + "\n")

    def start(self, name: str, steps: int) -> None:
        """Pass it on."""
        self.tell("start", name=name, steps=steps)

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Pass it on."""
        self.tell("progress", step=step, train_loss=train_loss, metrics=metrics and dict(metrics))

    def say(self, line: str) -> None:
        """Pass it on."""
        self.tell("say", line=line)

    def stop(self) -> None:
        """Pass it on."""
        self.tell("stop")

    def result(self, result: Result) -> None:
        """The end, in words."""
        self.tell("result", folder=str(result.folder), text=closing(result))


def apps(folder: Path) -> tuple[Any, Any]:
    """The ClientApp and the ServerApp of the folder that :func:`deploy` wrote."""
    spec, how = folder / "spec.yaml", json.loads((folder / "deployment.json").read_text(encoding="utf-8"))
    plugins, told = [Path(path) for path in how["plugins"]], Told(Path(how["told"]))
    server = server_app(
        spec, name=how["name"], out=Path(how["out"]), keep=how["keep"], plugins=plugins, sinks=chosen(how["sinks"]),
        command=how["command"], report=told, then=told.result, failed=lambda error: told.tell(
            "failed", kind=type(error).__name__, text=str(error)
        ),
    )  # fmt: skip
    return client_app(spec, plugins), server


# In the process that starts them ----------------------------------------------------------------------------------


def deploy(
    spec: Spec,
    *,
    name: str,
    out: Path,
    keep: int,
    plugins: Sequence[Path],
    sinks: Sequence[str],
    report: Reporter,
    command: Sequence[str],
) -> tuple[Path, str]:
    """Run a spec with a client for each of its workers; the run's folder, and what it says in the end.

    Raises:
        SignaError: what the server or a client stopped with. WireError: a process of Flower's ended before the run.
    """
    flwr("")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signa-flower-")))
        clients, told = read_settings(spec.train).workers, root / "told.jsonl"
        port, *ports = _free(1 + clients)
        how = {
            "name": name, "out": str(out.absolute()), "keep": keep, "told": str(told), "sinks": list(sinks),
            "plugins": [str(path.absolute()) for path in plugins], "command": list(command),
        }  # fmt: skip
        files = {
            "home/config.toml": LINK.format(port=port), "app/pyproject.toml": PROJECT, "app/federated_app.py": APP,
            "app/spec.yaml": spec.dump("yaml"), "app/deployment.json": json.dumps(how), "told.jsonl": "",
        }  # fmt: skip
        for file, text in files.items():
            (root / file).parent.mkdir(exist_ok=True)
            (root / file).write_text(text, encoding="utf-8")
        link = f"127.0.0.1:{port}"
        alive = [
            stack.enter_context(_started(root, "flower-superlink", "--insecure", "--isolation", "subprocess",
                "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation")),
            *(stack.enter_context(_started(root, "flower-supernode", "--insecure", "--superlink", link,
                "--host", "127.0.0.1", "--port", str(own),
                "--node-config", f"partition-id={worker} num-partitions={clients}"))
              for worker, own in enumerate(ports)),
        ]  # fmt: skip
        _listening(port, alive[0], root)
        run = stack.enter_context(_started(root, "flwr", "run", str(root / "app"), "here", "--stream"))
        return _followed(told, run, alive, report, root)


def _followed(
    told: Path, run: subprocess.Popen[bytes], alive: Sequence[subprocess.Popen[bytes]], report: Reporter, root: Path
) -> tuple[Path, str]:
    """Repeat what the server tells until it ends."""
    with told.open(encoding="utf-8") as file:
        while True:
            over = run.poll() is not None or any(process.poll() is not None for process in alive)
            line = ""
            while piece := file.readline():
                line += piece
                if not line.endswith("\n"):
                    time.sleep(0.01)
                    continue
                words, line = json.loads(line), ""
                call = words.pop("call")
                if call == "result":
                    return Path(words["folder"]), words["text"]
                if call == "failed":
                    raise _error(words["kind"], words["text"])
                getattr(report, call)(**words)
            if over:
                raise errors.WireError(f"Flower ended before the run did:\n{_last_words(root)}")
            time.sleep(0.1)


def _error(kind: str, text: str) -> Exception:
    found = getattr(errors, kind, None)
    if found is errors.SpecError or not (isinstance(found, type) and issubclass(found, errors.SignaError)):
        return refusal(text) if found is errors.SpecError else errors.WireError(f"the server stopped: {kind}: {text}")
    return found(text)


@contextmanager
def _started(root: Path, program: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower's in a process group of its own, which ends with the block."""
    with (root / f"{program}-{len(list(root.glob('*.log')))}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / program), *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(root),
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def _environment(root: Path) -> dict[str, str]:
    """This one, without telemetry, proxies and the user's Flower files; as many threads as here, for equal bits."""
    package = Path(__file__).parents[2]
    return os.environ | {
        "FLWR_HOME": str(root / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")])),
    }


def _listening(port: int, link: subprocess.Popen[bytes], root: Path) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + 60
    while link.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise errors.WireError(f"the SuperLink did not start:\n{_last_words(root)}")


def _free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _last_words(root: Path) -> str:
    """What Flower's programs said last, but for what they say when all is well."""
    logs = {path.stem: path.read_text(errors="replace").splitlines() for path in sorted(root.glob("*.log"))}
    told = {name: [line for line in lines if line.strip() and "INFO" not in line][-12:] for name, lines in logs.items()}
    return "\n".join(f"  {name}: {line}" for name, lines in told.items() for line in lines)
