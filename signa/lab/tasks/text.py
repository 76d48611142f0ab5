"""Text: character-level tiny-shakespeare."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import Fault
from ...rule import Count
from ..models import GPT
from ..refusal import refusal
from .base import Task, TaskConfig, seed_of, tasks

__all__ = ["Shakespeare", "ShakespeareTask", "read_shakespeare"]

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHIPPED = Path(__file__).parents[1] / "data"


@tasks.register
class Shakespeare(TaskConfig):
    """Character-level tiny-shakespeare: the first 90 % of 1,115,394 characters train a `GPT`, the rest validate it."""

    kind: Literal["shakespeare"] = "shakespeare"
    layers: Count = 4
    heads: Count = 4
    width: Count = 128
    context: Count = 64

    @model_validator(mode="after")
    def _divisible(self) -> Shakespeare:
        if self.width % (2 * self.heads):
            raise Fault(
                f"width {self.width} is no multiple of 2 x heads = {2 * self.heads}",
                because="rotary positions turn pairs of entries of a head",
                instead=f"write width: {-(-self.width // (2 * self.heads)) * 2 * self.heads}",
            )
        return self

    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        """Load the text onto the device. Each worker draws its own windows: `workers` is how many streams there are."""
        return ShakespeareTask(self, batch, seed, device)


class ShakespeareTask(Task):
    """The text on a device."""

    def __init__(self, config: Shakespeare, batch: int, seed: int, device: torch.device) -> None:
        text = read_shakespeare()
        self.letters = "".join(sorted(set(text)))
        index = {c: i for i, c in enumerate(self.letters)}
        tokens = torch.tensor([index[c] for c in text], dtype=torch.long)
        cut = len(tokens) * 9 // 10
        self.train, self.val = tokens[:cut].to(device), tokens[cut:].to(device)
        self.config, self.batch, self.seed, self.device = config, batch, seed, device
        self.window = torch.arange(config.context + 1)
        self.examples = batch * config.context

    def model(self) -> nn.Module:
        c = self.config
        model = GPT(vocabulary=len(self.letters), layers=c.layers, heads=c.heads, width=c.width, context=c.context)
        return model.to(self.device)

    def loss(self, model: nn.Module, worker: int, draw: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "worker", worker, "step", draw))
        start = torch.randint(len(self.train) - self.config.context, (self.batch,), generator=generator)
        return self._loss(model, self._windows(self.train, start))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, whole: bool) -> dict[str, float]:
        """Windows side by side: each character but the first is predicted once, from at most `context` before it."""
        context = self.config.context
        start = torch.arange(0, len(self.val) - context, context)[:: 1 if whole else 8]
        total = torch.zeros((), dtype=torch.float64)
        for part in start.split(max(1, 16_384 // context)):
            total += len(part) * self._loss(model, self._windows(self.val, part)).double().cpu()
        return {"val_loss": float(total / len(start))}

    @torch.no_grad()
    def sample(self, model: nn.Module) -> str:
        """300 characters at temperature 0.8, drawn with the run's seed."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "sample"))
        tokens = torch.tensor([[self.letters.index("\n")]], device=self.device)
        for _ in range(300):
            logits = model(tokens[:, -self.config.context :])[0, -1].float().cpu()
            drawn = torch.multinomial((logits / 0.8).softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, drawn.to(self.device)[None]), dim=1)
        return "".join(self.letters[i] for i in tokens[0].tolist()).strip()

    def _windows(self, text: Tensor, start: Tensor) -> Tensor:
        return text[(start[:, None] + self.window).to(text.device)]  # (batch, context + 1)

    @staticmethod
    def _loss(model: nn.Module, windows: Tensor) -> Tensor:
        return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def read_shakespeare() -> str:
    """Read tiny-shakespeare from `$SIGNA_DATA/shakespeare/input.txt`, else the shipped copy.

    Raises:
        SpecError: where the file is another text, because results would not be comparable.
    """
    path = SHIPPED / "tinyshakespeare.txt"
    if root := os.environ.get("SIGNA_DATA"):
        own = Path(root) / "shakespeare" / "input.txt"
        path = own if own.is_file() else path
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise refusal(
            f"{path} is not tiny-shakespeare",
            because=f"its sha256 is {found}, not {SHAKESPEARE_SHA256}",
            instead="unset SIGNA_DATA to read the shipped copy",
        )
    return data.decode("ascii")
