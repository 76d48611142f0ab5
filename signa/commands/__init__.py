"""The commands besides `train`, a module each. Importing them is cheap: torch is imported where it is needed."""

from __future__ import annotations

import typer

from . import ablate, begin, bench, certify, check, describe, differ, doctor, federated, plan, verify

__all__ = ["register"]

MODULES = (describe, check, differ, begin, ablate, certify, federated, plan, bench, doctor, verify)


def register(app: typer.Typer) -> None:
    """Add every module's commands to the command line."""
    for module in MODULES:
        module.register(app)
