"""Registry of compressors: identity, sign, scaled_sign, stochastic_sign, ternary, top_k, random_k, rank."""

from .base import Compressor, compressors
from .dense import Identity, TopK
from .low_rank import Rank
from .signs import ScaledSign, Sign
from .stochastic import RandomK, StochasticSign, Ternary

register, unregister, names, get = compressors.register, compressors.unregister, compressors.names, compressors.get

__all__ = [
    "Compressor",
    "Identity",
    "RandomK",
    "Rank",
    "ScaledSign",
    "Sign",
    "StochasticSign",
    "Ternary",
    "TopK",
    "compressors",
    "get",
    "names",
    "register",
    "unregister",
]
