"""One client of a federated run: its data, its replica of the model, its worker's state. It knows nothing of Flower."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..building import build
from ..lab.client import Client
from ..lab.job import model_digest, weighted
from ..lab.runner import resolve
from ..lab.tasks import seed_of, seeded
from ..spec import Spec
from ..transport.post import Box

__all__ = ["Participant"]


class Participant:
    """Worker ``worker`` of a spec.

    Everything that it remembers from one message to the next is in :meth:`save`, so that the process may end between
    any two of them.
    """

    def __init__(self, spec: Spec, worker: int, plugins: Sequence[Path] = ()) -> None:
        spec, s = resolve(spec)
        device = torch.device(s.device)
        self.settings, self.box = s, Box(s.workers, worker)
        task = s.task.open(workers=s.workers, batch=s.batch, seed=s.seed, device=device)
        with seeded(seed_of(s.seed, "model"), device):
            self.model = task.model()
        self.optimizer = build(
            weighted(spec, task.weights()), self.model, transport=self.box, seed=s.seed, plugins=plugins
        )
        self.box.attach(self.optimizer)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        half = s.precision == "bfloat16"
        self._client = Client(
            task, self.model, s, lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
        )
        self._saved = b""

    def gradient(self, step: int, letters: Sequence[bytes]) -> dict[str, Any]:
        """Its letter of a step, and the loss, after the server's letters have brought it there; where they cannot, the
        step that its model is at, and nothing is computed."""
        if not self.box.lacks(letters):
            self.box.deliver(letters)
        if self.box.position != step:
            return {"position": self.box.position}
        factor = self.settings.schedule.factor(step, self.settings.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with torch.enable_grad(), self.optimizer.worker(self.box.worker):  # the server's step may be this process' own
            loss = self._client(self.box.worker, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"position": step, "letter": self.box.letter, "loss": float(loss)}

    def finish(self, letters: Sequence[bytes]) -> dict[str, Any]:
        """The digest of its model in the end, if the letters bring it there."""
        if self.box.lacks(letters):
            return {"position": self.box.position}
        self.box.deliver(letters)
        return {"position": self.box.position, "digest": model_digest(self.model)}

    def save(self) -> bytes:
        """The model, the optimizer with the worker's own state, and the step that the model is at."""
        data = {
            "position": self.box.position,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        file = io.BytesIO()
        torch.save(data, file)
        self._saved = file.getvalue()
        return self._saved

    def load(self, saved: bytes) -> None:
        """Go on from there.

        Raises:
            StateError: it is the state of another optimizer.
        """
        if saved == self._saved:  # this process wrote it last
            return
        data: Mapping[str, Any] = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.box.position, self._saved = data["position"], saved
