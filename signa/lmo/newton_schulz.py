"""Newton-Schulz: an odd polynomial pushes the singular values of a matrix to 1 by matrix products alone.

Law: a matrix in a stack, alone, transposed (unless square), under 1 to 8 threads and after multiplication by a
power of two comes out the same, bit for bit. What that asks of the products was measured: docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.linalg import vector_norm

from ..kernels import native_for
from ..linalg import (
    by_singular_values,
    column_sum,
    ieee_products,
    matrix_sum,
    power_of_two_scale,
    product_dtype,
    row_sum,
    strips,
)
from ..scratch import own
from .schedules import Normalisation, Row

__all__ = ["exact_polar", "leading_pair", "orthogonalise"]

_Dtype: TypeAlias = torch.dtype | None

_SIDE = 32  # both sides are padded to a multiple of it: ragged ones take another path in a stack than alone
_TINY = 16  # if both are no longer than this, they are padded to it: there is only one path
_WIDTH = 320  # inner products up to this, or up to the side, are the same under 1 and 16 threads; longer ones are not
_GROUP = 1 << 19  # entries done together by each thread of a CPU: they stay in its cache; no bit depends on it


def orthogonalise(
    x: Tensor, coefficients: Sequence[Row], *, normalisation: Normalisation, dtype: torch.dtype, out: _Dtype = None
) -> Tensor:
    """Newton-Schulz: X <- a X + (b A + c A^2) X with A = X X^T, one step a row of `coefficients`.

    Approaches U V^T of x = U S V^T on the smaller side of x. A zero matrix gives zero; x is never written.

    Shapes: (..., m, n) -> (..., m, n); leading axes are batch.
    Law: the module's, measured on a CPU; a square matrix and its transpose agree up to rounding only.

    Args:
        coefficients: rows (a, b, c), as in `SCHEDULES` or from `polar_express` or `rows` (`signa.lmo.schedules`).
        normalisation: x / ||x||_F, or x / (sum of sigma^4)^(1/4), which is tighter and costs no product: it is the
            Frobenius norm of the first A. `aol` divides each row i of the smaller side by (sum_j |A_ij|)^(1/2): every
            sigma is then at most 1 and most are near it, so that four steps do, but towards the polar factor of the
            *rescaled* x, which is not that of x, nor turned as x is.
        dtype: what the products run in. `schatten4` and `aol` normalise in float32, or float64 if x is, and round once;
            `frobenius` rounds first, as torch.optim.Muon does, whose bits it has up to n = 320.
        out: the result's dtype, x's unless given. What is as wide as `dtype` has all that was computed.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon; the normalisations from A: arXiv 2512.04632
    (Turbo-Muon); that `aol` bounds sigma by 1: arXiv 2208.03160, Theorem 1 (AOL).

    >>> from signa.lmo.schedules import SCHEDULES
    >>> table = SCHEDULES["polar6"].coefficients
    >>> orthogonalise(torch.tensor([[3.0, 0.0], [0.0, -2.0]]), table, normalisation="schatten4", dtype=torch.float32)
    tensor([[ 1.0003,  0.0000],
            [ 0.0000, -0.9988]])
    """
    matrices = x.detach().reshape(-1, *x.shape[-2:])
    result = torch.empty_like(matrices, dtype=out, memory_format=torch.contiguous_format)
    whole, place = (matrices.mT, result.mT) if x.shape[-2] > x.shape[-1] else (matrices, result)
    step = partial(_fused, dtype) if dtype.itemsize == 2 else _plain
    with ieee_products(x.device):
        for part, target in zip(_groups(whole), _groups(place)):
            X, A = _normalised(part, normalisation, dtype)
            Y, Q = _blocks("Y", part, X[0].dtype), _like("Q", A)
            for at, (a, b, c) in enumerate(coefficients):
                A = gram(X, dtype, out=A) if at else A
                step(X, A, a, b, c, Q, out=Y)
                X, Y = Y, X
            for strip, columns in _columns(target, X):
                strip.copy_(columns)
    return result.view(x.shape)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, each entry rounded in place to what a dtype holds."""
    if x.dtype.itemsize <= dtype.itemsize:
        return x
    native = _native(dtype, x)
    return native.bfloat16(x) if native else x.copy_(_like("rounded", x, dtype).copy_(x))


def _native(dtype: torch.dtype, *held: Tensor) -> Any:
    """The loops that round to a dtype these tensors, which hold its entries in float32; None where there are none."""
    if (dtype, held[0].dtype) != (torch.bfloat16, torch.float32):
        return None
    native = native_for(held[0].device)
    return native if native and native.reads(held) else None


