"""Small faults between ranks that no other test noticed (docs/mutants.md)."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch

import signa
from signa.errors import LayoutMismatch
from signa.transport.line import Line
from tests.ranks.worlds import every, world


def test_the_thread_of_a_line_ends_with_it() -> None:
    """Every transport with overlap has one; a program that makes many would else keep all their threads."""
    line = Line()
    thread = line.put(threading.current_thread, torch.device("cpu")).result(timeout=10)
    assert thread.name == "signa line" and thread.is_alive()
    del line
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_ranks_in_different_questions_are_told_so_whatever_they_bring() -> None:
    """Unequal sizes in one all-reduce would abort the process, so the question is asked with one size."""

    def rank(r: int, arguments: dict[str, Any]) -> str:
        ranks = signa.Group(**arguments).ranks
        assert ranks.largest("both", r, -r) == [1, 0]
        with pytest.raises(LayoutMismatch) as told:
            ranks.largest("one", 1) if r else ranks.largest("the other", 1, 2)
        return str(told.value)

    assert all(every(world(2, rank)))
