"""The server of a federated run: a run of the lab whose workers answer by letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import PeerLost, ReplicaDrift
from ..lab import runner
from ..lab.client import taking_part
from ..lab.facts import facts
from ..lab.job import Job, model_digest
from ..lab.ledger import Ledger
from ..lab.progress import Progress
from ..lab.records import RunFolder
from ..lab.refusal import refusal
from ..lab.report import Reporter, Result, Silent
from ..lab.settings import Settings
from ..lab.sinks import SinkConfig
from ..lab.world import World
from ..spec import Spec
from ..transport.post import MODEL, SERVER, Office, written

__all__ = ["Carrier", "serve"]

Replies = Mapping[int, Mapping[str, Any]]


class Carrier(Protocol):
    """Brings letters to clients and their replies back; Flower's grid does (:mod:`signa.flower.grid`)."""

    def gather(self, workers: int) -> None:
        """Wait until so many clients are there."""

    def ask(self, kind: str, requests: Mapping[int, Mapping[str, Any]], letters: Mapping[int, list[bytes]]) -> Replies:
        """Ask clients, by worker, each with its letters; the replies of those that were heard of in time."""
        ...


class Mail:
    """The post of a run: who is asked in a step, what each of them lacks, and how many bytes that makes."""

    def __init__(self, carrier: Carrier, settings: Settings, keep: int, report: Reporter) -> None:
        self.carrier, self.settings, self.report = carrier, settings, report
        self.office = Office(settings.workers, self, keep=keep)
        self.positions = dict.fromkeys(range(settings.workers), 0)
        self.up = self.down = self.models = self.absent = 0
        self.losses: list[list[float]] = []

    def __call__(self, step: int) -> dict[int, bytes]:
        """The letters of a step.

        Raises:
            PeerLost: not one client answered.
        """
        present = taking_part(self.settings, step)
        replies = self.ask("train", present, {"step": step}, "letter")
        came = {worker: reply for worker, reply in sorted(replies.items()) if "letter" in reply}
        if missing := sorted(set(present) - set(came)):
            self.absent += len(missing)
            self.report.say(f"step {step}: no answer from {', '.join(f'client {w}' for w in missing)}: absent")
        if not came:
            raise PeerLost(f"no client answered in step {step}, within {self.settings.timeout:g} s")
        self.losses.append([reply["loss"] for reply in came.values()])
        letters = {worker: bytes(reply["letter"]) for worker, reply in came.items()}
        self.up += sum(map(len, letters.values()))
        return letters

    def ask(
        self, kind: str, workers: Sequence[int], request: Mapping[str, Any], wanted: str, *, again: bool = True
    ) -> dict[int, Mapping[str, Any]]:
        """Ask these, each with what it lacks; those that know less than was thought (they were started anew) tell what,
        and are asked once more."""
        letters = {worker: self.office.missed(self.positions[worker]) for worker in workers}
        self.down += sum(len(letter) for own in letters.values() for letter in own)
        self.models += sum(written(letter)[0] == MODEL for own in letters.values() for letter in own)
        replies = dict(self.carrier.ask(kind, dict.fromkeys(workers, request), letters))
        self.positions |= {worker: int(reply["position"]) for worker, reply in replies.items()}
        behind = [worker for worker, reply in replies.items() if wanted not in reply]
        return replies | (self.ask(kind, behind, request, wanted, again=False) if behind and again else {})

    def finish(self, digest: str) -> list[int]:
        """Bring everybody to the end, and compare; who answered.

        Raises:
            ReplicaDrift: a client's model is not the server's, bit for bit.
        """
        replies = self.ask("finish", range(self.settings.workers), {}, "digest")
        apart = sorted(worker for worker, reply in replies.items() if reply.get("digest") != digest)
        if apart:
            raise ReplicaDrift(f"the model of client {', '.join(map(str, apart))} is not the server's in the end")
        return sorted(replies)


@dataclass(frozen=True)
class Federation(World):
    """The server and its clients; this process leads. The payload is the clients': sent is up, received is down."""

    mail: Mail = field(kw_only=True)

    @property
    def size(self) -> int:
        """The server, and a process for every client."""
        return 1 + self.transport.workers

    def traffic(self) -> tuple[int, int]:
        """Bytes of letters."""
        return self.mail.up, self.mail.down

    def beside(self, rows: list[list[float]]) -> list[list[float]]:
        """The losses that came with the letters of these steps."""
        told, self.mail.losses[:] = self.mail.losses[: len(rows)], self.mail.losses[len(rows) :]
        return told


class FederatedJob(Job):
    """A run whose gradients come by letters, and whose clients all have the server's model in the end."""

    def __init__(self, spec: Spec, settings: Settings, world: Federation, plugins: Sequence[Path]) -> None:
        super().__init__(spec, settings, world, plugins)
        self.mail, self.office = world.mail, world.mail.office
        self.office.attach(self.optimizer)
        entries = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        self.progress = Progress(Ledger(world.traffic, entries * len(taking_part(settings, 0))))

    def run(self, report: Reporter, until: int | None = None) -> None:
        """Every step, and the last letters.

        Raises:
            ReplicaDrift: a client's model is not the server's.
        """
        super().run(report, until)
        down = self.mail.down
        checked = self.mail.finish(model_digest(self.model))
        self.folder.json(
            "federated.json",
            {
                "clients": self.settings.workers,
                "letter_up": self.office.size(0),
                "letter_down": self.office.size(SERVER),
                "letter_model": self.office.size(MODEL, buffers=True),
                "bytes_up": self.mail.up,
                "bytes_down": down,
                "bytes_down_at_the_end": self.mail.down - down,
                "models_sent": self.mail.models,
                "absent": self.mail.absent,
                "equal_in_the_end": checked,
            },
        )
        report.say(f"{len(checked)} of {self.settings.workers} clients have the server's model in the end, bit for bit")


def serve(
    spec: Spec,
    carrier: Carrier,
    *,
    name: str,
    out: Path,
    keep: int = 20,
    plugins: Sequence[Path] = (),
    sinks: Sequence[SinkConfig] = (),
    report: Reporter | None = None,
    command: Sequence[str] = (),
) -> Result:
    """Train once with the clients that ``carrier`` reaches, and write `out/name` as `signa train` does, and
    federated.json beside.

    Args:
        keep: how many letters the server keeps for clients that were away; after that they are sent the model.

    Raises:
        SpecError: the spec or the name is wrong. PeerLost: a client stopped, or all are silent. Diverged: the loss did.
    """
    report = report or Silent()
    spec, settings = runner.resolve(spec.replace({"train.checkpoint_every": 0}))
    if settings.diagnose_every:
        raise refusal(
            "a federated run cannot be diagnosed",
            address="train.diagnose_every",
            because="its workers' state is at the clients",
            instead="write 0, and simulate the run by signa train to look inside: its bits are equal",
        )
    mail = Mail(carrier, settings, keep, report)
    world = Federation(mail.office, torch.device(settings.device), mail=mail)

    job = FederatedJob(spec, settings, world, plugins)
    with runner.new_folder(world, lambda: RunFolder(out, name)) as job.folder:
        job.folder.text("spec.yaml", text := spec.dump("yaml"))
        job.folder.json("environment.json", facts(job, command, text))
        carrier.gather(settings.workers)
        return runner.finish(job, report, sinks)
