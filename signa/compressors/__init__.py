"""Registry of compressors: identity, sign, scaled_sign, top_k."""

from .base import Compressor, compressors
from .dense import Identity, TopK
from .signs import ScaledSign, Sign

register, unregister, names, get = compressors.register, compressors.unregister, compressors.names, compressors.get

__all__ = [
    "Compressor",
    "Identity",
    "ScaledSign",
    "Sign",
    "TopK",
    "compressors",
    "get",
    "names",
    "register",
    "unregister",
]
