"""A checkpoint on disk, to be read: found, verified, and without running anything."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import Advice, CheckpointError
from .files import DONE, FORMAT, MANIFEST, SHARED, check_size, complete, digest_of, rank_name

_FILE = re.compile(r"(shared|rank-\d{5,})\.pt\Z")


def locate(directory: Path) -> Path:
    """The checkpoint itself, or the newest complete one in a folder of several.

    Raises:
        CheckpointError: there is none.
    """
    if (directory / MANIFEST).is_file():
        return directory
    if not directory.is_dir():
        raise CheckpointError(f"there is no folder '{directory}'")
    if DONE.match(directory.name):
        raise CheckpointError(f"'{directory}' has no {MANIFEST}: it is not complete, take another checkpoint")
    found = complete(directory)
    if not found:
        raise CheckpointError(f"there is no complete checkpoint in '{directory}'")
    names = {path.name for path in directory.iterdir() if DONE.match(path.name)}
    if aside := sorted(names - {path.name for path in found}):
        what = f"{', '.join(aside)} in '{directory}' left aside: without {MANIFEST} a checkpoint is not complete"
        warnings.warn(Advice(what), stacklevel=3)
    return found[-1]


class Archive:
    """A complete checkpoint, of which every file is verified when it is first read.

    Raises:
        CheckpointError: the manifest is damaged, of another format, or a file is missing or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _manifest(path / MANIFEST)
        self.files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        self._read: dict[str, dict[str, Any]] = {}
        self._sound: set[str] = set()
        for name, facts in self.files.items():
            check_size(path / name, facts["bytes"], "the checkpoint is damaged, take an older one")

    @property
    def digest(self) -> str:
        """Of the manifest, and so of everything."""
        return str(self.manifest["digest"])

    @property
    def workers(self) -> int:
        """N, when it was saved."""
        return int(self.manifest["workers"])

    @property
    def layout(self) -> Mapping[str, str]:
        """The optimizer's parameters and what they are like."""
        layout: Mapping[str, str] = self.manifest["layout"]
        return layout

    def verify(self, name: str) -> None:
        """Hold a file against its hash.

        Raises:
            CheckpointError: not a bit may differ.
        """
        if name in self._sound:
            return
        found = hashlib.sha256()
        with (self.path / name).open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        if found.hexdigest() != self.files[name]["sha256"]:
            raise CheckpointError(f"'{self.path / name}' is damaged (wrong sha256): take an older checkpoint")
        self._sound.add(name)

    def file(self, name: str) -> dict[str, Any]:
        """A file's content; tensors stay on disk until they are copied.

        Raises:
            CheckpointError: it is damaged, or holds more than plain data.
        """
        if name not in self._read:
            self.verify(name)
            try:
                content = torch.load(self.path / name, map_location="cpu", mmap=True, weights_only=True)
            except OSError:
                raise
            except Exception as error:
                first = (str(error).splitlines() or [""])[0][:200]
                raise CheckpointError(
                    f"'{self.path / name}' holds something other than tensors and plain data, and nothing in it was "
                    f"run: do not trust its source ({type(error).__name__}: {first})"
                ) from None
            self._read[name] = content
        return self._read[name]

    def row(self, worker: int, parameter: str, address: str) -> torch.Tensor:
        """A worker's state."""
        for name, facts in self.files.items():
            if worker in facts.get("workers", ()):
                tensor: torch.Tensor = self.file(name)["worker"][parameter][address][facts["workers"].index(worker)]
                return tensor
        raise CheckpointError(f"no file of '{self.path}' holds worker {worker}")

    def server(self, parameter: str) -> dict[str, torch.Tensor]:
        """The server's state for a parameter, from whoever owned it."""
        for name, facts in self.files.items():
            if parameter in facts.get("server", ()):
                tensors: dict[str, torch.Tensor] = self.file(name)["server"][parameter]
                return tensors
        return {}

    def of_rank(self, rank: int) -> dict[str, Any]:
        """What a rank kept for itself; rank 0's where there was no such rank."""
        return self.file(rank_name(rank) if rank_name(rank) in self.files else rank_name(0))

    def share(self, rank: int, size: int) -> Sequence[str]:
        """The files that a rank verifies even if it needs none of them, so that all are."""
        names = sorted(self.files)
        return [name for name in names if name != SHARED][rank::size]


def _is_facts(facts: Any) -> bool:
    """Whether a file's entry has what is read of it."""
    return (
        isinstance(facts, dict)
        and type(facts.get("bytes")) is int
        and isinstance(facts.get("sha256"), str)
        and all(isinstance(facts.get(key, []), list) for key in ("workers", "server"))
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(content, dict) and content["digest"] == digest_of(content)
    except FileNotFoundError:
        raise CheckpointError(f"there is no '{path}': the checkpoint is not complete") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        content, sound = {}, False
    if sound and content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is of format {content.get('format')!r}, this version reads {FORMAT}")
    wanted = {"files": dict, "layout": dict, "world": list, "workers": int, "step": int}
    if not sound or not all(type(content.get(key)) is kind for key, kind in wanted.items()):
        raise CheckpointError(f"'{path}' is damaged (wrong digest): take an older checkpoint")
    if strange := [name for name in content["files"] if not _FILE.match(name)]:
        raise CheckpointError(f"'{path}' names files that no checkpoint has ({strange[0]!r}): do not trust its source")
    if odd := [name for name, facts in content["files"].items() if not _is_facts(facts)]:
        raise CheckpointError(f"'{path}' does not say what '{odd[0]}' holds: take an older checkpoint")
    if missing := {SHARED, *map(rank_name, range(len(content["world"])))} - set(content["files"]):
        raise CheckpointError(f"'{path}' leaves out {', '.join(sorted(missing))}")
    return dict(content)


__all__ = ["Archive", "locate"]
