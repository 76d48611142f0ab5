"""The run folder: what a run writes, so that a kill at any moment leaves files that can be read.

`metrics.jsonl` and `trail.jsonl` grow by whole lines, one system call each; every other file is written beside its name
and renamed. The trail is what :mod:`signa.lab.verify` holds a replay against: the loss of every step, and the digests
of the model where a loss is logged.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import SpecError
from ..kernels import name_for
from .refusal import denied, refusal

__all__ = ["Elsewhere", "RunFolder", "as_line", "damaged", "environment", "read_facts", "read_metrics", "run_named"]

TRAIL = "trail.jsonl"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: Names of devices on Windows, with any suffix: opening such a file opens the device.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
Value = int | float | bool | None


class RunFolder:
    """A new folder `root/name`; where that exists, `root/name-2`, `-3`, ... A run never writes into another's folder.

    Raises:
        SpecError: where `name` is not a plain name, so that no run can leave `root`.
    """

    def __init__(self, root: Path, name: str, *, metrics: bool = True) -> None:
        name = run_named(name)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.path = next(path for path in _free(root, name) if _made(path))
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            raise denied(f"no run folder can be made in {root}", error, instead="choose another --out") from None
        self._metrics = _opened(self.path) if metrics else -1

    @classmethod
    def again(cls, path: Path) -> RunFolder:
        """The folder of a run that stopped.

        Raises:
            SpecError: the run is still going on.
        """
        folder = cls.__new__(cls)
        folder.path, folder._metrics = path, _opened(path)
        return folder

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Take back the metrics and the trail after this step; the metrics that stay."""
        if (self.path / TRAIL).exists():
            _cut(self.path / TRAIL, step)
        return _cut(self.path / "metrics.jsonl", step)

    def metric(self, record: Mapping[str, Value]) -> None:
        """Append one line; a number that is not finite is written as null, which JSON can hold."""
        os.write(self._metrics, as_line(record).encode())

    def trail(self, record: Mapping[str, Any], *, head: bool = False) -> None:
        """Append one line to the trail; the ``head``, which has the names, only where nothing stands there yet."""
        file = os.open(self.path / TRAIL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not (head and os.fstat(file).st_size):
                os.write(file, as_line(record).encode())
        finally:
            os.close(file)

    def text(self, name: str, content: str) -> None:
        """Write a whole file, or none of it."""
        scratch = self.path / f".{name}.part"
        scratch.write_text(content, encoding="utf-8")
        scratch.replace(self.path / name)

    def json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON."""
        self.text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close metrics.jsonl; a second call does nothing."""
        if self._metrics >= 0:
            os.close(self._metrics)
            self._metrics = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Elsewhere:
    """The run folder on the ranks that write nothing: rank 0 holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def metric(self, record: Mapping[str, Value]) -> None:
        """Nothing."""

    def trail(self, record: Mapping[str, Any], *, head: bool = False) -> None:
        """Nothing."""

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def text(self, name: str, content: str) -> None:
        """Nothing."""

    def json(self, name: str, value: Mapping[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        return


def as_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON; a number that is not finite is null, in a list too.

    >>> as_line({"step": 1, "losses": [0.1, float("nan")]})
    '{"step": 1, "losses": [0.1, null]}\\n'
    """
    return json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(path: Path, step: int) -> list[dict[str, Any]]:
    """Take back the lines after this step; those that stay."""
    kept, length = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        record = json.loads(line) if line.endswith(b"\n") else {"step": step + 1}  # a line that was cut off
        if record["step"] > step:
            break
        kept.append(record)
        length += len(line)
    os.truncate(path, length)
    return kept


def run_named(name: str) -> str:
    """The name, if it is one: a word that is a folder right inside the run directory on every system.

    Raises:
        SpecError: it leads elsewhere, or Windows has such a device (``con``, ``nul.txt``) or drops its last dot.
    """
    if not NAME.fullmatch(name) or name.endswith("."):
        raise refusal(
            f"{name!r:.200} is not a run name",
            because="a run writes inside the run directory only",
            instead="write a letter or digit and up to 99 of these, '.', '_', '-'; --out chooses the directory",
        )
    if name.partition(".")[0].lower() in _DEVICES:
        raise refusal(
            f"'{name}' is not a run name", because="Windows has a device of that name", instead="write another"
        )
    return name


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, or of a trail.jsonl, without a last line that was cut off; none without the file.

    Raises:
        SpecError: the file cannot be read, or one of its lines is no record; the message says which.
    """
    found = []
    for number, line in enumerate(_text(path).split("\n")[:-1], 1):
        if line:
            record = _object(line, f"{path}:{number}")
            if not isinstance(record.get("step"), int):
                raise damaged(f"{path}:{number}", "it has no step")
            found.append(record)
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """What a summary.json or an environment.json says; nothing without the file.

    Raises:
        SpecError: the file cannot be read, or is damaged.
    """
    text = _text(path)
    return _object(text, str(path)) if text or path.exists() else {}


def damaged(place: str, because: str) -> SpecError:
    """What is raised for a file of a run that no run has written so."""
    return refusal(
        f"{place} is damaged",
        because=because,
        instead="move the run's folder away, or train it again: signa train and its spec.yaml",
    )


def _text(path: Path) -> str:
    """A file's text; none where there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise damaged(str(path), getattr(error, "strerror", None) or str(error)) from None


def _object(text: str, place: str) -> dict[str, Any]:
    """One JSON object, in which every number is finite: that is how runs write them."""
    try:
        found = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise damaged(place, f"{error}" if text.strip() else "it is empty") from None
    if not isinstance(found, dict):
        raise damaged(place, "it holds no JSON object")
    return found


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def environment(command: Sequence[str], device: torch.device) -> dict[str, Any]:
    """What a reader needs to repeat a run, without the machine's or the user's name."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": list(command),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "signa": __version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{_cpu()} ({torch.backends.cpu.get_cpu_capability()})",
        "gpu": gpu,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "kernels": name_for(device),
        "commit": _commit(),
    }


def _opened(folder: Path) -> int:
    """metrics.jsonl for appending, locked while it is open: two processes never write one run."""
    metrics = os.open(folder / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.suppress(ImportError):  # Windows has no fcntl
        import fcntl

        try:
            fcntl.flock(metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(metrics)
            raise refusal(f"the run in {folder} is still going on", instead="wait for its end, or stop it") from None
        except OSError:
            pass  # a file system without locks
    return metrics


def _free(root: Path, name: str) -> Iterator[Path]:
    yield root / name
    for n in range(2, 10_000):
        yield root / f"{name}-{n}"
    raise refusal(f"there are 9,999 runs named {name} in {root}", instead="choose another --name")


def _made(path: Path) -> bool:
    """Make the folder; False where something of that name, a dangling link included, is there."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this package lies in, with '+' where tracked files differ from it."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # an installed copy that happens to lie inside someone else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
