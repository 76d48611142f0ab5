"""The soak itself: a short one is fine, and each thing that it counts is counted when it happens."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from tests.ranks.worlds import Ended
from tests.soak import kills, long
from tests.soak.__main__ import main

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.filterwarnings("ignore::signa.errors.Advice"),
]


def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kills", "2", "--steps", "100", "--seed", "1", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fine"] and found["kills"]["kills"] >= 2 and sum(found["kills"]["by_phase"].values()) >= 2
    assert len(found["long"]["ranks"]) == 2 and found["long"]["steps"] == 100
    digests = {each["digest"] for name in ("simulated", "ranks") for each in found["long"][name]}
    assert len(digests) == 1
    assert "soak: nothing is wrong" in capsys.readouterr().out


def test_another_digest_is_a_mismatch_and_a_strange_file_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def litter(tally: kills.Tally, where: str, method: str, exchange: object, folder: Path, plan: object) -> bool:
        run = kills.Trained(method, kills.signa.Loopback(kills.SIZE))
        for _ in range(kills.STEPS):
            run.step()
        run.save(folder)
        (folder / "core").touch()
        (folder / ".step-00000002.0123abcd").mkdir()  # what a kill may leave, and the next save removes
        return True

    monkeypatch.setattr(kills, "attempt", litter)
    tally = kills.Tally()
    kills.trial(tally, 0, random.Random(0), tmp_path)
    assert not tally.mismatches
    assert {line.split(": ")[1] for line in tally.leftovers} == {"core"}
    kills.trial(tally, 8, random.Random(0), tmp_path, expected="another")
    assert len(tally.mismatches) == 1 and "signmuon" in tally.mismatches[0]


def test_what_survivors_may_come_to() -> None:
    late = {"error": "PeerLost", "text": "", "seconds": kills.TIMEOUT + kills.GRACE + 1}
    typed, whole = {**late, "seconds": 0.1}, {"digest": "0"}
    cases = {"hangs": [Ended(None, ["step"], 9.0), Ended(0, [late], 0.1)], "untyped": [Ended(1, ["save"], 0.1)]}
    for kind, strange in cases.items():
        for each in strange:
            tally = kills.Tally(kills=1)
            tally.judge("here", [Ended(-9, ["step"], 0.0), each, Ended(0, [typed], 0.1)], 0, False)
            assert not tally.fine and len(getattr(tally, kind)) == 1
    tally = kills.Tally(kills=1)
    tally.judge("here", [Ended(-9, ["step"], 0.0), Ended(0, [typed], 0.1), Ended(0, [whole], 0.1)], 0, False)
    assert tally.fine and tally.errors == {"PeerLost": 1}


def test_what_the_machine_holds_is_seen() -> None:
    import socket
    import subprocess

    before = kills.belongings()
    child = subprocess.Popen(["sleep", "60"])
    try:
        with socket.create_server(("127.0.0.1", 0)):
            after = kills.belongings()
    finally:
        child.kill()
        child.wait()
    assert after["process"] - before["process"] == {str(child.pid)}
    assert len(after["listening socket"] - before["listening socket"]) == 1
    assert after["descriptor"] - before["descriptor"]


def test_a_leak_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "JUDGED", 100)
    leaking = long.run(True, 200, leak=100_000)  # 100 MB by 1,000 steps
    assert leaking[0].by_thousand == pytest.approx(100, rel=0.2)
    assert "memory grows by" in long.faults({"simulated": leaking})[0]
    other = [long.Watched([{**sample, "digest": "0", "mb": 1.0} for sample in leaking[0].samples], "done")]
    steady = [long.Watched([{**sample, "mb": 1.0} for sample in leaking[0].samples], "done")]
    step = steady[0].samples[0]["step"]
    assert long.faults({"simulated": steady, "ranks": other}) == [f"ranks, rank 0: another digest at step {step}"]
    steady[0].samples[-1]["fds"] += 1
    assert "fds grow" in long.faults({"simulated": steady})[0]
    assert long.faults({"simulated": [long.Watched(leaking[0].samples, "PeerLost: gone")]})
