"""Ablations: arms that differ in a few addresses of one spec, tuned alike, run with the same seeds, and compared."""

from .archive import archived, read_archive
from .plan import Arm, Plan, make_plan
from .running import Left, execute
from .section import Ablation, Interval, Tune, load_ablation
from .study import Study, read_study
from .vary import parse_vary

__all__ = [
    "Ablation", "Arm", "Interval", "Left", "Plan", "Study", "Tune", "archived", "execute", "load_ablation",
    "make_plan", "parse_vary", "read_archive", "read_study",
]  # fmt: skip
