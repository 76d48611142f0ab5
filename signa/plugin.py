"""Plug-in files: the only code that a spec may bring along, and only when the caller names the file on purpose."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from .errors import Problem, SpecError

_loaded: dict[Path, str] = {}


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each file once per process; what it registers is then known by name.

    Raises:
        SpecError: a file that cannot be read, is no Python file, fails, or has changed since it was loaded.
    """
    for path in map(Path, paths):
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise _refusal(path, "cannot be read", because=getattr(error, "strerror", None) or str(error)) from None
        known = _loaded.setdefault(path.resolve(), "")
        if not known:
            _run(path, f"signa_plugin_{path.stem}_{digest[:8]}")
            _loaded[path.resolve()] = digest
        elif known != digest:
            because = "what its first version registered is in use"
            raise _refusal(path, "changed after it was loaded", because=because, instead="start a new process")


def _run(path: Path, name: str) -> None:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _refusal(path, "is no Python file", instead="name a .py file")
    sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failure(path, error) from error


def innermost(error: BaseException, path: str | Path) -> traceback.FrameSummary | None:
    """The last place in a file that an error came through, if it came through it."""
    file = Path(path).resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == file]
    return frames[-1] if frames else None


def _failure(path: Path, error: BaseException) -> SpecError:
    """The error at the plug-in's own line."""
    frame = innermost(error, path)
    line, column, text = (frame.lineno or 0, 1, frame.line or "") if frame else (0, 1, "")
    if isinstance(error, SyntaxError):
        line, column, text = error.lineno or 0, error.offset or 1, (error.text or "").rstrip()
    what = f"the plug-in failed: {type(error).__name__}: {getattr(error, 'msg', error)}"
    return SpecError([Problem(what).at(str(path), line, column, text, len(text.strip()) if column == 1 else 1)])


def _refusal(path: Path, what: str, *, because: str = "", instead: str = "") -> SpecError:
    return SpecError([Problem(f"the plug-in '{path}' {what}", because=because, instead=instead)])
