"""Registry of linear minimisation oracles: spectral, linf, column, row, frobenius."""

from .base import LMO, lmos
from .entrywise import Column, Frobenius, Linf, Row
from .spectral import PolarExpress, Spectral

__all__ = ["LMO", "Column", "Frobenius", "Linf", "PolarExpress", "Row", "Spectral", "lmos"]
