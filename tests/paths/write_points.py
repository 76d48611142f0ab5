"""Every operation on the file system that a piece of code makes, counted, and a fault at any of them."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: What changes or promises something on disk, beside opening and writing; unused ones, so that a first use is seen.
CALLS = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "truncate", "fsync")
FREEING = ("rmdir", "unlink", "remove")
Fault = Callable[["Disk", str], None]


class Disk:
    """The operations so far by name, and what happens in front of each of them."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.done, self.bytes = fault, list[str](), 0

    def meets(self, what: str) -> None:
        """One more operation begins."""
        self.done.append(what)
        self.fault(self, what)


class _File(io.FileIO):
    """A file of which every write(2) is an operation; a fault in one leaves half of it."""

    disk: Disk

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self.disk.meets("write")
        except BaseException:
            super().write(view[: len(view) // 2])
            raise
        written = super().write(view)
        self.disk.bytes += written
        return written


@contextmanager
def watched(fault: Fault) -> Iterator[Disk]:
    """Inside, every operation of this process goes through a :class:`Disk`."""
    disk, real = Disk(fault), io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return real(file, mode, buffering, encoding, *rest, **more)
        assert not any((*rest, *more.values())), "open this file as others do, or teach the disk"
        disk.meets("open")
        raw = _File(file, mode.replace("b", "").replace("t", ""))
        raw.disk = disk
        binary = io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding=encoding or "utf-8")

    def counted(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def acts(*args: Any, **kwargs: Any) -> Any:
            disk.meets(name)
            return call(*args, **kwargs)

        return acts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        for name in CALLS:
            patch.setattr(os, name, counted(name))
        yield disk


class Killed(BaseException):
    """The process is gone."""


def nothing(disk: Disk, what: str) -> None:
    """A healthy disk."""


def killed_at(number: int, dead: BaseException | None = None) -> Fault:
    """This process dies at an operation: by SIGKILL, or as ``dead``, and whatever comes after it fails alike."""

    def fault(disk: Disk, what: str) -> None:
        if len(disk.done) >= number:
            if dead is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise dead

    return fault


def failing_from(number: int, code: int, spares: tuple[str, ...] = ()) -> Fault:
    """From an operation on the disk refuses everything but what it spares (who is full can still delete)."""

    def fault(disk: Disk, what: str) -> None:
        if len(disk.done) >= number and what not in spares:
            raise OSError(code, os.strerror(code))

    return fault


def failing_once(number: int, error: BaseException) -> Fault:
    """One operation fails, and those behind it do not."""

    def fault(disk: Disk, what: str) -> None:
        if len(disk.done) == number:
            raise error

    return fault
