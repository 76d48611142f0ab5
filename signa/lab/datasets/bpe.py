"""GPT-2's byte-level BPE: text to tokens 0 .. 50,256 and back, from the published list of merges."""

from __future__ import annotations

import hashlib
import heapq
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

from ..refusal import refusal
from .find import find, roots

__all__ = ["GPT2_FILES", "PLACES", "Bpe", "gpt2"]

#: sha256 of OpenAI's files; tiktoken 0.14, tiktoken_ext/openai_public.py, checks the same.
GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
#: Where `find` looks for the list of merges; merges.txt is the same file under another name.
PLACES = ("gpt2/vocab.bpe", "gpt2/merges.txt")
# Unicode's White_Space (PropList.txt). `\s` of `re` has U+001C .. U+001F as well, which are not.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class Bpe:
    """Byte-pair encoding: a text is cut into words, a word into bytes, and the earliest merge that fits is made first.

    Token k < 256 is a byte, token 256 + i what merge i makes, and the one after the last ends a text: GPT-2's
    encoder.json says the same and is not needed.

    Source: arXiv 1508.07909, Algorithm 1; bytes in place of letters: "Language models are unsupervised multitask
    learners" (Radford et al., 2019), section 2.2.

    >>> bpe = Bpe([("a", "b"), ("ab", "ab")])
    >>> bpe.encode("abab cab"), bpe.decode(bpe.encode("abab cab"))
    ([257, 220, 66, 256], 'abab cab')
    """

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        letters = byte_letters()
        self.bytes = [bytes([byte]) for byte in letters.values()]
        number = {letter: token for token, letter in enumerate(letters)}
        self._first = {byte: token for token, byte in enumerate(letters.values())}
        self._merged: dict[tuple[int, int], int] = {}
        for left, right in merges:
            pair = number[left], number[right]
            number[left + right] = self._merged[pair] = len(self.bytes)
            self.bytes.append(self.bytes[pair[0]] + self.bytes[pair[1]])
        self._word = lru_cache(maxsize=2**17)(self._merge)

    def __len__(self) -> int:
        """How many tokens there are, the end of a text among them."""
        return len(self.bytes) + 1

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. What looks like the mark of an end of text is text."""
        tokens: list[int] = []
        for match in words().finditer(text):
            tokens += self._word(match[0])
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD, and an end of text an empty line."""
        ends = len(self.bytes)
        return b"".join(b"\n\n" if token == ends else self.bytes[token] for token in tokens).decode(errors="replace")

    def _merge(self, word: str) -> tuple[int, ...]:
        """A linked list of tokens and a heap of the pairs that may be merged: n log n for a word of n bytes."""
        own: list[int] = [self._first[byte] for byte in word.encode("utf-8", "surrogatepass")]
        after, before = list(range(1, len(own) + 1)), list(range(-1, len(own) - 1))
        heap: list[tuple[int, int, int, int]] = []

        def offer(at: int) -> None:
            there = after[at] if at >= 0 else len(own)
            if there < len(own) and (made := self._merged.get((own[at], own[there]))) is not None:
                heapq.heappush(heap, (made, at, own[at], own[there]))

        for at in range(len(own) - 1):
            offer(at)
        while heap:
            made, at, left, right = heapq.heappop(heap)
            there = after[at]
            if own[at] != left or there >= len(own) or own[there] != right:
                continue  # one of the two went into another merge
            own[at], own[there], after[at] = made, -1, after[there]
            if after[at] < len(own):
                before[after[at]] = at
            offer(before[at])
            offer(at)
        return tuple(token for token in own if token >= 0)


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in the list of merges: itself if it can be seen, else U+0100 and up.

    >>> letters = byte_letters()
    >>> len(letters), letters["A"], letters["\\u0120"]
    (256, 65, 32)
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


@cache
def words() -> re.Pattern[str]:
    r"""GPT-2's cut of a text into words: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

    The standard library has no ``\p{L}``: the classes are written out, as Python's Unicode data has them.

    Source: github.com/openai/gpt-2, src/encoder.py.

    >>> words().findall("It's 10%  off")
    ['It', "'s", ' 10', '%', ' ', ' off']
    """
    kinds = groupby(range(sys.maxunicode + 1), lambda code: unicodedata.category(chr(code))[0])
    ranges: dict[str, list[str]] = {"L": [], "N": []}
    for kind, run in kinds:
        if kind in ranges:
            codes = list(run)
            ranges[kind].append(f"\\U{codes[0]:08x}-\\U{codes[-1]:08x}")
    letter, digit = "".join(ranges["L"]), "".join(ranges["N"])
    return re.compile(
        f"'(?:[stmd]|re|ve|ll)| ?[{letter}]+| ?[{digit}]+| ?[^{SPACE}{letter}{digit}]+"
        f"|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
    )


def gpt2() -> Bpe:
    """GPT-2's own encoding.

    Raises:
        SpecError: the file is not here, or is another one.
    """
    path = find(*PLACES)
    if path is None:
        raise refusal(
            "GPT-2's list of merges is not here",
            because=f"looked for {PLACES[0]} in {', '.join(map(str, roots()))}",
            instead="run python examples/nanogpt/prepare.py gpt2",
        )
    return _read(path)


@cache
def _read(path: Path) -> Bpe:
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != GPT2_FILES["vocab.bpe"]:
        raise refusal(
            f"{path} is not GPT-2's list of merges",
            because=f"its sha256 is {found}, not {GPT2_FILES['vocab.bpe']}",
            instead="run python examples/nanogpt/prepare.py gpt2",
        )
    lines = data.decode("utf-8").splitlines()[1:]  # the first names a version
    return Bpe((left, right) for left, right in (line.split() for line in lines))
