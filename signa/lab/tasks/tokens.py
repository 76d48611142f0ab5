"""Language models: a GPT on tokens, read from `.bin` shards or from a text file."""

from __future__ import annotations

import glob
import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import Fault
from ...rule import Count
from ..datasets.encodings import Bytes, Encoding, EncodingName, Gpt2, encoding_for
from ..datasets.find import roots
from ..datasets.tokens import TokenStream, read_tokens, split_files
from ..models.gpt import GPT, Qkv
from ..refusal import refusal
from .base import Task, TaskConfig, seed_of, tasks

__all__ = ["SHIPPED", "Corpus", "LanguageModel", "LanguageTask", "Order", "Positions", "Tokens", "text_corpus"]

SHIPPED = Path(__file__).parents[1] / "data"
LOGITS = 2**28  # most logits of one validation batch: 1 GiB of float32
Order = Literal["random", "sequential"]


class LanguageModel(TaskConfig):
    """The numbers of a `GPT`, whatever it reads."""

    layers: Count = 4
    heads: Count = 4
    width: Count = 128
    context: Count = 64
    qkv: Qkv = "separate"

    @model_validator(mode="after")
    def _divisible(self) -> LanguageModel:
        if self.width % (2 * self.heads):
            raise Fault(
                f"width {self.width} is no multiple of 2 x heads = {2 * self.heads}",
                because="rotary positions turn pairs of entries of a head",
                instead=f"write width: {-(-self.width // (2 * self.heads)) * 2 * self.heads}",
            )
        return self


@tasks.register
class Tokens(LanguageModel):
    """A `GPT` on tokens: `val_loss` in nats a token, over the same at most `val_tokens` tokens every time.

    Args:
        data: a folder or glob of `.bin` files (names say which are `train` and which `val`), or a text file, of which
            the first 90 % of the characters are for training. Looked for here, in `$SIGNA_DATA`, in the cache, and
            among the shipped texts, in this order.
        encoding: what a token stands for. `.bin` files were encoded when they were written.
        order: windows anywhere (``random``), or row by row, the workers side by side (``sequential``).
    """

    kind: Literal["tokens"] = "tokens"
    data: str
    encoding: EncodingName = "gpt2"
    order: Order = "random"
    val_tokens: Count = 10_485_760  # modded-nanogpt, train_gpt.py

    @model_validator(mode="after")
    def _enough(self) -> Tokens:
        if self.val_tokens < self.context:
            raise Fault(
                f"val_tokens {self.val_tokens} is less than one window",
                because=f"the context is {self.context}",
                instead=f"write val_tokens: {self.context}, or more",
                at=("val_tokens",),
            )
        return self

    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        """Map the files into memory, or encode the text.

        Raises:
            SpecError: there are several files, and not all of them are tokens.
        """
        files = _files(self.data)
        if files[0].suffix == ".bin":
            corpus = _bin_corpus(files, self.encoding)
        elif len(files) == 1:
            corpus = text_corpus(_text(files[0]), self.encoding)
        else:
            raise refusal(
                f"{self.data} names {len(files)} files that are no .bin",
                address="train.task.data",
                instead="name one text, or prepare it: python examples/nanogpt/prepare.py text",
            )
        at = Positions(self.order, len(corpus.train), self.context, batch, workers, seed)
        return TokensTask(self, corpus, at, device)


