"""The mutation run: what it changes and leaves alone, and that a fault is caught."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.mutants import campaign, modules
from tests.mutants.cover import _joined
from tests.mutants.mutant import mutants
from tests.mutants.operators import changed, changes

ROOT = Path(__file__).resolve().parents[1]


def faults(text: str) -> list[str]:
    tree = ast.parse(text)
    return [ast.unparse(changed(tree, change)) for change in changes(tree)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a < b", ["a <= b"]),
        ("a == b", ["a != b"]),
        ("a and b", ["a or b"]),
        ("a + b", ["a - b"]),
        ("a @ b", []),
        ("a //= b", ["pass", "a *= b"]),
        ("-a", ["a"]),
        ("x = 3", ["x = 4", "x = 2"]),
        ("x = 0.5", ["x = 1.0"]),
        ("x = True", ["x = False"]),
        ("x = 'text'", []),
        ("x[a:b]", ["x[:b]", "x[a:]"]),
        ("f(a, b)", ["pass", "f(b, a)"]),
        ("y = f(a, k=b, device=c)", ["y = f(a, device=c)"]),
        ("y = max(a, b)", ["y = min(a, b)"]),
        ("y = a.clone()", ["y = a"]),
        ("if a:\n    f()", ["if not a:\n    f()", "if a:\n    pass"]),
        ("if a is b:\n    x = c", ["if a is not b:\n    x = c"]),
        ("if a:\n    raise E(1 + 2)", ["if not a:\n    raise E(1 + 2)", "if a:\n    pass"]),
        ("def f(a: A[3]=1.0) -> B[4]:\n    return a", ["def f(a: A[3]=2.0) -> B[4]:\n    return a"]),
        ("@g(1)\ndef f():\n    'text'", []),
        ("import a\nassert a == 1", []),
        ("if TYPE_CHECKING:\n    x = 1", []),
        ("y = [a for a in b if c]", ["y = [a for a in b if not c]"]),
    ],
)  # fmt: skip
def test_what_is_changed_and_what_is_left_alone(text: str, wanted: list[str]) -> None:
    assert faults(text) == wanted


def test_a_seed_draws_the_same_ones_and_every_group_in_turn() -> None:
    first, again, other = (
        [(each.module, each.number) for each, _ in zip(campaign.sample(seed, []), range(60))] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert {modules.modules()[module] for module, _ in first[:6]} == set(modules.GROUPS)


def test_a_place_is_chosen_by_group_file_or_line() -> None:
    assert {each.module for each in campaign.sample(0, ["feedback"])} == {"signa/feedback.py"}
    line = next(each.line for each in mutants("signa/feedback.py") if each.kind == "arithmetic")
    assert {each.line for each in campaign.sample(0, [f"signa/feedback.py:{line}"])} == {line}
    assert campaign.main(["--module", "signa/no_such.py"]) == 2


def test_the_tests_of_a_mutant_are_those_of_the_smallest_part_around_it() -> None:
    one = next(each for each in mutants("signa/feedback.py") if each.before == "u - state['h']")
    statement, method, class_ = one.scopes[:3]
    assert one.line == statement[0] and method[0] < one.line <= method[1] and class_[0] < method[0]
    assert one.tests({str(one.line): [3, 1], str(class_[0]): [7]}) == [1, 3]
    assert one.tests({str(method[0]): [2], str(class_[0]): [7]}) == [2]
    assert one.tests({str(class_[0]): [7]}) == [7] and one.tests({}) == []


def test_measuring_again_keeps_what_did_not_change() -> None:
    old = {"tests": ["a.py::x", "b.py::y"], "seconds": [1.0, 2.0], "lines": {"m": {"1": [0, 1], "2": [1]}}}
    new = {"tests": ["a.py::z"], "seconds": [3.0], "lines": {"m": {"1": [0]}}}
    joined = _joined(old, new, {"b.py"})
    assert joined == {"tests": ["b.py::y", "a.py::z"], "seconds": [2.0, 3.0], "lines": {"m": {"1": [0, 1], "2": [0]}}}


@pytest.mark.slow  # a process of its own: it must not have imported signa
def test_a_fault_is_caught_and_the_code_as_it_is_passes(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = """
from tests.mutants.mutant import mutants
from tests.mutants.trial import preload, tried
preload()
tests = ["signa/lmo/corners.py::signa.lmo.corners.Nuclear", "tests/laws/test_laws.py::test_ef14_loses_nothing"]
one = next(each for each in mutants("signa/feedback.py") if each.after.startswith("torch.add(p, y"))
print(tried(one.module, one.code(), tests, 60.0).how, tried(one.module, None, tests, 60.0).how)
print(tried(one.module, compile("while True: pass", "x", "exec"), tests, 2.0).how)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["killed", "survived", "hang"]


def test_the_page_tells_what_was_found() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    assert campaign.scores(found["mutants"]) == found["score"] and found["seed"] == 0
    for row, has in found["score"].items():
        if not row.startswith("kind"):
            assert has["score"] >= 0.85, row
            caught = sum(has.get(how, 0) for how in ("killed", "hang", "crash"))
            assert f"| {row} | {has['mutants']} | {caught} | {100 * has['score']:.1f} % |" in page
    for one in found["mutants"]:
        if one["how"] in ("survived", "untested"):
            assert f"| {one['module'].removeprefix('signa/')}:{one['line']} |" in page
