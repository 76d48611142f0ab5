"""Names stay where they belong, verb by verb, and nothing is written over: what a shell says is only a name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from signa.errors import SpecError
from signa.lab.ablation.plan import Arm
from signa.lab.records import RunFolder, run_named
from signa.spec import Spec
from tests.cli.terminal import Terminal

SPEC = "groups: [{match: '*', method: signsgd, lr: 0.1}]\ntrain: {steps: 1, workers: 1}\n"
#: Names that would lead out of a folder, or mean something else, on one system or another.
ESCAPES = [
    "..",
    ".",
    "../x",
    "a/../../x",
    "/tmp/x",
    "a/b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:\\x",
    "\\\\host\\x",
    "~",
    "~root",
    "",
    " ",
    "a\0b",
    "a\nb",
    "-rf",
    ".hidden",
    "a" * 101,
    "con",
    "NUL",
    "nul.txt",
    "COM1",
    "lpt9.x",
    "a.",
    "a b",
    "é",
    "\u202ea",
    "a:b",
    "*",
    "a?",
    "$HOME",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where `run` is, as well
    Path("spec.yaml").write_text(SPEC)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, links as what they point at."""
    return {
        str(path.relative_to(root)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("name", ESCAPES)
def test_a_run_has_a_name_and_no_path(name: str, tmp_path: Path) -> None:
    before = tree(tmp_path)
    with pytest.raises(SpecError, match="is not a run name"):
        RunFolder(Path("runs"), name)
    with pytest.raises(SpecError, match="is not a run name"):
        Arm(name="a", folder=name, changes={}, spec={}, rates=(), choice=())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["run", "my-run_2.0", "a" * 100, "console", "com", "nul2", "0"])
def test_ordinary_names_are_names(name: str) -> None:
    assert run_named(name) == name


@pytest.mark.parametrize("name", ["../x", "/tmp/signa-x", "..", "nul.txt"])
@pytest.mark.parametrize("verb", [["train"], ["ablate", "--vary", "groups.0.lr=0.1,0.2", "--tune", "0"]])
def test_verbs_that_make_a_folder_by_name(run: Terminal, verb: list[str], name: str, tmp_path: Path) -> None:
    before = tree(tmp_path)
    said = run(verb[0], "spec.yaml", *verb[1:], "--name", name, "--out", "runs", code=2)
    assert "is not a run name" in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../x", "a/b", "con", "x.py", "..", "torch", "json", "class", "", "a\nb", "X"])
def test_a_component_has_a_name_and_no_path(run: Terminal, name: str, tmp_path: Path) -> None:
    before = tree(tmp_path)
    run("new", "lmo", name, code=2)
    assert tree(tmp_path) == before


def test_nothing_is_written_over(run: Terminal, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.txt"
    for verb, name in (("init", "train.py"), ("new", "mine.md")):
        words = ["init", "."] if verb == "init" else ["new", "lmo", "mine"]
        Path("spec.yaml").unlink(missing_ok=True)
        Path(name).write_text("mine")
        run(*words, code=2)
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
        Path(name).symlink_to(outside)  # a link that leads nowhere yet
        assert f"{name} would be written over" in run(*words, code=2) and not outside.exists()
        assert [path.name for path in Path().iterdir()] == [name]
        Path(name).unlink()


def test_a_run_takes_no_folder_that_is_there(tmp_path: Path) -> None:
    Path("runs").mkdir()
    Path("runs/x").symlink_to(tmp_path / "outside")
    with RunFolder(Path("runs"), "x") as folder:
        assert folder.path == Path("runs/x-2")
    assert not (tmp_path / "outside").exists()
    with RunFolder(Path("runs"), "x") as folder:
        assert folder.path == Path("runs/x-3")


@pytest.mark.parametrize("words", [["certify", "sgd", "--tries", "1"], ["show", "muon"], ["schema"]])
@pytest.mark.parametrize("place", ["absent/x.json", ".", "spec.yaml/x"])
def test_a_file_that_cannot_be_written_is_said_in_a_line(run: Terminal, words: list[str], place: str) -> None:
    assert "cannot be written" in run(*words, "--out", place, code=2)


@pytest.mark.parametrize("place", ["absent.py", ".", "a\0b.py", "x.txt", "../absent.py", "~/absent.py"])
def test_a_plugin_is_a_file_that_is_there(place: str) -> None:
    Path("x.txt").write_text("raise SystemExit('ran')")
    with pytest.raises(SpecError, match="the plug-in"):
        Spec.load("muon", plugins=[place])