def _files(data: str) -> list[Path]:
    """What `data` names, in the first folder that has any of it; of a folder its `.bin` files."""
    places = [Path(), *roots(), SHIPPED]
    for root in places:
        found = [Path(name) for name in sorted(glob.glob(os.path.join(glob.escape(str(root)), data)))]
        files = [f for path in found for f in (sorted(path.glob("*.bin")) if path.is_dir() else [path])]
        if files:
            return files
    raise refusal(
        f"there is no file {data}, and no .bin in a folder of that name",
        address="train.task.data",
        because=f"looked in {', '.join(map(str, places))}",
        instead="examples/nanogpt/README.md says how to prepare data",
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(f"{path} is no text in UTF-8", because=str(error), address="train.task.data") from None


@dataclass(frozen=True)
class Corpus:
    """Tokens to train and to validate on, and what they stand for."""

    train: TokenStream
    val: TokenStream
    encoding: Encoding


def text_corpus(text: str, encoding: EncodingName) -> Corpus:
    """The first 90 % of the characters train, the rest validates (nanoGPT, data/shakespeare/prepare.py)."""
    own, cut = encoding_for(encoding, text), len(text) * 9 // 10
    train, val = (
        TokenStream([np.array(own.encode(part), dtype=np.uint16)], vocabulary=own.vocabulary)
        for part in (text[:cut], text[cut:])
    )
    return Corpus(train, val, own)


def _bin_corpus(files: list[Path], encoding: EncodingName) -> Corpus:
    if encoding == "chars":
        raise refusal(
            f"encoding: chars does not go with {files[0].name}",
            address="train.task.encoding",
            because="a .bin file does not say which characters its tokens are",
            instead="write encoding: gpt2 or bytes, or name the text itself in data",
        )
    own = Gpt2() if encoding == "gpt2" else Bytes()
    train, val = (TokenStream([*map(read_tokens, part)], vocabulary=own.vocabulary) for part in split_files(files))
    return Corpus(train, val, own)


@dataclass(frozen=True)
class Positions:
    """Where the windows of a worker's draw begin, (batch,): a function of the seed, the worker and the draw.

    ``random``: anywhere. ``sequential``: the stream is cut into R rows of ``context`` tokens, and draw d of worker j of
    N takes the rows (d N + j) batch + 0, 1, ...: an epoch sees every row once. Each begins at a row drawn for it.

    >>> at = Positions("sequential", 41, context=10, batch=1, workers=2, seed=0)
    >>> sorted(int(at(worker, draw)) for worker in (0, 1) for draw in (0, 1))
    [0, 10, 20, 30]
    """

    order: Order
    size: int
    context: int
    batch: int
    workers: int
    seed: int

    def __call__(self, worker: int, draw: int) -> Tensor:
        if self.order == "random":
            generator = torch.Generator().manual_seed(seed_of(self.seed, "worker", worker, "step", draw))
            return torch.randint(self.size - self.context, (self.batch,), generator=generator)
        rows = self.rows
        row = torch.arange(self.batch) + (draw * self.workers + worker) * self.batch
        first = torch.tensor([seed_of(self.seed, "epoch", epoch) % rows for epoch in (row // rows).tolist()])
        return (row + first) % rows * self.context

    @property
    def rows(self) -> int:
        """How many rows an epoch has; the last token of a row is predicted as well, so one token follows the last."""
        return (self.size - 1) // self.context


class LanguageTask(Task):
    """A `GPT` on a corpus."""

    def __init__(self, config: LanguageModel, corpus: Corpus, positions: Positions, device: torch.device) -> None:
        self.config, self.corpus, self.positions, self.device = config, corpus, positions, device
        self.examples = positions.batch * config.context
        for name, stream in (("train", corpus.train), ("val", corpus.val)):
            if len(stream) <= config.context:
                raise refusal(
                    f"the {name} part has {len(stream)} tokens",
                    address="train.task.context",
                    because=f"a window takes context + 1 = {config.context + 1}",
                    instead="write a shorter context, or give more data",
                )
        if positions.order == "sequential" and positions.rows < positions.batch * positions.workers:
            raise refusal(
                f"the data has {positions.rows} rows of {config.context} tokens",
                address="train.task.order",
                because=f"a draw of {positions.workers} workers takes {positions.batch * positions.workers}",
                instead="write order: random",
            )

    def fingerprint(self) -> str:
        """Of the tokens to train on and to validate on."""
        return f"{self.corpus.train.fingerprint()}-{self.corpus.val.fingerprint()}"

    @abstractmethod
    def measured(self, windows: Tensor, *, whole: bool) -> Tensor:
        """The validation windows to measure, of all that lie side by side."""

    def model(self) -> nn.Module:
        c, vocabulary = self.config, self.corpus.encoding.vocabulary
        shape = {"layers": c.layers, "heads": c.heads, "width": c.width, "context": c.context}
        return GPT(vocabulary=vocabulary, **shape, qkv=c.qkv).to(self.device)

    def loss(self, model: nn.Module, worker: int, draw: int) -> Tensor:
        return self._loss(model, self.corpus.train, self.positions(worker, draw))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, whole: bool) -> dict[str, float]:
        """Windows side by side: each token but the first is predicted once, from at most `context` before it."""
        context, val = self.config.context, self.corpus.val
        start = self.measured(torch.arange(0, len(val) - context, context), whole=whole)
        most = min(16_384, LOGITS // self.corpus.encoding.vocabulary)
        total = torch.zeros((), dtype=torch.float64)
        for part in start.split(max(1, most // context)):
            total += len(part) * self._loss(model, val, part).double().cpu()
        return {"val_loss": float(total / len(start))}

    @torch.no_grad()
    def sample(self, model: nn.Module) -> str:
        """300 tokens at temperature 0.8, drawn with the run's seed."""
        own = self.corpus.encoding
        generator = torch.Generator().manual_seed(seed_of(self.positions.seed, "sample"))
        tokens = torch.tensor([[own.start]], device=self.device)
        for _ in range(300):
            logits = model(tokens[:, -self.config.context :])[0, -1, : own.known].float().cpu()
            drawn = torch.multinomial((logits / 0.8).softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, drawn.to(self.device)[None]), dim=1)
        return own.decode(tokens[0].tolist()).strip()

    def _loss(self, model: nn.Module, stream: TokenStream, start: Tensor) -> Tensor:
        windows = stream.windows(start, self.config.context + 1).to(self.device)  # (batch, context + 1)
        return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


class TokensTask(LanguageTask):
    """Tokens on a device."""

    config: Tokens

    def measured(self, windows: Tensor, *, whole: bool) -> Tensor:
        """The first `val_tokens`, always: a target loss means the same at every step."""
        return windows[: self.config.val_tokens // self.config.context]
