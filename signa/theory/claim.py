"""One thing that is known of a method, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["PAGE", "Claim", "claims_text"]

Verdict = Literal["converges", "ascends", "nothing known"]
PAGE = "docs/theory.md"


@dataclass(frozen=True)
class Claim:
    """One thing that is known of a method.

    Args:
        verdict: ``converges`` (the measure falls at the rate, under the assumptions), ``ascends`` (a smooth convex
            function on which f grows at every step), or ``nothing known``.
        result: the theorem's name.
        measure: what the rate is of.
        rate: in T steps; ``floor`` is what stays however long one runs, empty if nothing does.
        assumptions: beside smoothness in the measure's norm and a lower bound of f.
        source: who proved it.
        because: why it applies, or why nothing does.
    """

    verdict: Verdict
    result: str
    because: str
    measure: str = ""
    rate: str = ""
    floor: str = ""
    assumptions: tuple[str, ...] = ()
    source: str = ""

    def data(self) -> dict[str, Any]:
        """Without what is empty (the result apart), for JSON; ``Claim(**data)`` is the claim again."""
        return {key: value for key, value in asdict(self).items() if value or key == "result"}


def claims_text(claims: Sequence[Claim]) -> str:
    """For people: a paragraph for each claim."""
    lines: list[str] = ["", "with f >= f*, smooth in the measure's norm, and weight_decay 0 (docs/theory.md):"]
    for claim in claims:
        lines += ["", f"{claim.verdict}{': ' + claim.result if claim.result else ''}", f"  {claim.because}"]
        rows = [("measure", claim.measure), ("rate", claim.rate), ("floor", claim.floor)]
        rows += [("needs", need) for need in claim.assumptions] + [("source", claim.source)]
        lines += [f"  {key + ':':<9}{value}" for key, value in rows if value]
    return "\n".join(lines[1:])
