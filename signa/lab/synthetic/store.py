"""What was computed stays: one small JSON file for every piece of a study, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..refusal import refusal

__all__ = ["Store", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _plain(value: Any) -> Any:
    """What JSON can say; a float that is not finite becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(float(value))
    return int(value) if isinstance(value, np.integer) else value


class Store:
    """A folder of results: ``STUDY.json`` for people, ``cache/`` for going on.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> store.kept("squares", {"of": 3}, lambda: [9]), store.kept("squares", {"of": 3}, lambda: [0])
    ([9], [9])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def kept(self, label: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What ``make`` gave for this key, now or in an earlier run (as JSON has it: tuples are lists)."""
        text = json.dumps(_plain(key), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        path = self.folder / "cache" / f"{label}-{digest}.json"
        if not path.exists():
            write_json(path, {"key": key, "value": make()})
        return json.loads(path.read_text(encoding="utf-8"))["value"]

    def add(self, study: str, settings: Mapping[str, Any], method: str, found: Mapping[str, Any]) -> None:
        """Put one method's result into ``STUDY.json``.

        Raises:
            SpecError: the file holds results of other settings.
        """
        path = self.folder / f"{study}.json"
        settings = json.loads(json.dumps(_plain(settings)))
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": settings}
        if before["settings"] != settings:
            changed = sorted(
                k for k in {*settings, *before["settings"]} if settings.get(k) != before["settings"].get(k)
            )
            raise refusal(
                f"{path} holds results of other settings ({', '.join(changed)})",
                because="one file has one protocol",
                instead="write another --out, or remove the file",
            )
        write_json(path, {**before, "methods": {**before.get("methods", {}), method: found}})
