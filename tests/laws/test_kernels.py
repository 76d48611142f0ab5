"""Every way to pack and unpack writes the same bits as numpy's packbits and Python's integers.

Without a GPU the Triton kernels need two runs: ``TRITON_INTERPRET=1 pytest tests/laws/test_kernels.py`` for their bits,
and one without that variable, which compiles them for a GPU that is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import signa
from signa import kernels, packing
from signa.coins import Coins, mix, name_key
from signa.errors import Advice, Fault
from signa.kernels import native_for, one_pass_for, use
from signa.kernels.proof import prove
from signa.packing import INTEGERS, fair, present, signs, unpacked, words, words_for
from signa.stage import Context
from tests.laws.test_packing import FLOATS, by_numpy, floats
from tests.ranks.cases import SHAPES as MODEL
from tests.ranks.cases import awkward, fingerprint, parameters, spec

try:
    import triton
except ImportError:
    triton = None

INTERPRETED, CUDA = os.environ.get("TRITON_INTERPRET") == "1", torch.cuda.is_available()
TRITON = [int(number) for number in triton.__version__.split(".")[:2]] if triton else [0]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not CUDA, reason="torch finds no CUDA device")
interprets = pytest.mark.skipif(
    not (INTERPRETED and TRITON >= [3, 5]),  # 3.2's sums int32 to int64, and writes past the end
    reason="needs triton 3.5 or newer, and TRITON_INTERPRET=1 from the start of the process",
)
compiles = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
has_triton = pytest.mark.skipif(not triton or INTERPRETED, reason="needs triton that is not interpreted")


def bits_of(w: Tensor, length: int) -> np.ndarray:
    """The bits (R, L) of words, as bools."""
    return np.unpackbits(w.contiguous().numpy().view(np.uint8), axis=-1, bitorder="little")[:, :length] == 1


class Slow:
    """What the kernels do, by numpy: what the others are held to, and in their place it shows that they are asked."""

    @staticmethod
    def pack(x: Tensor, words: Tensor, *, present: bool) -> None:
        x = x.contiguous()
        minus = x.view(INTEGERS[x.element_size()]).numpy() < 0
        words.copy_(by_numpy(x.double().numpy() != 0 if present else ~minus))

    @staticmethod
    def unpack(words: Tensor, out: Tensor) -> None:
        out.copy_(torch.from_numpy(np.where(bits_of(words.view(1, -1), len(out)), 1.0, -1.0)[0]))

    @staticmethod
    def fair(x: Tensor, coins: Tensor) -> Tensor:
        y = x.double().numpy()
        sign = np.where(y > 0, 1.0, np.where(y < 0, -1.0, np.where(bits_of(coins, x.shape[1]), 1.0, -1.0)))
        sign[~((y > 0) | (y < 0)).any(-1)] = 0.0
        return torch.from_numpy(sign).to(x.dtype)


WAYS = [
    pytest.param(("eager", CPU), id="eager"),
    pytest.param(("slow", CPU), id="slow"),
    pytest.param(("native", CPU), id="native", marks=compiles),
    pytest.param(("triton", CPU), id="interpreter", marks=interprets),
    pytest.param(("eager", GPU), id="eager-cuda", marks=needs_cuda),
    pytest.param(("triton", GPU), id="triton-cuda", marks=[needs_cuda, has_triton]),
]


@pytest.fixture(params=WAYS)
def device(request: Any, monkeypatch: Any) -> Iterator[torch.device]:
    """A device, and inside the way that is tested on it."""
    way, on = request.param
    if way == "slow":
        monkeypatch.setattr(packing, "one_pass_for", lambda device: Slow)
        yield on
        return
    with use(way):
        yield on


def awkward_floats(rows: int, length: int, dtype: torch.dtype) -> Tensor:
    """Zeros, infinities, subnormals, NaN of both signs, and rows of zeros and NaN alone."""
    x = floats(rows, length, dtype)
    integers = x.view(INTEGERS[x.element_size()])
    nan = torch.tensor(torch.nan, dtype=dtype).view(integers.dtype)
    integers.view(-1)[4::11] = nan
    integers.view(-1)[5::13] = nan | torch.iinfo(integers.dtype).min
    for row, value in zip(x[1::3], (0.0, -0.0, torch.nan, 0.0)):
        row[:] = value
        row[::2] = -0.0
    return x


def layouts(rows: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """The same shape in five memory layouts."""
    wide = awkward_floats(rows, 2 * length + 3, dtype)
    tall = awkward_floats(length, rows, dtype)
    one = awkward_floats(1, length, dtype)
    return [awkward_floats(rows, length, dtype), wide[:, 3 : 3 + length], wide[:, : 2 * length : 2], tall.T,
            one.expand(rows, -1)]  # fmt: skip


def same(found: Tensor, wanted: Tensor) -> bool:
    """Bit for bit, and of one shape and dtype."""
    found, integers = found.cpu(), INTEGERS[wanted.element_size()]
    alike = (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    return alike and torch.equal(found.view(integers), wanted.view(integers))


#: None, parts of a byte and of a word, many short rows, and rows that several programs of a grid share.
SIZES = [(0, 5), (3, 0), (1, 1), (2, 31), (4, 32), (1, 63), (4, 64), (2, 65), (5, 200), (311, 3), (2, 4097)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_way_has_the_bits_of_numpy(device: torch.device, size: tuple[int, int], dtype: torch.dtype) -> None:
    rows, length = size
    coins = by_numpy(np.random.default_rng(length).random(size) < 0.5)
    for x in layouts(rows, length, dtype):
        there, before = x.to(device), x.clone()
        wanted = torch.empty(rows, words_for(length), dtype=torch.int64)
        Slow.pack(x, wanted, present=False)
        assert same(words(there), wanted)
        field = torch.full((rows, wanted.shape[1] + 2), -1, device=device)
        target = field[:, 1:-1]
        assert words(there, out=target) is target and same(target, wanted)
        assert bool((field[:, [0, -1]] == -1).all()), "written outside"
        spread = torch.empty(rows * wanted.shape[1] * 64, dtype=dtype)
        Slow.unpack(wanted, spread)
        signed = spread.view(rows, 64 * wanted.shape[1])[:, :length]
        assert same(signs(wanted.to(device), length, dtype), signed)
        field = torch.full((len(spread) + 128,), 7, dtype=dtype, device=device)
        target = field[64:-64].view(rows, 64 * wanted.shape[1])
        assert same(signs(wanted.to(device), length, dtype, out=target), signed)
        assert bool((field[:64] == 7).all() and (field[-64:] == 7).all()), "written outside"
        whole = torch.full_like(spread, 7, device=device)
        for a, d in unpacked(wanted.to(device), dtype):
            whole[a : a + len(d)] = d
        assert same(whole, spread)
        Slow.pack(x, wanted, present=True)
        assert same(present(there), wanted)
        assert same(fair(there, lambda: coins.to(device)), Slow.fair(x, coins))
        assert same(there, before), "the input is borrowed"


def test_words_are_read_wherever_they_lie(device: torch.device) -> None:
    packed = torch.randint(-(2**63), 2**63 - 1, (6, 5), generator=torch.Generator().manual_seed(0)).to(device)
    for part in (packed[:, :3], packed.T, packed[1::2], packed[2:, 2:]):
        wanted = torch.where(torch.from_numpy(bits_of(part.cpu(), 64 * part.shape[1])), 1.0, -1.0)
        assert same(signs(part, wanted.shape[1], torch.float32), wanted)


@pytest.mark.parametrize("shape", [(2, 5, 13), (2, 64, 2), (3, 1, 1)], ids=str)
def test_a_fair_sign_tosses_what_the_definition_says(device: torch.device, shape: tuple[int, int, int]) -> None:
    """Also from words far behind the first, and of a matrix that lies transposed."""
    rows, m, n = shape
    names, offsets, actors = [name_key(f"p{i}") for i in range(rows)], [0, 2**40 + 7, 2**62][:rows], [3, -1, 0][:rows]
    x = awkward_floats(rows * n, m, torch.float32).view(rows, n, m).mT
    found = Context(coin=Coins(7, 11, names, offsets, actors)).fair_sign(x.to(device)).cpu()
    start, golden = mix(mix(7) + 11), 0x9E3779B97F4A7C15
    for row, (name, offset, actor) in enumerate(zip(names, offsets, actors)):
        flat = x[row].flatten().tolist()
        for e, value in enumerate(flat):
            word = mix(mix(mix(start ^ name) + actor) + (offset + (e >> 6) + 1) * golden)
            coin = 2 * (word >> (e & 63) & 1) - 1 if any(v > 0 or v < 0 for v in flat) else 0
            assert found[row].flatten()[e] == ((value > 0) - (value < 0) or coin)


def test_gradients_are_let_go(device: torch.device) -> None:
    x = torch.tensor([[1.0, 0.0, -1.0]], device=device, requires_grad=True)
    assert words(x).item() == 0b011 and present(x).item() == 0b101
    with torch.no_grad():
        assert fair(x, lambda: torch.tensor([[0b000]], device=device)).tolist() == [[1, -1, -1]]


# Who is asked -----------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: Any) -> Iterator[SimpleNamespace]:
    """Stands for every module of kernels, on a GPU that need not be there; ``error`` is raised when it is tried."""
    stand_in = SimpleNamespace(error=None, tried=0, KIND=None)

    def prove(module: Any, device: torch.device) -> None:
        module.tried += 1
        if module.error:
            raise module.error

    def load(kind: str) -> SimpleNamespace:
        stand_in.KIND = kind
        if isinstance(stand_in.error, ImportError):
            raise stand_in.error
        return stand_in

    monkeypatch.setattr(kernels, "prove", prove)
    monkeypatch.setattr(kernels, "_load", load)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernels._works_on.cache_clear()
    yield stand_in
    kernels._works_on.cache_clear()


BOTH = pytest.mark.parametrize(("device", "kind"), [(GPU, "triton"), (CPU, "native")], ids=["gpu", "cpu"])


@BOTH
def test_a_device_gets_its_kernels_unless_they_are_left_out(
    loads: SimpleNamespace, monkeypatch: Any, device: torch.device, kind: Any
) -> None:
    assert one_pass_for(device) is loads and one_pass_for(device) is loads and loads.tried == 1 and kind == loads.KIND
    with use("eager"):
        assert one_pass_for(device) is None
        with use(kind):
            assert one_pass_for(device) is loads
        assert one_pass_for(device) is None
    monkeypatch.setenv(kernels.VARIABLE, "eager")
    assert one_pass_for(device) is None
    with use("auto"):
        assert one_pass_for(device) is loads
    assert one_pass_for(torch.device("mps")) is None


def test_a_device_has_one_kind(loads: SimpleNamespace, monkeypatch: Any) -> None:
    with use("native"):
        assert one_pass_for(GPU) is None and native_for(GPU) is None and native_for(CPU) is loads
    with use("auto"):
        assert native_for(GPU) is None and native_for(CPU) is loads
    with use("triton"):
        assert one_pass_for(CPU) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for choice in ("auto", "eager"):
        with use(choice):
            assert one_pass_for(CPU) is (loads if choice == "auto" else None) and loads.KIND != "triton"
    with use("triton"):
        assert one_pass_for(CPU) is loads and loads.KIND == "triton" and native_for(CPU) is None


@BOTH
def test_kernels_that_fail_are_left_out_with_one_word(loads: SimpleNamespace, device: torch.device, kind: Any) -> None:
    loads.error = ArithmeticError("wrong bits")
    told = rf"on {device}: the {kind} kernels fail there .*wrong bits.*SIGNA_KERNELS=eager"
    with pytest.warns(Advice, match=told):
        assert one_pass_for(device) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one_pass_for(device) is None and loads.tried == 1
    with use(kind):
        assert one_pass_for(device) is loads  # whoever insists gets the kernels' own error


@BOTH
def test_where_there_is_nothing_to_compile_with_nothing_is_said_unless_it_was_chosen(
    loads: SimpleNamespace, device: torch.device, kind: Any
) -> None:
    loads.error = ImportError("No module named 'triton'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one_pass_for(device) is None
    with use(kind), pytest.raises(Fault, match=rf"chose '{kind}'.*No module named 'triton'.*or choose 'auto'"):
        one_pass_for(device)


def test_a_choice_that_is_none(monkeypatch: Any) -> None:
    with pytest.raises(Fault, match=r"kernels\.use has no 'fast': write one of auto, eager, triton, native"):
        with use("fast"):  # type: ignore[arg-type]
            pass
    monkeypatch.setenv(kernels.VARIABLE, "1")
    with pytest.raises(Fault, match="SIGNA_KERNELS has no '1': write one of auto, eager, triton, native"):
        one_pass_for(GPU)
    with pytest.raises(Fault, match="SIGNA_KERNELS"):
        words(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("on", "kind"),
    [
        pytest.param(CPU, "native", marks=compiles, id="native"),
        pytest.param(CPU, "triton", marks=interprets, id="interpreter"),
        pytest.param(GPU, "triton", marks=[needs_cuda, has_triton], id="cuda"),
    ],
)
@pytest.mark.parametrize("name", ["signmuon", "ef21muonsign", "muonusign"])
def test_an_optimizer_does_not_notice(name: str, on: torch.device, kind: Any) -> None:
    def trained() -> list[str]:
        ps = {key: torch.nn.Parameter(p.detach().to(on)) for key, p in parameters(shapes=MODEL).items()}
        opt = signa.build(spec(name), ps.items(), transport=signa.Loopback(3))
        found = []
        for t in range(2):
            for j in range(3):
                with opt.worker(j):
                    for key, p in ps.items():
                        g = awkward(key, p.detach().cpu(), t, j)
                        p.grad = None if g is None else g.to(on)
            opt.step()
            opt.zero_grad()
            found.append(fingerprint({key: p.detach().cpu() for key, p in ps.items()}))
        return found

    with use("eager"):
        wanted = trained()
    with use(kind):
        assert trained() == wanted


# With triton ------------------------------------------------------------------------------------------------------

KERNELS = [
    pytest.param(CPU, marks=interprets, id="interpreter"),
    pytest.param(GPU, marks=[needs_cuda, has_triton], id="cuda"),
]


@pytest.mark.parametrize("on", KERNELS)
def test_the_proof_notices_a_wrong_bit(on: torch.device, monkeypatch: Any) -> None:
    from signa.kernels import one_pass

    prove(one_pass, on)
    for name, wrong in (("_words", lambda x, out, *_: None), ("_floats", lambda w, out, *_: out.zero_())):
        with monkeypatch.context() as patch:
            patch.setattr(one_pass, name, wrong)
            with pytest.raises(ArithmeticError):
                prove(one_pass, on)


@has_triton
@pytest.mark.skipif(CUDA, reason="there the kernels run")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_they_compile_for_a_gpu_and_do_no_arithmetic_on_floats(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: Any
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from signa.kernels import one_pass

    target = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    run, compiled = JITFunction.run, []

    def compile_only(self: Any, *args: Any, **named: Any) -> None:
        compiled.append((self.__name__, run(self, *args, **(named | {"warmup": True}))))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    driver.set_active(target)  # there is no other one here
    for x in (torch.zeros(4, 128, dtype=dtype), torch.zeros(3, 130, dtype=dtype)[:, ::2]):
        w = torch.zeros(len(x), words_for(x.shape[1]), dtype=torch.int64)
        one_pass.pack(x, w, present=False)
        one_pass.unpack(w.view(-1), torch.empty(64 * w.numel(), dtype=dtype))
        one_pass.fair(x, w)
    assert [name for name, _ in compiled] == ["_to_words", "_to_floats", "_to_words", "_to_floats"] * 2
    for _, kernel in compiled:
        assert kernel.asm["cubin"] and not re.search(r"\.f(16|32|64)|fma|ftz", kernel.asm["ptx"])
