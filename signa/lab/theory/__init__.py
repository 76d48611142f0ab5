"""The theory as programs: the instances of Theorems 1 to 4, how small they can be, and a search for new ones."""

from .linear import muonsign_descent, muonusign_descent, signmuon_descent, small, theorem1, theorem2
from .patterns import Census, census
from .universal import Universal, climbs
from .walk import EXACT, margins, remembers, walk, with_momentum, with_oracle
from .witness import Certificate, certify

__all__ = [
    "EXACT",
    "Census",
    "Certificate",
    "Universal",
    "census",
    "certify",
    "climbs",
    "margins",
    "muonsign_descent",
    "muonusign_descent",
    "remembers",
    "signmuon_descent",
    "small",
    "theorem1",
    "theorem2",
    "walk",
    "with_momentum",
    "with_oracle",
]
