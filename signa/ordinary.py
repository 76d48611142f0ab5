"""Mappings and sequences of any make as dicts and lists: configuration libraries have containers of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .address import Address, dotted
from .errors import Problem, SpecError

#: Of a spec from a file or from Python. The longest of ours has 400 values and is 8 deep; 10,000 are the weights of as
#: many workers, and a second's work for PyYAML on a slow machine. Python itself gives up at a depth of some hundreds.
MOST_NODES, MOST_DEPTH = 10_000, 32


def too_large() -> Problem:
    """That data is larger than a spec may be."""
    what = f"the spec nests deeper than {MOST_DEPTH} or holds more than {MOST_NODES} values"
    return Problem(what, because="an alias counts each time it is used", instead="write a spec of one page")


def ordinary(data: Any) -> tuple[Any, list[Problem]]:
    """The data with every Mapping a dict and every Sequence but text a list, and what could not be read of it.

    Each value is asked of its own container, which resolves an interpolation then (OmegaConf's ``${lr}``), or objects.

    >>> from types import MappingProxyType
    >>> ordinary(MappingProxyType({"match": ("a", "b"), "sizes": MappingProxyType({"h": 2})}))
    ({'match': ['a', 'b'], 'sizes': {'h': 2}}, [])

    Raises:
        SpecError: it is larger than a spec may be, or holds itself.
    """
    return _read(data, (), [MOST_NODES])


def _read(data: Any, path: Address, left: list[int]) -> tuple[Any, list[Problem]]:
    """As above, of a part; ``left`` counts down what the whole may still hold."""
    keys: Sequence[Any]
    if isinstance(data, Mapping):
        keys = list(data)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
        keys = range(len(data))
    else:
        return data, []
    left[0] -= len(keys)
    if left[0] < 0 or len(path) > MOST_DEPTH:
        raise SpecError([too_large()])
    values, problems = [], []
    for key in keys:
        below = (*path, key)
        try:
            value, found = _read(data[key], below, left)
        except SpecError:
            raise
        except Exception as error:  # whatever the container says when it cannot give the value
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            value, found = None, [Problem("this value cannot be read", dotted(below), below, because=reason)]
        values.append(value)
        problems += found
    return (dict(zip(keys, values, strict=True)) if isinstance(data, Mapping) else values), problems


__all__ = ["MOST_DEPTH", "MOST_NODES", "ordinary", "too_large"]
