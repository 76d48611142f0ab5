"""One line for what a person gets wrong."""

from __future__ import annotations

from ..errors import Problem, SpecError

__all__ = ["refusal"]


def refusal(what: str, *, address: str = "", because: str = "", instead: str = "") -> SpecError:
    """A SpecError of one problem, to be raised.

    >>> print(refusal("no such run", instead="write its name"))
    no such run
      instead: write its name
    """
    return SpecError([Problem(what, address=address, because=because, instead=instead)])
