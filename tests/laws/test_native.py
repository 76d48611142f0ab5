"""The C loops: how they come to be there, and the two of them that a GPU has not."""

from __future__ import annotations

import math
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import signa
from signa import kernels, packing
from signa.errors import Advice, Fault
from signa.finite import first_nonfinite
from signa.kernels import compiled, name_for, one_pass_for, use
from signa.kernels.proof import prove

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture
def new(monkeypatch: Any, tmp_path: Path) -> Iterator[Path]:
    """A cache with nothing in it, for a process that has loaded nothing yet: the folder that libraries go to."""
    caches = (compiled.library, kernels._load, kernels._works_on)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    for each in caches:
        each.cache_clear()
    yield tmp_path / "signa" / "kernels"
    for each in caches:
        each.cache_clear()


def again() -> Any:
    """What a new process would find."""
    for each in (compiled.library, kernels._load, kernels._works_on):
        each.cache_clear()
    return one_pass_for(CPU)


def test_they_are_compiled_once_and_kept(new: Path, monkeypatch: Any) -> None:
    assert one_pass_for(CPU).__name__ == "signa.kernels.native"
    (kept,) = new.iterdir()
    assert stat.S_IMODE(new.stat().st_mode) == 0o700
    monkeypatch.setattr(compiled, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert again() is not None and list(new.iterdir()) == [kept]


def test_who_packs_has_a_name(new: Path, monkeypatch: Any) -> None:
    assert name_for(CPU) == "native"
    with use("eager"):
        assert name_for(CPU) == "eager"
    assert name_for(torch.device("mps")) == "eager"


def test_another_processor_or_another_text_gets_its_own(new: Path, monkeypatch: Any, tmp_path: Path) -> None:
    assert again() is not None
    monkeypatch.setattr(compiled, "_processor", lambda: "another one")
    assert again() is not None and len(list(new.iterdir())) == 2
    text = tmp_path / "native.c"
    text.write_text(compiled._SOURCE.read_text() + "/* changed */\n")
    monkeypatch.setattr(compiled, "_SOURCE", text)
    assert again() is not None and len(list(new.iterdir())) == 3


def test_what_is_damaged_is_not_loaded(new: Path) -> None:
    assert again() is not None
    (kept,) = new.iterdir()
    kept.unlink()  # whoever has it loaded keeps it
    kept.write_bytes(b"half of it")
    assert again() is not None


def test_a_folder_that_others_may_write_to_is_not_used(new: Path) -> None:
    new.mkdir(parents=True)
    new.chmod(0o777)
    assert again() is not None and not list(new.iterdir())


def test_a_folder_that_cannot_be_is_done_without(new: Path) -> None:
    new.parent.mkdir(parents=True)
    new.write_text("no folder")
    assert again() is not None and new.read_text() == "no folder"


def test_without_a_compiler_numpy_does_the_work(new: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one_pass_for(CPU) is None
    with use("native"), pytest.raises(Fault, match=r"chose 'native'.*no C compiler \('no-such-compiler'\).*'auto'"):
        one_pass_for(CPU)


def test_a_compiler_that_fails_is_told_of_once(new: Path, monkeypatch: Any, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'unknown flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.warns(Advice, match="on cpu: the native kernels fail there .*unknown flag.*SIGNA_KERNELS=eager"):
        assert one_pass_for(CPU) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one_pass_for(CPU) is None
    assert not list(new.iterdir()), "something is left behind"


@pytest.mark.parametrize("openmp", [(), ("no-such-library.so",)], ids=["none", "one that does not link"])
def test_without_openmp_one_thread_does_it(new: Path, monkeypatch: Any, openmp: tuple[str, ...]) -> None:
    x = torch.randn(3, 100_000)
    with use("eager"):
        wanted = packing.words(x)
    monkeypatch.setattr(compiled, "_openmp", lambda: openmp)
    assert again() is not None and torch.equal(packing.words(x), wanted)


def test_processes_that_start_together_all_find_it(new: Path) -> None:
    program = "import torch; from signa.kernels import one_pass_for; assert one_pass_for(torch.device('cpu'))"
    env = {**os.environ, "PYTHONPATH": str(Path(kernels.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    at_once = [subprocess.Popen([sys.executable, "-c", program], env=env) for _ in range(3)]
    assert [process.wait(timeout=120) for process in at_once] == [0, 0, 0]
    assert len(list(new.iterdir())) == 1


@pytest.mark.parametrize("loop", compiled.Library._fields)
def test_the_proof_notices_a_wrong_bit(loop: str, monkeypatch: Any) -> None:
    from signa.kernels import native

    def broken(*_: Any) -> int:
        return 1

    prove(native, CPU)
    right = compiled.library()
    of_each = isinstance(getattr(right, loop), dict)
    wrong = right._replace(**{loop: dict.fromkeys((1, 2, 4, 8), broken) if of_each else broken})
    monkeypatch.setattr(native, "library", lambda: wrong)
    with pytest.raises(ArithmeticError):
        prove(native, CPU)


# What they do -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2, 3])
def threads(request: Any, monkeypatch: Any) -> int:
    """So many threads, also for a few bytes."""
    monkeypatch.setattr("signa.kernels.native._threads", lambda bytes_: request.param)
    return int(request.param)


SIZES = (0, 1, 63, 64, 127, 128, 129, (1 << 16) - 1, (1 << 16) + 1, 3 * (1 << 16) + 5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_infinities_and_nan_are_found_wherever_they_are(threads: int, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    blocks = [torch.full((size,), largest if size % 2 else -largest, dtype=dtype) for size in SIZES]
    with use("native"):
        assert first_nonfinite(blocks) is None, "their sum overflows, they do not"
        for index, block in enumerate(blocks):
            for place in {0, len(block) // 2, len(block) - 1} if len(block) else ():
                for odd in (math.inf, -math.inf, math.nan):
                    was, block[place] = block[place].clone(), odd
                    assert first_nonfinite(blocks) == index
                    block[place] = was


def test_gradients_of_many_kinds_are_all_looked_at() -> None:
    plain, half, turned = torch.ones(3, 4), torch.ones(5, dtype=torch.bfloat16), torch.ones(4, 3).t()
    kinds: list[Tensor | None] = [plain, None, half, turned, torch.ones(1, 3)[:, ::2], torch.ones(())]
    with use("native"):
        assert first_nonfinite(kinds) is None
        for index, each in enumerate(kinds):
            if each is not None:
                each[...] = math.nan
                assert first_nonfinite(kinds) == index
                each[...] = 1.0


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=200))
def test_any_bits_are_what_torch_says_they_are(bits: list[int]) -> None:
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    with use("native"):
        assert (first_nonfinite([x]) is None) == bool(x.isfinite().all())


@pytest.mark.parametrize("size", [0, 1, 7, 4096, 1 << 17])
def test_blocks_are_put_one_behind_the_other(threads: int, size: int) -> None:
    blocks = [torch.randn(size) for _ in range(5)]
    out = torch.full((7, size), 7.0)
    with use("native"):
        one_pass_for(CPU).gather(blocks, out[1:6])
    assert torch.equal(out[1:6], torch.stack(blocks)) and bool((out[[0, 6]] == 7).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bits_do_not_depend_on_the_threads(threads: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, 70_001, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[1, 69_999] = 0.0
    with use("eager"):
        wanted = packing.words(x), packing.present(x), packing.signs(packing.words(x), 70_001, dtype)
    with use("native"):
        found = packing.words(x), packing.present(x), packing.signs(wanted[0], 70_001, dtype)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("length", [1, 7, 8, 63, 64, 65, 200, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_of_signs_has_the_bits_of_torch_s_sum(threads: int, dtype: torch.dtype, length: int) -> None:
    around = torch.randn(5, length, dtype=dtype) * torch.logspace(-6, 6, 5, dtype=dtype)[:, None]
    packed = packing.words(torch.randn(3, length))
    for step in (1e-3, -0.1, 3e38, 0.0, 1e-45):
        found, wanted = around.clone(), around.clone()
        with use("native"):
            one_pass_for(CPU).add(packed, [found[1:4]], step)
        wanted[1:4].add_(packing.signs(packed, length, dtype), alpha=step)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("per", [1, 2])
def test_a_step_goes_to_models_wherever_they_lie(threads: int, per: int) -> None:
    models, packed = [torch.randn(per, 100) for _ in range(7)], packing.words(torch.randn(7 * per, 100))
    wanted = [model.clone() for model in models]
    with use("native"):
        one_pass_for(CPU).add(packed, models, 0.1)
    for model, words in zip(wanted, packed.split(per), strict=True):
        model.add_(packing.signs(words, 100, torch.float32), alpha=0.1)
    assert all(map(torch.equal, models, wanted))


@pytest.mark.parametrize("length", [0, 1, 63, 1000, 70_001])
def test_a_sum_is_rounded_to_bfloat16_as_torch_rounds_it(threads: int, length: int) -> None:
    """Of any bits, and of a few that lie half way between two."""
    any_bits = torch.randint(-(1 << 31), 1 << 31, (2, length), generator=torch.Generator().manual_seed(0))
    x, y = any_bits.to(torch.int32).view(torch.float32)
    halves = (any_bits[0].to(torch.int32) & -(1 << 15)).view(torch.float32)
    with use("native"):
        loops = one_pass_for(CPU)
    for c, b in ((-4.775, 2.0315), (1.0, 0.0), (0.0, 1.0)):
        wanted = (x * c).add_(y * b).bfloat16().float()
        assert torch.equal(loops.bfloat16(x.clone(), c, y, b).nan_to_num(7.0), wanted.nan_to_num(7.0))
    for each in (x, halves):
        found, wanted = loops.bfloat16(each.clone()), each.bfloat16().float()
        assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0))
        assert torch.equal(found.isnan(), wanted.isnan()) and torch.equal(found.isinf(), wanted.isinf())


@pytest.mark.parametrize("shape", [(3, 130, 131), (16, 16)])
@pytest.mark.parametrize("choice", ["eager", "native"])
def test_autograd_sees_that_a_step_has_written(choice: Any, shape: tuple[int, ...]) -> None:
    with use(choice):
        p = torch.nn.Parameter(torch.randn(shape))
        opt, y = signa.build("signsgd", {"p": p}.items(), lr=0.1), (p * p).sum()
        y.backward(retain_graph=True)
        opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("decay", ["decoupled", "cautious"])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["a number", "a tensor"])
def test_a_large_parameter_takes_the_same_step(decay: str, lr: Any) -> None:
    method = {"replica": [{"step": {"decay": decay}}], "up": "sign", "aggregate": "majority_vote"}

    def trained() -> Tensor:
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3, 130, 131))
        groups = {"groups": [{**method, "lr": lr, "weight_decay": 0.1}]}
        opt = signa.build(groups, {"p": p}.items(), transport=signa.Loopback(3))
        for _ in range(2):
            for worker in range(3):
                with opt.worker(worker):
                    p.grad = torch.randn_like(p)
            opt.step()
        return p.detach()

    with use("eager"):
        wanted = trained()
    with use("native"):
        assert torch.equal(trained(), wanted)
