"""Writing a checkpoint to disk: files that are synced and hashed as they are written, a manifest, and one rename."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import Advice, CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
SHARED = "shared.pt"
DONE = re.compile(r"step-(\d{8,})\Z")
_LEFT = re.compile(r"\.step-\d{8,}\.[0-9a-f]{8}\Z")


def step_name(step: int) -> str:
    """A checkpoint's folder.

    >>> step_name(123)
    'step-00000123'
    """
    return f"step-{step:08d}"


def rank_name(rank: int) -> str:
    """The file of a rank."""
    return f"rank-{rank:05d}.pt"


def complete(directory: Path) -> list[Path]:
    """The checkpoints in a folder that have a manifest, oldest step first."""
    found = [path for path in directory.iterdir() if DONE.match(path.name) and (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


class Hashed:
    """A file that is hashed as it is written, so that what the disk later returns is held against what was meant."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.bytes = file, hashlib.sha256(), 0
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """All of it."""
        try:
            self._file.write(data)
            self.sha256.update(data)
        except BaseException as error:  # torch's zip writer hides it, an interrupt too, behind an error of its own
            self.error = self.error or error
            raise
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """To the operating system."""
        self._file.flush()


def write_file(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write and sync a new file; its hash and size.

    Raises:
        OSError: the disk is full, ...
    """
    with path.open("xb") as file:
        hashed = Hashed(file)
        try:
            torch.save(dict(data), hashed)  # type: ignore[arg-type]  # it asks for no more than write and flush
        except Exception:
            if hashed.error is not None:
                raise hashed.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashed.sha256.hexdigest(), "bytes": hashed.bytes}


def begin(directory: Path, name: str) -> str:
    """A fresh temporary folder for a new checkpoint, in place of what earlier saves left behind; its name.

    Raises:
        CheckpointError: the checkpoint exists already. OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / name).exists():
        raise CheckpointError(
            f"'{directory / name}' exists already, and a checkpoint is never overwritten: "
            "save to another directory, or remove it"
        )
    for path in directory.iterdir():
        if _LEFT.match(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    temporary = f".{name}.{secrets.token_hex(4)}"
    (directory / temporary).mkdir()
    return temporary


def commit(directory: Path, temporary: str, name: str, manifest: Mapping[str, Any]) -> None:
    """Look at every file, write the manifest, and make the checkpoint visible by a rename.

    Raises:
        CheckpointError: a file is not here, or has another size. OSError: it cannot be written.
    """
    folder = directory / temporary
    for file, facts in manifest["files"].items():
        check_size(folder / file, facts["bytes"], "it was written elsewhere: use a directory that all ranks share")
    content = {**manifest, "digest": digest_of(manifest)}
    with (folder / MANIFEST).open("x", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    _sync(folder)
    os.replace(folder, directory / name)
    try:
        _sync(directory)
    except OSError as error:
        raise CheckpointError(
            f"'{directory / name}' is complete, but its name may not survive a power failure ({error.strerror})"
        ) from error


def discard(directory: Path, temporary: str) -> None:
    """Remove what there is of an unfinished checkpoint."""
    shutil.rmtree(directory / temporary, ignore_errors=True)


def prune(directory: Path, step: int, keep: int) -> None:
    """Delete complete checkpoints of earlier steps, all but the newest ``keep - 1``; later steps stay."""
    try:
        older = [path for path in complete(directory) if int(path.name.removeprefix("step-")) < step]
        for path in older[: max(0, len(older) - keep + 1)]:
            gone = directory / f".{path.name}.{secrets.token_hex(4)}"
            os.replace(path, gone)  # first out of sight: a checkpoint that is half deleted must not look like one
            shutil.rmtree(gone)
    except OSError as error:
        warnings.warn(Advice(f"old checkpoints in '{directory}' could not be deleted: {error}"), stacklevel=3)


def digest_of(manifest: Mapping[str, Any]) -> str:
    """What stands in a manifest for all of it."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_size(path: Path, size: int, remedy: str) -> None:
    """Refuse a file that is not here, or not of this size.

    Raises:
        CheckpointError: with the remedy.
    """
    try:
        with path.open("rb") as file:  # opened, since a network file system may know an old size until then
            found = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is missing: {remedy}") from None
    if found != size:
        raise CheckpointError(f"'{path}' has {found} bytes and not {size}: {remedy}")


def _sync(folder: Path) -> None:
    """A folder's entries to the disk; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        with suppress(OSError):
            os.close(handle)


__all__ = [
    "DONE",
    "FORMAT",
    "MANIFEST",
    "SHARED",
    "Hashed",
    "begin",
    "check_size",
    "commit",
    "complete",
    "digest_of",
    "discard",
    "prune",
    "rank_name",
    "step_name",
    "write_file",
]
