"""One line of the table of promises."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One promise.

    Args:
        promise: what users rely on.
        fault: how the code is broken, in words.
        file: what is broken, below ``signa``.
        old: its text, which stands there once.
        new: what it becomes.
        tests: those that hold the promise, each of which must then fail.
    """

    promise: str
    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
