"""Plug-in files: the only code that a spec may bring along, and only when the caller names the file on purpose."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import Problem, SpecError

_loaded: dict[str, str] = {}


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each file once per process; what it registers is then known by name.

    Raises:
        SpecError: a file that does not exist, fails, or has changed since it was loaded.
    """
    for path in map(Path, paths):
        key = str(path.resolve())
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise SpecError([Problem(f"the plug-in '{path}' cannot be read", because=str(error.strerror))]) from None
        if _loaded.get(key) == digest:
            continue
        if key in _loaded:
            raise SpecError(
                [Problem(f"the plug-in '{path}' changed after it was loaded", instead="start a new process")]
            )
        name = f"signa_plugin_{path.stem}_{digest[:8]}"
        module_spec = importlib.util.spec_from_file_location(name, path)
        if module_spec is None or module_spec.loader is None:
            raise SpecError([Problem(f"the plug-in '{path}' is no Python file", instead="name a .py file")])
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        try:
            module_spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise SpecError([Problem(f"the plug-in '{path}' failed: {type(error).__name__}: {error}")]) from error
        _loaded[key] = digest
