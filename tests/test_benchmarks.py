"""The benchmarks' hosts do what they say, and the benchmarks of whole steps run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import hosts as network
from benchmarks import slow_link
from benchmarks.hosts import UNSHAPED, Hosts, bits_per_second

ROOT = Path(__file__).parents[1]
SENDER = """
import os, socket
from benchmarks.hosts import answer, orders
if os.environ["RANK"] == "0":
    listening = socket.create_server((os.environ["MASTER_ADDR"], 6000))
for order in orders():
    if os.environ["RANK"] == "0":
        other, _ = listening.accept()
        count = 0
        while data := other.recv(1 << 16):
            count += len(data)
        other.sendall(b"done")
        answer(count=count)
    else:
        with socket.create_connection((os.environ["MASTER_ADDR"], 6000)) as other:
            other.sendall(bytes(order["count"]))
            other.shutdown(socket.SHUT_WR)
            other.recv(4)
        answer(count=order["count"])
"""


def namespaces() -> None:
    """Skip where there can be none."""
    with Hosts(1) as hosts:
        if not hosts.real:
            pytest.skip(hosts.reason)


def test_rates() -> None:
    assert [bits_per_second(rate) for rate in ("20mbit", "1gbit", "2.5mbit")] == [2e7, 1e9, 2.5e6]
    assert bits_per_second(UNSHAPED) == float("inf")
    with pytest.raises(SystemExit, match="20mbit"):
        bits_per_second("fast")


def test_a_link_carries_its_rate_and_counts_every_header(tmp_path: Path) -> None:
    namespaces()
    script, count = tmp_path / "sender.py", 500_000
    script.write_text(SENDER)
    with Hosts(2) as hosts:
        hosts.start(str(script))
        for rate in (UNSHAPED, "20mbit"):
            hosts.shape(rate)
            before, begun = hosts.sent(), time.perf_counter()
            assert [each["count"] for each in hosts.ask(count=count)] == [count, count]
            seconds = time.perf_counter() - begun
            sent = [after - then for after, then in zip(hosts.sent(), before)]
            segments = -(-count // 1448)  # 1500 less 40 of TCP and IP and 12 of time stamps
            assert count + 66 * segments <= sent[1] < 1.15 * count  # 14 of Ethernet with those; some travel twice
            assert 0 < sent[0] < 0.05 * count  # acknowledgements
        assert seconds > 0.9 * 8 * count / bits_per_second("20mbit")
        hosts.stop()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not set(left.split()) & set(hosts._names)


def test_without_namespaces_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(network, "_missing", lambda: "network namespaces need root")
    monkeypatch.setattr(sys, "argv", ["slow_link.py", "--quick"])
    slow_link.main()
    assert capsys.readouterr().out == "skipped: links cannot be shaped here, for network namespaces need root\n"


@pytest.mark.slow
def test_whole_steps(tmp_path: Path) -> None:
    """Every arm takes its steps, and sends what it should: the headers of few bytes weigh most."""
    namespaces()
    run("slow_link", tmp_path)
    runs = json.loads((tmp_path / "slow_link.json").read_text())["runs"]
    assert {(one["rate"], one["arm"]) for one in runs} == {
        (rate, arm) for rate in ("100mbit", "unshaped") for arm in slow_link.ARMS
    }
    bits = {one["arm"]: one["link_bits"]["median"] for one in runs}
    assert 32 < bits["DDP fp32 + torch.optim.Muon"] < 38
    assert 16 < bits["DDP bf16 + torch.optim.Muon"] < 20
    assert 1 < bits["SignMuon"] < 3
    assert (tmp_path / "slow_link.md").read_text().count("\n") == 2 + len(slow_link.ARMS)


@pytest.mark.slow
def test_weak_scaling(tmp_path: Path) -> None:
    """With namespaces or without; the parts of a step are all of it."""
    run("weak_scaling", tmp_path)
    runs = json.loads((tmp_path / "weak_scaling.json").read_text())["runs"]
    assert [(one["ranks"], one["formula_bits"]) for one in runs] == [(1, 0), (2, 1)]
    assert runs[0]["payload_bits"] == 0 and 1 <= runs[1]["payload_bits"] < 1.1
    assert sum(runs[0]["parts"].values()) == pytest.approx(runs[0]["seconds"]["median"], rel=0.01)


def run(name: str, out: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--out", str(out)]
    subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
