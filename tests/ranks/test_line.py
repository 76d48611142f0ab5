"""The thread that exchanges run in: it ends with its owner."""

from __future__ import annotations

import gc
import threading

import torch

from signa.transport.line import Line


def test_the_thread_of_a_line_ends_with_it() -> None:
    """Every transport with overlap has one; a program that makes many would else keep all their threads."""
    line = Line()
    thread = line.put(threading.current_thread, torch.device("cpu")).result(timeout=10)
    assert thread.name == "signa line" and thread.is_alive()
    del line
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
