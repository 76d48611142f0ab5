"""How small a counterexample can be: which sign patterns have a polar factor that disagrees with them somewhere.

Where ``S_ij polar(S)_ij < 0``, MuonUSign and MuonSign ascend on a gradient with signs S and one large entry at (i, j)
(Theorems 2 and 3); where no pattern of a shape does, no gradient of that shape can.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Census", "census"]

_TOLERANCE, _RANK = 1e-9, 1e-8  # a disagreement deeper than rounding; the relative cut of singular values
_BATCH = 1 << 16


class Census(NamedTuple):
    """What one shape holds.

    ``found`` of ``patterns`` disagree; ``deepest`` is the least S_ij polar(S)_ij among them (0 without any) and
    ``witness`` a pattern that has it. Sign patterns are counted up to flips of rows and columns.
    """

    patterns: int
    found: int
    deepest: float
    witness: tuple[tuple[int, ...], ...]


def census(m: int, n: int, alphabet: Literal["sign", "ternary"]) -> Census:
    """Count all m x n patterns of {-1, 1}, or of {-1, 0, 1}.

    Permuting or negating columns does the same to the polar factor, so one multiset of columns up to sign stands for
    all patterns that it can be arranged to, and is counted that often.

    >>> census(4, 5, "sign")[:3]
    (4096, 720, -0.031333...)
    """
    values = (-1, 1) if alphabet == "sign" else (-1, 0, 1)
    columns = [c for c in itertools.product(values, repeat=m) if next((x for x in c if x), 1) > 0]
    words = torch.tensor(columns, dtype=torch.float64)
    free = torch.tensor([2 if any(c) else 1 for c in columns])  # a zero column is its own negative
    total = found = 0
    deepest = -_TOLERANCE
    witness: tuple[tuple[int, ...], ...] = ()
    for chosen in _batched(itertools.combinations_with_replacement(range(len(columns)), n)):
        index = torch.tensor(chosen)  # (B, n)
        S = words[index].mT.contiguous()
        lowest = (S * _polar(S)).flatten(-2).amin(-1)
        orders = torch.tensor([_arrangements(row) for row in chosen]) * free[index].prod(-1)
        total += int(orders.sum())
        found += int(orders[lowest < -_TOLERANCE].sum())
        if float(lowest.min()) < deepest:
            deepest = float(lowest.min())
            witness = tuple(tuple(map(int, row)) for row in S[int(lowest.argmin())].tolist())
    classes = 2 ** (m + n - 1) if alphabet == "sign" else 1  # flips act freely, but for all rows and columns at once
    return Census(total // classes, found // classes, deepest if witness else 0.0, witness)


def _polar(S: Tensor) -> Tensor:
    """U_r V_r^T, (B, m, n)."""
    U, values, Vh = torch.linalg.svd(S, full_matrices=False)
    return (U * (values > _RANK * values[:, :1]).unsqueeze(-2)) @ Vh


def _arrangements(word: tuple[int, ...]) -> int:
    """How many orders a multiset has."""
    ways = math.factorial(len(word))
    for count in Counter(word).values():
        ways //= math.factorial(count)
    return ways


def _batched(items: Iterator[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(items, _BATCH)):
        yield batch
