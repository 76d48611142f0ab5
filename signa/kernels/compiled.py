"""``native.c`` as a library: compiled for this processor at its first use, and kept in the user's cache.

It takes any C compiler, and the OpenMP library that torch has loaded (two of them would have two pools of threads, each
of which waits on the cores of the other); without one, the loops run on one thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Library", "cache", "library"]

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-shared", "-fPIC", "-w", "-ffp-contract=off")
_X86 = ("x86_64", "AMD64", "amd64")  # elsewhere -march=native is unknown to some compilers, or gains nothing
_PATIENCE = 120.0  # seconds for a compiler
_PLACE, _COUNT, _BITS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
_WORDS = (_PLACE, *4 * (_COUNT,), _PLACE, _COUNT, *6 * (_BITS,), _COUNT)
_UNPACK = (_PLACE, _COUNT, _PLACE, _PLACE, _COUNT)
_FINITE = (_PLACE, _PLACE, _COUNT, _BITS, _COUNT)
_ADD = (_PLACE, _COUNT, _COUNT, _COUNT, _PLACE, _PLACE, _COUNT, _COUNT)
_BFLOAT16 = (_PLACE, ctypes.c_float, _PLACE, ctypes.c_float, _COUNT, _COUNT)
_GATHER = (_PLACE, _COUNT, _COUNT, _PLACE, _COUNT)


class Library(NamedTuple):
    """The loops, by the size of an entry in bytes."""

    words: dict[int, Callable[..., int]]
    unpack: dict[int, Callable[..., int]]
    finite: dict[int, Callable[..., int]]
    gather: Callable[..., int]
    add: dict[int, Callable[..., int]]
    bfloat16: Callable[..., int]


@lru_cache(maxsize=1)
def library() -> Library:
    """The loops of this process.

    Raises:
        ImportError: there is no C compiler, or none of a kind that is known.
        RuntimeError: it fails; with its words.
        OSError: what it wrote cannot be loaded.
    """
    found = _loaded()

    def loop(name: str, takes: tuple[type, ...], gives: type | None = None) -> Callable[..., int]:
        function = getattr(found, name)
        function.argtypes, function.restype = takes, gives
        return function

    def of_each(
        name: str, takes: tuple[type, ...], gives: type | None = None, sizes: Sequence[int] = (1, 2, 4, 8)
    ) -> dict[int, Callable[..., int]]:
        return {size: loop(f"{name}{8 * size}", takes, gives) for size in sizes}

    return Library(
        words=of_each("words", _WORDS, _COUNT),
        unpack=of_each("unpack", _UNPACK),
        finite=of_each("finite", _FINITE, _COUNT),
        gather=loop("gather", _GATHER),
        add=of_each("add", _ADD, sizes=(4, 8)),
        bfloat16=loop("bfloat16", _BFLOAT16),
    )


def _loaded() -> ctypes.CDLL:
    """From the cache; what is not there is compiled first, and what cannot stay there is loaded from a folder that ends
    with the call."""
    commands = _commands()
    name = f"{hashlib.sha256(repr((commands, _processor(), _SOURCE.read_bytes())).encode()).hexdigest()[:32]}.so"
    folder = cache() / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _own(folder):
            raise PermissionError(f"others may write to {folder}")
        if not (folder / name).is_file():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                os.replace(_compiled(commands, Path(made)), folder / name)  # whole, whoever else does the same
        return ctypes.CDLL(str(folder / name))
    except OSError:
        with tempfile.TemporaryDirectory() as made:
            return ctypes.CDLL(str(_compiled(commands, Path(made))))


def cache() -> Path:
    """`$XDG_CACHE_HOME/signa`, else `~/.cache/signa`: what is made or downloaded once."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "signa"


def _own(folder: Path) -> bool:
    """Whether nobody else can put a library there."""
    there = folder.stat()
    return there.st_uid == os.getuid() and not there.st_mode & 0o022


def _commands() -> list[list[str]]:
    """What compiles, but for where to, and what else would: a compiler may know OpenMP and lack its library."""
    if sys.platform == "win32":
        raise ImportError("there is no library of C loops for Windows")
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or "clang"]
    if shutil.which(compiler[0]) is None:
        raise ImportError(f"there is no C compiler ('{compiler[0]}')")
    alone = [*compiler, *_FLAGS, *(("-march=native",) if platform.machine() in _X86 else ()), str(_SOURCE)]
    threads = _openmp()
    return [*([[*alone, "-fopenmp", "-Wl,--as-needed", *threads]] if threads else []), alone]


def _openmp() -> tuple[str, ...]:
    """The OpenMP library that torch has loaded: its own, where other packages have brought another."""
    import torch

    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ()
    paths = {Path(line.split(maxsplit=5)[5]) for line in mapped if line.count("/")}
    known = [path for path in paths if path.name.startswith(("libgomp", "libiomp5", "libomp"))]
    return tuple(
        map(str, sorted(known, key=lambda path: (not path.is_relative_to(Path(torch.__file__).parent), path))[:1])
    )


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line.partition(":")[2] for line in lines if line.startswith(("flags", "Features", "model name"))}
    return f"{platform.machine()} {platform.processor()} {sorted(told)}"


def _compiled(commands: Sequence[Sequence[str]], folder: Path) -> Path:
    out = folder / "native.so"
    for command in commands:
        whole = [*command, "-o", str(out)]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=_PATIENCE, cwd=folder, check=False)
        if not done.returncode:
            return out
    raise RuntimeError(f"{shlex.join(whole)}: {done.stderr.strip() or done.returncode}")
