"""A pytest plugin: what a process has run is written when its tests end, and again when it ends.

pytest-xdist kills a worker that takes more than ten seconds to end, and what the worker had run was lost with it.
"""

from __future__ import annotations

import coverage
import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Write this process' data file."""
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.save()
