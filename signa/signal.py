"""What flows along the path: a Signal, of which every hop knows only its local rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Literal

Role = Literal["gradient", "direction", "model"]
Alphabet = str
"""Which values occur: dense, sign, ternary, scaled_sign, sparse, or a name that a new compressor brings."""

#: Logical bits per entry of an alphabet that needs no side information. A ternary entry is two bit planes.
BITS: dict[str, float] = {"dense": 32.0, "sign": 1.0, "ternary": 2.0}


@dataclass(frozen=True)
class Norm:
    """The nominal Frobenius norm of an m x n signal, with the text it is printed as.

    >>> SQRT_MN, SQRT_MN(4, 9)
    (sqrt(m n), 6.0)
    """

    text: str
    value: Callable[[int, int], float] = field(compare=False, repr=False)

    def __call__(self, m: int, n: int) -> float:
        """The norm for one shape."""
        return self.value(m, n)

    def __repr__(self) -> str:
        """The formula."""
        return self.text


ONE = Norm("1", lambda m, n: 1.0)
SQRT_M = Norm("sqrt(m)", lambda m, n: sqrt(m))
SQRT_N = Norm("sqrt(n)", lambda m, n: sqrt(n))
SQRT_MN = Norm("sqrt(m n)", lambda m, n: sqrt(m * n))
SQRT_MIN = Norm("sqrt(min(m, n))", lambda m, n: sqrt(min(m, n)))


@dataclass(frozen=True)
class Signal:
    """What is known of the tensor at one hop, before any tensor exists.

    Args:
        role: what the values mean; decides which stages may follow.
        alphabet: which values occur; decides what may be counted and what a hop costs.
        norm: the nominal Frobenius norm, or None where it follows the gradient's own size.

    >>> Signal("direction", "sign", SQRT_MN)
    direction | sign | norm sqrt(m n)
    """

    role: Role = "gradient"
    alphabet: Alphabet = "dense"
    norm: Norm | None = None

    def but(self, *, role: Role | None = None, alphabet: Alphabet | None = None) -> Signal:
        """The same signal in another role or alphabet."""
        return replace(self, role=role or self.role, alphabet=alphabet or self.alphabet)

    def sized(self, norm: Norm | None) -> Signal:
        """The same signal with another nominal norm."""
        return replace(self, norm=norm)

    def __repr__(self) -> str:
        """Role, alphabet and norm in one line."""
        return f"{self.role} | {self.alphabet} | norm {self.norm if self.norm else 'free'}"
