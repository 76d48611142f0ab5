"""Every verb's help, word for word: ``snapshots/help_VERB.txt`` holds it, SIGNA_UPDATE_SNAPSHOTS=1 rewrites it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from signa import cli
from tests.cli.terminal import SNAPSHOTS, snapshot

ROOT = Path(__file__).parents[2]
VERBS = list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def said(*words: str) -> str:
    result = CliRunner().invoke(cli.app, [*words, "--help"], prog_name="signa", env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help(verb: str) -> None:
    snapshot(f"help_{verb}.txt", said(verb))


def test_the_help_of_all() -> None:
    text = said()
    assert all(f"\n  {verb} " in text for verb in VERBS)
    snapshot("help.txt", text)


def test_no_snapshot_is_left_over() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("help_*.txt")} == {f"help_{verb}" for verb in VERBS}


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys, signa.cli as cli; sys.argv = ['signa', 'VERB', '--help']\n"
        "heavy = {'torch', 'pydantic', 'rich', 'yaml', 'numpy', 'signa.lab'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "cli.main()"
    )
    for verb in ("show", "new"):
        words = [sys.executable, "-c", code.replace("VERB", verb)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_shell_completes_names() -> None:
    env = {"_SIGNA_COMPLETE": "complete_bash", "COMP_WORDS": "signa show signm", "COMP_CWORD": "2", "PATH": "/bin"}
    code = "import sys; sys.argv[0] = 'signa'; from signa.cli import app; app(prog_name='signa')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.stdout.split() == ["signmuon", "signmuon_polar"], done.stderr
