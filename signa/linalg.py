"""Per-matrix reductions with one bit pattern: not of the stack, not of the threads, not of the memory layout.

The last two axes are the matrix (m, n), leading axes are batch. Nothing here synchronises with the host.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
from torch import Tensor

__all__ = [
    "by_singular_values",
    "column_sum",
    "ieee_products",
    "matrix_sum",
    "power_of_two_scale",
    "product_dtype",
    "row_sum",
    "strips",
]

# Terms added in one go. Below 32,768 terms torch never splits one sum over threads, whatever its output looks like;
# 32 is also one CUDA warp. Against one plain sum this costs 1.2-1.7x of a memory-bound call (docs/numerics.md).
_CHUNK = 32
_CACHED = 2**20  # entries whose magnitudes stay in the cache: of 256 of 16x16 a tenth of the time of two looks
_STRIP = 192  # columns that are transposed in one go: 4 times as fast at side 768 as all of 3,072, which miss the cache


def row_sum(x: Tensor) -> Tensor:
    """Sum over the last axis, `(..., n) -> (..., 1)`, as a tree of sums of 32 neighbours.

    `x.sum(-1)` splits a single long row over the threads, so its bits depend on their number and on the stack size.
    bfloat16 and float16 accumulate in float32; the result has x's dtype.

    Law: row_sum(stack)[i] == row_sum(stack[i]) bit for bit, for any number of threads, strides and storage offset.

    >>> row_sum(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    tensor([[ 6.],
            [15.]])
    """
    total, accumulator = x.contiguous(), torch.promote_types(x.dtype, torch.float32)
    while total.shape[-1] != 1:
        whole = total.shape[-1] // _CHUNK
        if not whole:
            total = total.sum(-1, keepdim=True, dtype=accumulator)
            continue
        chunks = total[..., : whole * _CHUNK].unflatten(-1, (whole, _CHUNK)).sum(-1, dtype=accumulator)
        rest = total[..., whole * _CHUNK :].sum(-1, keepdim=True, dtype=accumulator)
        total = torch.cat((chunks, rest), -1)
    return total.to(x.dtype, copy=True)


def column_sum(x: Tensor) -> Tensor:
    """Sum over the second-last axis, `(..., m, n) -> (..., 1, n)`; the law of `row_sum`.

    >>> column_sum(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[4., 6.]])
    """
    return row_sum(x.mT).mT


def matrix_sum(x: Tensor) -> Tensor:
    """Sum over the last two axes, `(..., m, n) -> (..., 1, 1)`; the law of `row_sum`.

    The axes stay, so that the sum broadcasts against x: `matrix_sum(x.abs()) / (m * n)` is the scale of a scaled sign.

    >>> matrix_sum(torch.ones(5, 2, 3)).shape
    torch.Size([5, 1, 1])
    """
    return row_sum(x.flatten(-2)).unsqueeze(-1)


def strips(*alike: Tensor) -> Iterator[Sequence[Tensor]]:
    """The same columns of tensors of one shape, all at once, or a few at a time where the layouts of some differ.

    To transpose is to read along one axis and to write along the other: in strips the lines stay in the cache.

    >>> [part.shape[-1] for part, _ in strips(torch.ones(3, 200), torch.ones(200, 3).mT)]
    [192, 8]
    >>> [part.shape[-1] for part, _ in strips(torch.ones(3, 200), torch.ones(3, 200))]
    [200]
    """
    if len({x.stride(-2) < x.stride(-1) for x in alike}) == 1:
        return iter([alike])
    return zip(*(x.split(_STRIP, -1) for x in alike), strict=True)


def power_of_two_scale(
    x: Tensor, axes: tuple[int, ...] = (-2, -1), *, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Each matrix over a power of two, `x = scaled * 2**exponent`, largest magnitude of `scaled` in [1, 2).

    Squares and sums of `scaled` neither overflow nor underflow, for entries of 1e+-30 and for subnormal ones. The
    division is exact (an entry 2^126 times smaller than the largest may round), so whatever is computed from `scaled`
    is the same, bit for bit, for x and for 2^k x. A zero matrix stays zero with exponent 0; a NaN spreads as usual,
    an infinity turns its matrix to NaN.

    Shapes: (..., m, n) -> (..., m, n) and an integer (..., 1, 1); with one of the ``axes``, each row or column alone.
    ``out`` takes what is scaled.

    >>> scaled, exponent = power_of_two_scale(torch.tensor([[3e-30, -6e-30]]))
    >>> scaled, exponent
    (tensor([[ 0.9507, -1.9015]]), tensor([[-98]], dtype=torch.int32))
    """
    largest = _magnitude(x, axes)
    mantissa, exponent = torch.frexp(largest)
    some = largest > 0
    # largest / (2 mantissa) is the power of two itself, exactly, also where ldexp(1, exponent) would overflow.
    power = torch.where(some, largest / (2 * mantissa), 1.0)
    if out is None:
        out = x / power
    else:
        for part, target in strips(x, out) if axes == (-2, -1) else [(x, out)]:
            torch.div(part, power, out=target)
    return out, torch.where(some, exponent - 1, 0)


