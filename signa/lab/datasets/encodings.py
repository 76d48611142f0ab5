"""What a token stands for: a character, a byte, or one of GPT-2's 50,257."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from .bpe import PLACES, gpt2
from .find import find

__all__ = ["Bytes", "Chars", "Encoding", "EncodingName", "Gpt2", "encoding_for"]

EncodingName = Literal["chars", "gpt2", "bytes"]


class Encoding(Protocol):
    """Text to tokens and back. A model has ``vocabulary`` rows, of which ``known`` stand for something."""

    known: int
    vocabulary: int
    start: int  # the token that a sample begins after

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""


class Chars:
    """The distinct characters of one text, in the order of their code points.

    >>> chars = Chars("banana")
    >>> chars.encode("nab"), chars.decode([1, 0, 2]), chars.vocabulary
    ([2, 0, 1], 'ban', 3)
    """

    def __init__(self, text: str) -> None:
        self.letters = "".join(sorted(set(text)))
        self.known = self.vocabulary = len(self.letters)
        self.start = max(0, self.letters.find("\n"))
        self._index = {letter: token for token, letter in enumerate(self.letters)}

    def encode(self, text: str) -> list[int]:
        """Each character's number."""
        return [self._index[letter] for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters."""
        return "".join(self.letters[token] for token in tokens)


class Bytes:
    """The bytes of UTF-8.

    >>> Bytes().encode("é"), Bytes().decode([195, 169])
    ([195, 169], 'é')
    """

    known = vocabulary = 256
    start = ord("\n")

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(tokens).decode(errors="replace")


class Gpt2:
    """GPT-2's BPE, with the vocabulary padded to a multiple of 128 for the sake of a GPU's matrix units.

    >>> Gpt2.vocabulary == 393 * 128
    True
    """

    known = 50_257
    vocabulary = 50_304
    start = 50_256  # <|endoftext|>

    def encode(self, text: str) -> list[int]:
        """GPT-2's tokens."""
        return gpt2().encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, or their numbers where the list of merges is not here: training on `.bin` needs none."""
        return gpt2().decode(tokens) if find(*PLACES) else " ".join(map(str, tokens))


def encoding_for(name: EncodingName, text: str) -> Encoding:
    """The encoding of this name; ``chars`` knows the characters of ``text``."""
    return Chars(text) if name == "chars" else Bytes() if name == "bytes" else Gpt2()
