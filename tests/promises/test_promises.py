"""Every promise is held by a test that notices when it is broken: each fault of the table is injected into a copy.

The quick half holds the table to the code and ``docs/promises.md`` to the table (SIGNA_UPDATE_SNAPSHOTS=1 rewrites it);
``python3 run.py test -m slow tests/promises`` injects the faults.
"""

from __future__ import annotations

import ast
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.promises.inject import outcome
from tests.promises.row import Row
from tests.promises.table import ROWS
from tests.test_docs import compare

ROOT = Path(__file__).parents[2]
COPIED = ("signa", "tests", "docs", "examples", "benchmarks")
every_row = pytest.mark.parametrize("row", ROWS, ids=[f"{at}-{row.fault}" for at, row in enumerate(ROWS)])


def functions(file: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@every_row
def test_a_fault_can_be_injected_and_its_tests_exist(row: Row) -> None:
    text = (ROOT / "signa" / row.file).read_text()
    assert text.count(row.old) == 1, f"'{row.old}' stands {text.count(row.old)} times in {row.file}: mend the row"
    assert row.new != row.old
    if row.file.endswith(".py"):
        ast.parse(text.replace(row.old, row.new))
    assert row.tests
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(file), test


def shown(test: str) -> str:
    """A test as the page shows it, without its parameters."""
    return f"`{test.partition('[')[0]}`"


def promises() -> str:
    lines = ["| promise | held by | a fault that it finds |", "|---|---|---|"]
    lines += [f"| {row.promise} | {', '.join(map(shown, row.tests))} | {row.fault} |" for row in ROWS]
    return "\n".join(lines)


def test_the_page_shows_the_table() -> None:
    compare("docs/promises.md", "promises", promises())


# The faults ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that the tests need."""
    there = tmp_path_factory.mktemp("broken")
    for name in COPIED:
        shutil.copytree(ROOT / name, there / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "run.py", "README.md"):
        shutil.copy(ROOT / file, there)
    return there


@pytest.mark.slow
@every_row
def test_a_broken_promise_is_noticed(row: Row, tree: Path) -> None:
    """Each of the row's tests fails, as a test does: nothing else breaks."""
    file = tree / "signa" / row.file
    sound = file.read_text()
    file.write_text(sound.replace(row.old, row.new))
    try:
        code, said = outcome(tree, row.tests)
    finally:
        file.write_text(sound)
    if code == -signal.SIGABRT:  # gloo's answer to collectives of two sizes that meet
        return
    assert code == 1, said[-3000:]
    assert not re.search(r"^ERROR ", said, re.MULTILINE), said[-3000:]
    for test in row.tests:
        assert f"FAILED {test}" in said, said[-3000:]


@pytest.mark.slow
def test_without_a_fault_they_pass(tree: Path) -> None:
    """In the copy as in the original: else the failures above would say nothing."""
    code, said = outcome(tree, sorted({test for row in ROWS for test in row.tests}))
    assert code == 0, said[-3000:]
