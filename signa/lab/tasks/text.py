"""Text: tiny-shakespeare."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..refusal import refusal
from .base import Task, tasks
from .tokens import SHIPPED, LanguageModel, LanguageTask, Positions, text_corpus

__all__ = ["Shakespeare", "ShakespeareTask", "read_shakespeare"]

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@tasks.register
class Shakespeare(LanguageModel):
    """Tiny-shakespeare: the first 90 % of 1,115,394 characters train a `GPT`, the rest validate it.

    On the way every eighth window of the validation text is measured, at the end all of them. A token is a character,
    or with ``encoding: gpt2`` one of GPT-2's, so that the loss is in nats a character or a GPT-2 token.
    """

    kind: Literal["shakespeare"] = "shakespeare"
    encoding: Literal["chars", "gpt2"] = "chars"

    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        """Read and encode the text. Each worker draws its own windows: `workers` is how many streams there are."""
        corpus = text_corpus(read_shakespeare(), self.encoding)
        at = Positions("random", len(corpus.train), self.context, batch, workers, seed)
        return ShakespeareTask(self, corpus, at, device)


class ShakespeareTask(LanguageTask):
    """The text on a device."""

    def measured(self, windows: Tensor, *, whole: bool) -> Tensor:
        """Every eighth on the way, all at the end."""
        return windows if whole else windows[::8]


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
