"""Token files: nanoGPT's raw `.bin`, modded-nanogpt's `.bin` shards, and many files read as one stream.

| form | bytes | files |
| --- | --- | --- |
| `raw`, nanoGPT's (its data/*/prepare.py) | tokens, uint16 | train.bin, val.bin |
| `shard`, modded-nanogpt's (its train_gpt.py) | 256 int32: 20240520, 1, count; tokens | fineweb_train_000001.bin, ... |

Numbers are little-endian. The two forms cannot be mixed up: read as tokens, the magic number begins with 55,432, and
GPT-2's vocabulary ends at 50,256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import SpecError
from ..refusal import refusal

__all__ = ["Form", "TokenStream", "read_tokens", "split_files", "write_tokens"]

MAGIC, VERSION = 20240520, 1  # modded-nanogpt, train_gpt.py, _load_data_shard
HEADER = 256  # int32
TOKEN = np.dtype("<u2")
ENDS = 1_000_000  # tokens of each end of a long array that stand for it
PART = re.compile(r"(?:^|_)(train|val)(?:_|\.)")

Tokens = NDArray[np.uint16]
Form = Literal["raw", "shard"]


def read_tokens(path: Path) -> Tokens:
    """The tokens of a `.bin` of either form, mapped into memory: opening 20 GB costs nothing until they are read.

    Raises:
        SpecError: the file is empty, of odd length, cut short, or has a header that is not understood.
    """
    size = path.stat().st_size
    if size == 0 or size % 2:
        why = "it is empty" if size == 0 else f"it has {size} bytes, and a token takes two"
        raise _bad(path, why, "copy or prepare it again")
    if size >= 4 * HEADER:
        magic, version, count = np.fromfile(path, dtype="<i4", count=3).tolist()
        fits = 4 * HEADER + TOKEN.itemsize * count == size
        if magic == MAGIC:
            if version != VERSION:
                raise _bad(path, f"its header is of version {version}, not {VERSION}", "prepare it again")
            if not fits:
                found = (size - 4 * HEADER) // 2
                raise _bad(path, f"its header counts {count} tokens and {found} follow", "copy it again")
            return _mapped(path, 4 * HEADER, count)
        if fits or (version in range(1, 16) and size == 4 * HEADER + 4 * count):
            raise _bad(path, f"its header begins with {magic}, not {MAGIC}", "give GPT-2 tokens in 16 bits")
    return _mapped(path, 0, size // 2)


def _mapped(path: Path, offset: int, count: int) -> Tokens:
    if count == 0:
        raise _bad(path, "it holds no token", "prepare it again")
    return np.memmap(path, dtype=TOKEN, mode="r", offset=offset, shape=(count,))


def _bad(path: Path, because: str, instead: str) -> SpecError:
    return refusal(f"{path} is no token file", because=because, instead=instead)


def write_tokens(path: Path, tokens: Sequence[int] | NDArray[Any], *, form: Form) -> None:
    """Write tokens in one of the two forms; what `read_tokens` reads. The file appears whole or not at all.

    Raises:
        ValueError: a token does not fit into 16 bits.
    """
    wide = np.asarray(tokens)
    if wide.size and not (wide.min() >= 0 and wide.max() < 2**16):
        raise ValueError(f"tokens {wide.min()} to {wide.max()} do not fit into 16 bits")
    header = np.zeros(HEADER if form == "shard" else 0, dtype="<i4")
    header[:3] = (MAGIC, VERSION, wide.size)[: len(header)]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_bytes(header.tobytes() + wide.astype(TOKEN).tobytes())
    scratch.replace(path)


def split_files(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files that train and those that validate, by the word `train` or `val` in their names, each in order.

    >>> split_files([Path("fineweb_val_000000.bin"), Path("fineweb_train_000001.bin")])[0][0].name
    'fineweb_train_000001.bin'

    Raises:
        SpecError: a name says neither, or one of the two has no file.
    """
    parts: dict[str, list[Path]] = {"train": [], "val": []}
    for path in sorted(files):
        word = PART.search(path.name)
        if word is None:
            raise refusal(
                f"{path} may be for training or for validation",
                because="its name has neither the word train nor val",
                instead="name it train.bin, val.bin, NAME_train_000001.bin or NAME_val_000000.bin",
            )
        parts[word[1]].append(path)
    for name, there in parts.items():
        if not there:
            where = str(files[0].parent) if files else "the folder"
            raise refusal(f"{where} has no {name} tokens", instead=f"add {name}.bin, or NAME_{name}_000000.bin")
    return parts["train"], parts["val"]


class TokenStream:
    """Several arrays of tokens, end to end.

    >>> import numpy as np
    >>> stream = TokenStream([np.arange(3, dtype=np.uint16), np.arange(3, 8, dtype=np.uint16)], vocabulary=8)
    >>> len(stream), stream.windows(torch.tensor([1, 4]), 4).tolist()
    (8, [[1, 2, 3, 4], [4, 5, 6, 7]])
    """

    def __init__(self, parts: Sequence[Tokens], *, vocabulary: int) -> None:
        self.parts, self.vocabulary = list(parts), vocabulary
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def fingerprint(self) -> str:
        """16 hex digits of the arrays' lengths and tokens; of a long one, the first and last million tokens stand for
        it, since what is mapped into memory may be larger than that.

        >>> import numpy as np
        >>> one, two = (TokenStream([np.arange(n, dtype=np.uint16)], vocabulary=9) for n in (8, 9))
        >>> one.fingerprint() == two.fingerprint()
        False
        """
        found = hashlib.blake2b(digest_size=8)
        for part in self.parts:
            found.update(len(part).to_bytes(8, "little"))
            for piece in [part] if len(part) <= 2 * ENDS else [part[:ENDS], part[-ENDS:]]:
                found.update(np.ascontiguousarray(piece, dtype=TOKEN).tobytes())
        return found.hexdigest()

    def windows(self, start: Tensor, length: int) -> Tensor:
        """The windows that begin at these positions: (batch,) -> (batch, length), integers, on the CPU.

        Raises:
            SpecError: a token is not in the vocabulary. On a GPU it would end the process without a word.
        """
        rows = np.stack([self._window(at, length) for at in start.tolist()])
        if (highest := int(rows.max())) >= self.vocabulary:
            raise refusal(
                f"token {highest} is not in a vocabulary of {self.vocabulary}",
                address="train.task.encoding",
                instead="name the encoding that the files were written with",
            )
        return torch.from_numpy(rows.astype(np.int64))

    def _window(self, at: int, length: int) -> Tokens:
        found: list[Tokens] = []
        part = int(np.searchsorted(self.ends, at, side="right"))
        at -= int(self.ends[part]) - len(self.parts[part])
        while length:
            found.append(self.parts[part][at : at + length])
            length -= len(found[-1])
            part, at = part + 1, 0
        return np.concatenate(found) if len(found) > 1 else found[0]