def _groups(x: Tensor) -> Sequence[Tensor]:
    """The matrices that are done together: all of them, or on a CPU as many for each thread as stay in its cache."""
    if x.device.type != "cpu":
        return [x]
    return x.split(torch.get_num_threads() * max(1, _GROUP // max(1, x[0].numel() if len(x) else 1)))


def _like(name: str, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return own(f"newton_schulz.{name}", x.shape, dtype or x.dtype, x.device)


def _blocks(name: str, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Scratch for x padded to whole sides, in blocks of columns: each lies in one piece, as their products want it."""
    B, m, n = x.shape
    m, n = _padded(m, n)
    width = max(_WIDTH, m)
    widths = [min(width, n - first) for first in range(0, n, width)] or [0]
    return [own(f"newton_schulz.{name}{at}", (B, m, w), dtype, x.device) for at, w in enumerate(widths)]


def _padded(m: int, n: int) -> tuple[int, int]:
    side = _TINY if max(m, n) <= _TINY else _SIDE
    return m + -m % side, n + -n % side


def _columns(x: Tensor, blocks: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """The columns of x that each block is for, in strips if x is transposed, and the part of the block for them."""
    first = 0
    for block in blocks:
        columns = x[..., first : first + block.shape[-1]]
        yield from strips(columns, block[:, : columns.shape[-2], : columns.shape[-1]])
        first += block.shape[-1]


def _put(x: Tensor, blocks: Sequence[Tensor], dtype: torch.dtype) -> None:
    """x into blocks, rounded to a dtype; what is beyond it stays."""
    for columns, part in _columns(x, blocks):
        part.copy_(columns)
    for block in blocks:
        _rounded(block, dtype)


def _normalised(x: Tensor, normalisation: Normalisation, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """X = x / norm, padded with zeros (which every step keeps), and A = X X^T; both in scratch."""
    m, n = x.shape[-2:]
    unit = _like("unit", x, torch.promote_types(x.dtype, torch.float32))
    power_of_two_scale(x, out=unit)
    X = _blocks("X", x, product_dtype(dtype, x.device))
    if _padded(m, n) != (m, n):
        for block in X:
            block.zero_()
    _put(unit, X, dtype)
    if normalisation == "frobenius":
        # Rounded first, over a rounded norm: torch.optim.Muon's own bits up to n = 320.
        norm = _nonzero(_norm(X).to(dtype))
        for block in X:
            _rounded(block.div_(norm), dtype)
        return X, gram(X, dtype)
    A = gram(X, dtype)
    wide = _like("wide", A, unit.dtype).copy_(A)
    if normalisation == "aol":
        row = _nonzero(row_sum(wide.abs()))  # (B, m, 1), padding included
        _put(unit.div_(row[:, :m].sqrt()), X, dtype)
        return X, _rounded(A.copy_(wide.div_(row.sqrt() * row.mT.sqrt())), dtype)
    fourth = _nonzero(_norm([wide]))
    _put(unit.div_(fourth.sqrt()), X, dtype)  # from the unrounded entries: rounded once, not twice
    return X, _rounded(A.copy_(wide.div_(fourth)), dtype)


def _norm(blocks: Sequence[Tensor]) -> Tensor:
    """||X||_F of X (B, m, n) in blocks of columns, (B, 1, 1), in float32 or wider.

    Of rows, then of their norms: in one pass, and torch splits no row below 32,768 entries over its threads.
    """
    wide = torch.promote_types(blocks[0].dtype, torch.float32)
    rows = [vector_norm(block, dim=-1, dtype=wide) for block in blocks]
    return vector_norm(torch.cat(rows, -1), dim=-1)[:, None, None]


def _nonzero(norm: Tensor) -> Tensor:
    return torch.where(norm == 0, torch.ones_like(norm), norm)


def gram(X: Sequence[Tensor], dtype: torch.dtype, *, out: Tensor | None = None) -> Tensor:
    """X X^T, (B, m, m), of X (B, m, n) in blocks of columns, whose products are added in float32 or wider, in order.

    Rounded to ``dtype``, into ``out``, or scratch that is the caller's until the next one asks for it.
    """
    B, m, _ = X[0].shape
    A = own("newton_schulz.A", (B, m, m), X[0].dtype, X[0].device) if out is None else out
    _product(X[0], out=A)
    for block in X[1:]:
        if A.dtype.itemsize == 2:
            A.baddbmm_(block, block.mT)
        else:
            A.add_(_product(block, out=_like("Q", A)))
    return _rounded(A, dtype)


def _product(X: Tensor, *, out: Tensor) -> Tensor:
    # MKL's bits depend on the threads less if nothing is transposed; oneDNN's (2 bytes an entry) do not care.
    return torch.bmm(X, X.mT if X.dtype.itemsize == 2 else _like("mT", X.mT).copy_(X.mT), out=out)


def _fused(
    dtype: torch.dtype,
    X: Sequence[Tensor],
    A: Tensor,
    a: float,
    b: float,
    c: float,
    Q: Tensor,
    *,
    out: Sequence[Tensor],
) -> None:
    """a X + (b A + c A^2) X with each sum rounded once: 1.5 to 5.5 times less error in bfloat16 than summed apart."""
    left, scale = (_sum(dtype, A, b, A, A, c, out=Q), 1.0) if c else (A, b)
    for block, target in zip(X, out, strict=True):
        _sum(dtype, block, a, left, block, scale, out=target)


def _sum(dtype: torch.dtype, x: Tensor, b: float, left: Tensor, right: Tensor, c: float, *, out: Tensor) -> Tensor:
    """b x + c (left right), rounded once to a dtype."""
    if x.dtype == dtype:
        return torch.baddbmm(x, left, right, beta=b, alpha=c, out=out)
    torch.bmm(left, right, out=out)  # a fused sum in float32 has other bits under 2 threads than under 1
    if native := _native(dtype, out, x):
        return native.bfloat16(out, c, x, b)
    return _rounded(out.mul_(c).add_(torch.mul(x, b, out=_like("term", x))), dtype)


def _plain(X: Sequence[Tensor], A: Tensor, a: float, b: float, c: float, Q: Tensor, *, out: Sequence[Tensor]) -> None:
    """(a I + A (b I + c A)) X: a fused sum in float32 or float64 has other bits under 2 threads than under 1."""
    if c:
        Q = torch.bmm(A, _plus(torch.mul(A, c, out=Q), b), out=_like("square", A))
    else:
        Q = torch.mul(A, b, out=Q)
    left = _plus(Q, a)
    for block, target in zip(X, out, strict=True):
        torch.bmm(left, block, out=target)


def _plus(square: Tensor, value: float) -> Tensor:
    square.diagonal(dim1=-2, dim2=-1).add_(value)
    return square


def leading_pair(x: Tensor, squarings: int) -> Tensor:
    """u v^T of the largest singular value of x, by squaring A = X X^T so many times.

    A^(2^k) is sigma_1^(2^(k+1)) u u^T and what (sigma_2 / sigma_1)^(2^(k+1)) leaves of the rest. Its column with the
    largest diagonal entry (the first of them) is u, and X^T u is v. Where sigma_1 is double, it is one of its pairs.

    Shapes: (..., m, n) -> (..., m, n), in x's dtype; leading axes are batch. Zero gives zero.
    Law: the module's.

    >>> leading_pair(torch.tensor([[3.0, 0.0], [0.0, -2.0]]), 5)
    tensor([[1., 0.],
            [0., 0.]])
    """
    m, n = x.shape[-2:]
    if m > n:
        return leading_pair(x.mT, squarings).mT
    matrices = x.detach().reshape(-1, m, n)
    result = torch.empty_like(matrices, memory_format=torch.contiguous_format)
    with ieee_products(x.device):
        for part, out in zip(_groups(matrices), _groups(result)):
            X = part.new_zeros(len(part), *_padded(m, n))
            X[:, :m, :n] = power_of_two_scale(part)[0]
            blocks = _blocks("X", part, X.dtype)
            _put(X, blocks, X.dtype)
            A = gram(blocks, X.dtype)
            for _ in range(squarings):
                A = gram([power_of_two_scale(A)[0]], X.dtype)
            at = A.diagonal(dim1=-2, dim2=-1).argmax(-1)
            u = _unit(A.gather(-1, at[:, None, None].expand(-1, A.shape[-1], 1)))  # (B, m, 1)
            v = _unit(column_sum(X * u))  # (B, 1, n)
            torch.mul(u[:, :m], v[..., :n], out=out)
    return result.view(x.shape)


def _unit(x: Tensor) -> Tensor:
    scaled, _ = power_of_two_scale(x)
    return scaled / _nonzero(matrix_sum(scaled.square()).sqrt())


def exact_polar(x: Tensor) -> Tensor:
    """U_r V_r^T of x = U S V^T by SVD in float64, over the singular values above max(m, n) eps(x's dtype) sigma_max.

    The truncation matters: a matrix of signs is often rank-deficient, and its null space must not be filled with noise.
    Zero gives zero.

    Shapes: (..., m, n) -> (..., m, n), in x's dtype; leading axes are batch.

    >>> exact_polar(torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    tensor([[1., 0.],
            [0., 0.]])
    """
    least = max(x.shape[-2:]) * torch.finfo(x.dtype).eps
    return by_singular_values(x, lambda S: (least * S[..., :1] < S).to(S.dtype)).to(x.dtype)
