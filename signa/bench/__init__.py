"""What a step and its parts take on this machine, beside their floors and beside others' optimizers.

>>> from signa.bench import Floor
>>> Floor.traffic(entries=1_000_000, parts=("momentum", "sign", "pack", "update")).moved  # bytes
24250000.0
"""

from .contest import Case, Figure, Row, contest
from .floors import TRAFFIC, Floor, Rates
from .peers import PEERS, Peer
from .shapes import SHAPES, Shapes, shapes
from .text import markdown, table
from .verbs import VERBS, Options, Verb, run

__all__ = [
    "PEERS",
    "SHAPES",
    "TRAFFIC",
    "VERBS",
    "Case",
    "Figure",
    "Floor",
    "Options",
    "Peer",
    "Rates",
    "Row",
    "Shapes",
    "Verb",
    "contest",
    "markdown",
    "run",
    "shapes",
    "table",
]
