"""Flower's side of a message: one ConfigRecord of plain values, and how Flower is found.

Letters stand in it as bytes. (An ArrayRecord would put a header of 128 bytes before each tensor, and know no bits.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..lab.refusal import refusal

__all__ = ["FINISH", "HELLO", "NAME", "TRAIN", "app", "flwr", "letters_in", "message", "values_of", "with_letters"]

NAME = "signa"
HELLO, TRAIN, FINISH = "query.hello", "train", "query.finish"
Values = Mapping[str, Any]


def flwr(module: str) -> Any:
    """A module of Flower.

    Raises:
        SpecError: Flower is not installed.
    """
    if find_spec("flwr") is None:
        raise refusal(
            "a federated run over Flower needs the package flwr",
            because="it is not installed",
            instead="pip install 'signa-optim[flower]'; signa train simulates the same run without it, with equal bits",
        )
    return import_module(f"flwr.{module}" if module else "flwr")


def app() -> Any:
    """`flwr.app`: Message, RecordDict and the records."""
    return flwr("app")


def message(values: Values, **how: Any) -> Any:
    """A Message with these values: to a node (``dst_node_id``, ``message_type``), or ``reply_to`` another."""
    there = app()
    return there.Message(content=there.RecordDict({NAME: there.ConfigRecord(dict(values))}), **how)


def values_of(records: Any) -> dict[str, Any]:
    """The values in the records of a message, or of a context; empty where there are none."""
    return dict(records[NAME]) if NAME in records else {}


def with_letters(values: Values, letters: Sequence[bytes]) -> dict[str, Any]:
    """Values, and letters beside them."""
    return {**values, "letters": len(letters), **{f"letter.{i}": letter for i, letter in enumerate(letters)}}


def letters_in(values: Values) -> list[bytes]:
    """Those of :func:`with_letters`."""
    return [values[f"letter.{i}"] for i in range(values["letters"])]
