"""Mappings and sequences of any make as dicts and lists: configuration libraries have containers of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .address import Address, dotted
from .errors import Problem


def ordinary(data: Any, path: Address = ()) -> tuple[Any, list[Problem]]:
    """The data with every Mapping a dict and every Sequence but text a list, and what could not be read of it.

    Each value is asked of its own container, which resolves an interpolation then (OmegaConf's ``${lr}``), or objects.

    >>> from types import MappingProxyType
    >>> ordinary(MappingProxyType({"match": ("a", "b"), "sizes": MappingProxyType({"h": 2})}))
    ({'match': ['a', 'b'], 'sizes': {'h': 2}}, [])
    """
    keys: Iterable[Any]
    if isinstance(data, Mapping):
        keys = list(data)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
        keys = range(len(data))
    else:
        return data, []
    values, problems = [], []
    for key in keys:
        below = (*path, key)
        try:
            value, found = ordinary(data[key], below)
        except RecursionError:
            raise
        except Exception as error:  # whatever the container says when it cannot give the value
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            value, found = None, [Problem("this value cannot be read", dotted(below), below, because=reason)]
        values.append(value)
        problems += found
    return (dict(zip(keys, values, strict=True)) if isinstance(data, Mapping) else values), problems


__all__ = ["ordinary"]
