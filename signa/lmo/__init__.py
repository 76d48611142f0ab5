"""Registry of linear minimisation oracles: spectral, linf, column, row, frobenius, nuclear, l1."""

from .base import LMO, lmos
from .corners import L1, Nuclear
from .entrywise import Column, Frobenius, Linf, Row
from .spectral import PolarExpress, Spectral

__all__ = ["L1", "LMO", "Column", "Frobenius", "Linf", "Nuclear", "PolarExpress", "Row", "Spectral", "lmos"]