def _magnitude(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest |x| along the axes, which stay."""
    if x.numel() <= _CACHED:
        return x.abs().amax(axes, keepdim=True)
    highest, lowest = x, x
    for axis in sorted(axes, reverse=True):  # one by one takes half as long as both at once
        highest, lowest = highest.amax(axis, keepdim=True), lowest.amin(axis, keepdim=True)
    return torch.maximum(highest, -lowest)


def by_singular_values(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """U change(S) V^T of each matrix U S V^T, `(..., m, n)` in float64: its singular values S (..., min(m, n)) changed.

    Law: stacked as alone. LAPACK's and MKL's last bits depend on where in memory a matrix begins (seen with AVX2), so
    on a CPU each is given a place of its own. They may depend on the threads, too.

    >>> by_singular_values(torch.tensor([[3.0, 0.0], [0.0, -2.0]]), lambda S: S.clamp(max=1))
    tensor([[ 1.,  0.],
            [ 0., -1.]], dtype=torch.float64)
    """

    def changed(wide: Tensor) -> Tensor:
        U, S, Vh = torch.linalg.svd(wide, full_matrices=False)
        return torch.bmm(U * change(S).unsqueeze(-2), Vh)

    wide = x.detach().reshape(-1, *x.shape[-2:]).to(torch.float64)
    parts = map(Tensor.clone, wide.split(1)) if x.device.type == "cpu" else [wide]
    return torch.cat([changed(part) for part in parts]).view(x.shape)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What holds the entries of matrices whose products are to be as those of a dtype: itself, or float32.

    A CPU that does not multiply two bytes an entry is made to by a loop, ten to forty times as slowly as it multiplies
    float32. Terms are added in float32 either way, so factors that lie in the dtype, multiplied in float32, give its
    products once the caller has rounded them.

    >>> product_dtype(torch.float64, torch.device("cpu")), product_dtype(torch.bfloat16, torch.device("cuda"))
    (torch.float64, torch.bfloat16)
    """
    if dtype.itemsize > 2 or device.type != "cpu" or (dtype == torch.bfloat16 and _multiplies_bfloat16()):
        return dtype
    return torch.float32


@cache
def _multiplies_bfloat16() -> bool:
    """Whether oneDNN has products of bfloat16 for this CPU: from AVX-512 on, and with ARM's bf16."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Precision:
    """torch's float32 matrix product precision: a setting of the process, which blocks of several threads share."""

    def __init__(self) -> None:
        self._lock, self._depth, self._before = Lock(), 0, [""]
        backends = (torch.backends.cuda, torch.backends.mkldnn)
        self._settings = [b.matmul for b in backends if hasattr(getattr(b, "matmul", None), "fp32_precision")]

    def enter(self) -> None:
        """Full precision; the first one in remembers what it was."""
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            if self._settings:  # torch 2.9 on; its getter for all backends fails where only one of them was set
                self._before = [setting.fp32_precision for setting in self._settings]
                self._write(["ieee"] * len(self._settings))
            else:
                self._before = [torch.get_float32_matmul_precision()]
                torch.set_float32_matmul_precision("highest")

    def leave(self) -> None:
        """The last one out restores it."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._write(self._before)

    def _write(self, values: list[str]) -> None:
        if not self._settings:
            torch.set_float32_matmul_precision(values[0])
        for setting, value in zip(self._settings, values):
            setting.fp32_precision = value


_precision = _Precision()


@contextmanager
def ieee_products(device: torch.device) -> Iterator[None]:
    """Matrix products in the dtype of their factors, whatever autocast and torch's float32 precision are set to.

    >>> x = torch.full((64, 64), 1 / 3)
    >>> torch.set_float32_matmul_precision("medium")
    >>> with ieee_products(x.device): full = x @ x
    >>> torch.set_float32_matmul_precision("highest"); torch.equal(full, x @ x)
    True
    """
    _precision.enter()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _precision.leave()
