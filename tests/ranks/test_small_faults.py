"""Small faults between ranks that no other test noticed (`python3 run.py mutants`)."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import signa
from signa.errors import LayoutMismatch, PeerLost
from signa.transport import pool
from signa.transport.line import Line
from signa.transport.ranks import Ranks
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


class LateStore:
    """A store in which rank 1 answers the roll call after so many questions, and rank 2 is dead."""

    def __init__(self, questions: int) -> None:
        self.left, self.said = questions, dict[str, str]()

    def add(self, key: str, more: int) -> int:
        return more

    def compare_set(self, key: str, old: str, new: str) -> bytes:
        return self.said.setdefault(key, new).encode()

    def set(self, key: str, value: str) -> None:
        self.said[key] = value

    def check(self, keys: list[str]) -> bool:
        if keys[0].endswith("alive/1"):
            self.left -= 1
            return self.left < 0
        return keys[0] in self.said


def test_a_survivor_that_is_late_to_the_roll_call_is_not_missing() -> None:
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 3)
    assert Ranks(group, LateStore(0), 10.0)._missing() == [2]
    assert Ranks(group, LateStore(9), 10.0)._missing() == [2]


def test_a_fault_before_the_first_step_is_one_of_step_0() -> None:
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 2)
    fault = Ranks(group, LateStore(0), 0.1).meet(PeerLost, "it is gone", call=False)
    assert str(fault).startswith("step 0, ")


def test_what_comes_in_one_piece_is_not_copied(monkeypatch: Any) -> None:
    made = [torch.zeros(1, 4)]
    monkeypatch.setattr(pool, "_unpacked", lambda *_: made)
    p = torch.nn.Parameter(torch.zeros(2, 2))
    opt = signa.build({"groups": [{"aggregate": "mean", "lr": 0.1}]}, {"p": p}.items(), transport=signa.Loopback(2))
    (lane,) = [stack.lane for _, stack in opt.stacks]
    status = torch.full((2, 1), pool.VOICE, dtype=torch.uint8)
    fields = [torch.zeros(2, 1, 4)]
    assert pool.aggregate(lane, pool.everywhere(lane), fields, status, None, p.device) is made
