"""Which guarantee covers a method, and which counterexample: derived from the sentence, for any method.

The results are those of docs/theory.md. Nothing here knows a preset by name: a sentence is cut into what follows the
gradient (a momentum), what the workers, the wire and the server make of that, and where it is remembered; rules say
which theorem that shape meets. Whether a known matrix makes it ascend is tried out, not looked up.
"""

from __future__ import annotations

from ..sentence import Method
from .against import WITNESSES, Witness, speaking_against
from .claim import Claim, claims_text
from .covered import covering, why_nothing
from .shape import shape_of

__all__ = ["WITNESSES", "Claim", "Witness", "claims_text", "theory"]


def theory(method: Method) -> list[Claim]:
    """Every guarantee that covers a method, then every counterexample; if neither, that nothing is known and why.

    >>> from signa.presets import presets
    >>> [(claim.verdict, claim.result) for claim in theory(presets.get("muon").method)]
    [('converges', 'Theorem A')]
    >>> [(claim.verdict, claim.result) for claim in theory(presets.get("signmuon").method)]
    [('ascends', 'Theorem 1'), ('nothing known', '')]
    """
    shape = shape_of(method)
    if covered := covering(shape):
        return covered
    against = speaking_against(shape)
    return [*against, Claim("nothing known", "", why_nothing(shape, ascends=bool(against)))]
