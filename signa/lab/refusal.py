"""One line for what a person gets wrong, and what a run can come to."""

from __future__ import annotations

from ..errors import Problem, SignaError, SpecError

__all__ = ["Diverged", "refusal"]


class Diverged(SignaError, ArithmeticError):
    """The training loss is no longer a finite number."""


def refusal(what: str, *, address: str = "", because: str = "", instead: str = "") -> SpecError:
    """A SpecError of one problem, to be raised.

    >>> print(refusal("no such run", instead="write its name"))
    no such run
      instead: write its name
    """
    return SpecError([Problem(what, address=address, because=because, instead=instead)])
