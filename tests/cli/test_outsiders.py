"""Components that break a law, as their authors see it: the law and the matrix are named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import Tensor

from signa.aggregators import Mean
from signa.compressors import Sign, TopK
from signa.feedback import EF14
from signa.lmo import Linf
from signa.scaling import UnitGain
from signa.stage import Context, State
from signa.stages import Momentum
from signa.testing import TRIALS, check_component, laws
from tests.cli.terminal import Terminal

ROOT = Path(__file__).parents[2]
MATRIX = r"on a \d+x\d+ matrix of float(32|64), seed 0"


class Short(Linf):
    kind: Literal["short"] = "short"

    def direction(self, g: Tensor) -> Tensor:
        return 0.9 * g.sign()


class Writes(Momentum):
    kind: Literal["writes"] = "writes"

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return super().__call__(x.mul_(1), state, ctx)


class Promises(TopK):
    kind: Literal["promises"] = "promises"

    def contraction(self, m: int, n: int) -> float:
        return 0.9


class First(Mean):
    kind: Literal["first"] = "first"

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        return messages[0]


class Forgets(EF14):
    kind: Literal["forgets"] = "forgets"

    def decode(self, a: Tensor, state: State) -> Tensor:
        return a / 2


class Negative(UnitGain):
    kind: Literal["negative"] = "negative"

    def __call__(self, s: Any, m: int, n: int) -> float:
        return -super().__call__(s, m, n)


class Packs(Sign):
    """``packed`` is a shortcut that no law asks for and every step takes; this one sends the opposite."""

    kind: Literal["packs"] = "packs"

    def packed(self, x: Tensor, ctx: Context) -> tuple[Sequence[Tensor], Tensor] | None:
        found = super().packed(-x, ctx)
        assert found is not None
        return found


class Elsewhere(Momentum):
    """Another function in another process."""

    kind: Literal["elsewhere"] = "elsewhere"

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        return super().__call__(x if os.environ.get("RANK") != "1" else 2 * x.abs(), state, ctx)


@pytest.mark.parametrize(
    ("component", "law"),
    [
        (Short, "is what its signal says"),
        (Writes, "borrows"),
        (Promises, "contraction"),
        (First, "anonymous"),
        (Forgets, "identity"),
        (Negative, "positive"),
    ],
)
def test_a_broken_law_is_named_with_its_matrix(component: Any, law: str) -> None:
    with pytest.raises(AssertionError, match=rf"breaks the law '({law})' {MATRIX}: \S"):
        check_component(component)


def test_a_golden_step_sees_what_no_law_does() -> None:
    check_component(Packs, only=laws(Packs()), shapes=[(9, 21)])
    with pytest.raises(AssertionError, match=r"fails the trial 'golden step': the 9x21 matrix 'wide' behind step 1 of"):
        check_component(Packs, only=["golden step"])


def test_two_processes_see_what_one_does_not() -> None:
    check_component(Elsewhere, only=["borrows", "golden step"])
    said = r"fails the trial 'two ranks': .*the 9x21 matrix 'wide' behind step 1 of 'momentum elsewhere"
    with pytest.raises(AssertionError, match=said):
        check_component(Elsewhere, only=["two ranks"])


def test_a_class_that_no_process_finds() -> None:
    class Here(Momentum):
        kind: Literal["here"] = "here"

    with pytest.raises(AssertionError, match="put the class at the top of a file"):
        check_component(Here, only=["two ranks"])


@pytest.mark.slow
def test_a_sound_plugin_passes(run: Terminal) -> None:
    shutil.copy(ROOT / "examples" / "own_lmo.py", "own_lmo.py")
    words = [sys.executable, "-m", "signa", "check", "--plugin", "own_lmo.py"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "hadamard (lmos): keeps the 12 laws of its sort, and passes golden step and two ranks\n"


@pytest.mark.slow
def test_a_sound_component_passes_the_trials() -> None:
    for rule in (Momentum(beta=0.5), Sign()):
        check_component(rule, only=TRIALS)


def test_the_command_says_the_same(run: Terminal) -> None:
    with open("short.py", "w") as file:
        file.write(
            "from typing import Literal\nimport signa\n"
            "@signa.lmos.register\nclass Short(signa.LMO):\n"
            '    """Too short."""\n    kind: Literal["short_one"] = "short_one"\n'
            "    def direction(self, g):\n        return g.sign() / 2\n"
            "    def norm(self, x):\n        return x.abs().amax((-2, -1))\n"
        )
    import signa

    try:
        said = run("check", "--plugin", "short.py", code=2)
        assert re.search(rf"short_one \(lmos\): short_one breaks the law '\w+' {MATRIX}", said), said
    finally:
        signa.lmos.unregister("short_one")
