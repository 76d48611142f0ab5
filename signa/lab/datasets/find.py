"""Where data lies: a folder that is named, one beside the checkout, the cache, else a download with a checksum."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import SpecError
from ...kernels.compiled import cache
from ..refusal import refusal

__all__ = ["AGAIN", "cache", "fetch", "find", "md5_of", "reading", "roots", "unpacked"]

#: What a file that is damaged or absent makes its readers raise.
DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError)
#: What to do with a file that is not what it should be.
AGAIN = "put the whole file back, or take it away: what can be downloaded is downloaded anew where it is missing"
SILENCE = 60.0  # seconds without a byte after which a mirror is given up


def roots() -> list[Path]:
    """The folders that are searched, in order: `$SIGNA_DATA`, `../shared/data` beside the checkout, the cache.

    Raises:
        SpecError: `SIGNA_DATA` names no folder.
    """
    named = os.environ.get("SIGNA_DATA", "")
    if named and not Path(named).is_dir():
        raise refusal(f"SIGNA_DATA names {named}, and that is no folder", instead="correct it, or unset it")
    found = [*([Path(named)] if named else []), Path(__file__).parents[4] / "shared" / "data", cache()]
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def find(*places: str) -> Path | None:
    """The first of these relative paths that exists, root by root; None if none does."""
    return next((root / place for root in roots() for place in places if (root / place).exists()), None)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it is where reading it fails.

    Raises:
        SpecError: in place of whatever a damaged file raises.
    """
    try:
        yield
    except SpecError:
        raise
    except DAMAGE as error:
        because = f"{type(error).__name__}: {error}"
        raise refusal(f"{path} cannot be read", because=because, instead=AGAIN) from None


def unpacked(data: bytes) -> bytes:
    """The content of a gzip file, or what is none as it is.

    >>> unpacked(gzip.compress(b"x")), unpacked(b"x")
    (b'x', b'x')
    """
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def md5_of(data: bytes) -> str:
    """The md5 by which data sets are published. It finds damage, not malice: what is read is never run."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def fetch(
    place: str, urls: Sequence[str], md5: str, *, of: Callable[[bytes], bytes] = bytes, also: Sequence[str] = ()
) -> Path:
    """Download one file to `place` in the cache, from the first mirror that has it; it appears whole or not at all.

    ``md5`` is that of ``of`` the file's bytes; ``also`` are other places where it was looked for, for the refusal.
    `SIGNA_OFFLINE=1` forbids every download.

    Raises:
        SpecError: downloads are forbidden, or no mirror gave the file with this checksum.
    """
    looked = f"looked for {place} in {', '.join(map(str, roots()))}"
    if os.environ.get("SIGNA_OFFLINE", "") not in ("", "0"):
        raise _absent(place, also, f"{looked}; SIGNA_OFFLINE forbids downloads")
    problems = []
    for url in urls:
        try:
            return _download(url, cache() / place, md5, of)
        except DAMAGE as error:
            problems.append(f"{url}: {error}")
    raise _absent(place, also, "; ".join([looked, *problems]))


def _download(url: str, path: Path, md5: str, of: Callable[[bytes], bytes]) -> Path:
    with urllib.request.urlopen(url, timeout=SILENCE) as answer:
        data: bytes = answer.read()
    if (found := md5_of(of(data))) != md5:
        raise ValueError(f"its md5 is {found}, not {md5}")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # several ranks may be at it
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return path


def _absent(place: str, also: Sequence[str], because: str) -> SpecError:
    name = Path(place).name
    remedy = f"put the file into a folder and name that: SIGNA_DATA=FOLDER, with FOLDER/{place}"
    remedy += f", or in its stead {' or '.join(also)}" if also else ""
    return refusal(f"{name} is not there", because=because, instead=remedy)
