"""What a step would take before anything is run: bytes to the byte, and seconds by an alpha-beta model.

>>> from signa.planner import Link, measured, of_text, predict
>>> from signa.spec import Spec
>>> spec, model = Spec.load("signsgd"), of_text("64x64*2")
>>> plan = predict(spec, model, workers=4, link=Link(rate=100e6, latency=50e-6), machine=measured(spec, model))
>>> round(plan["signa, alltoall"].bits, 2), plan["DDP float32 + Muon"].bits
(1.71, 48.0)
"""

from .machine import Machine
from .measure import measured
from .models import MODELS, of_module, of_shapes, of_text
from .plan import BASE, HALF, Plan, Row
from .predict import Inside, Planner, predict
from .times import ETHERNET, Link

__all__ = [
    "BASE",
    "ETHERNET",
    "HALF",
    "MODELS",
    "Inside",
    "Link",
    "Machine",
    "Plan",
    "Planner",
    "Row",
    "measured",
    "of_module",
    "of_shapes",
    "of_text",
    "predict",
]
