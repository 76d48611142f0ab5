"""The command line in this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from signa import cli

SNAPSHOTS = Path(__file__).parent / "snapshots"


class Terminal:
    """Runs commands, and gives back what they print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = monkeypatch, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What a command prints; on stderr, if it is to fail."""
        self.patch.setattr(sys, "argv", ["signa", *words])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = self.capture.readouterr()
        assert status == code, said
        return said.err if code and said.err else said.out


def snapshot(name: str, said: str, folder: Path = SNAPSHOTS) -> None:
    """``said`` is what the file says; SIGNA_UPDATE_SNAPSHOTS=1 writes it."""
    path = folder / name
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS"):
        path.write_text(said, encoding="utf-8")
    assert path.exists(), f"there is no {path}: SIGNA_UPDATE_SNAPSHOTS=1 writes it"
    assert said == path.read_text(encoding="utf-8")
