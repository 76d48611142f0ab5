"""What a run sends: payload between steps does not count, and the interfaces are the host's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from signa.lab import ledger
from signa.lab.ledger import Ledger, interface_bytes

COUNTERS = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: {lo}  3    0    0    0     0          0         0 {lo}  3    0    0    0     0       0          0
  eth0:1000  2    0    0    0     0          0         0        70  2    0    0    0     0       0          0
  eth1: 100  2    0    0    0     0          0         0         7  2    0    0    0     0       0          0
"""  # noqa: E501 (as Linux writes it)


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "dev"
    path.write_text(COUNTERS.format(lo=40))
    monkeypatch.setattr(ledger, "COUNTERS", path)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    return path


def test_the_interfaces_of_a_machine(counters: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert interface_bytes() == (117, 1140)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert interface_bytes() == (47, 140)
    assert interface_bytes(tmp_path / "none") is None
    counters.write_text("no such\ntable\nlo: a b c")
    assert interface_bytes() is None


def test_a_line_is_the_mean_of_its_steps_and_the_run_of_all(counters: Path) -> None:
    sent = [0, 0]
    book = Ledger(lambda: (sent[0], sent[1]), entries=10)
    for step in range(3):
        sent[:] = sent[0] + 1000, sent[1] + 1000  # between the steps: a loss, a digest
        with book.step():
            sent[:] = sent[0] + 10 * step, sent[1] + 5
        if step == 1:
            counters.write_text(COUNTERS.format(lo=60))
            line = book.line()
    assert (line["payload_sent"], line["payload_received"]) == (5.0, 5.0)
    assert (line["payload_bits_up"], line["payload_bits_down"]) == (4.0, 4.0)
    assert (line["interface_sent"], line["interface_received"]) == (10.0, 10.0)
    whole = book.means()
    assert (whole["payload_sent"], whole["payload_received"]) == (10.0, 5.0)
    assert whole["interface_sent"] == 20 / 3


def test_it_goes_on_from_a_checkpoint_in_the_middle_of_a_line(counters: Path) -> None:
    sent = [0]

    def count(book: Ledger, steps: int) -> None:
        for _ in range(steps):
            with book.step():
                sent[0] += 7

    whole, first, second = (Ledger(lambda: (sent[0], 0), entries=1) for _ in range(3))
    count(whole, 3)
    count(first, 2)
    counters.write_text(COUNTERS.format(lo=43))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    counters.write_text(COUNTERS.format(lo=46))
    count(second, 1)
    line = second.line()
    assert line["payload_sent"] == whole.line()["payload_sent"] == 7.0
    assert line["interface_sent"] == 2.0  # 3 bytes in each process, over three steps


def test_a_system_that_tells_nothing(counters: Path) -> None:
    counters.unlink()
    book = Ledger(lambda: (0, 0), entries=1)
    with book.step():
        pass
    assert book.line()["interface_sent"] is None is book.means()["interface_received"]
