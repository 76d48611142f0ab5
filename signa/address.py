"""Addresses such as ``groups.1.worker.momentum.beta``: how a person names one value of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import Fault
from .rule import closest

#: Keys that an address may leave out: ``up.scaled_sign`` is ``up.compressor``, ``groups.1.worker`` is ``groups.1.method.worker``.
_SILENT = ("method", "compressor", "feedback")


def label_stages(kinds: Sequence[str]) -> list[str]:
    """Names for the items of a list of components: the kind, numbered from the second of its kind on.

    >>> label_stages(["clip", "momentum", "clip"])
    ['clip', 'momentum', 'clip_2']
    """
    labels = []
    for index, kind in enumerate(kinds):
        count = list(kinds[: index + 1]).count(kind)
        labels.append(kind if count == 1 else f"{kind}_{count}")
    return labels


def _label(item: Any) -> str:
    return str(item.get("name") or item.get("kind", "")) if isinstance(item, dict) else ""


def _enter(node: Any, segment: str) -> tuple[Any, Any] | None:
    """The container and key that a segment means inside a node, or None."""
    if isinstance(node, list):
        labels = label_stages([_label(item) for item in node])
        if segment.isdecimal() and int(segment) < len(node):
            return node, int(segment)
        return (node, labels.index(segment)) if segment in labels else None
    if isinstance(node, dict):
        if segment in node:
            return node, segment
        for silent in _SILENT:
            child = node.get(silent)
            if isinstance(child, dict):
                if child.get("kind") == segment:
                    return node, silent
                if silent == "method" and (inner := _enter(child, segment)):
                    return inner
    return None


def set_address(tree: dict[str, Any], address: str, value: Any) -> None:
    """Write a value into a tree of mappings and lists (see :func:`signa.rule.plain`).

    >>> tree = {"worker": [{"kind": "momentum"}, {"kind": "spectral"}]}
    >>> set_address(tree, "worker.momentum.beta", 0.5); tree["worker"][0]
    {'kind': 'momentum', 'beta': 0.5}

    Raises:
        Fault: a part of the address that leads nowhere.
    """
    *way, last = address.split(".")
    node: Any = tree
    for segment in way:
        found = _enter(node, segment)
        if found is None:
            raise Fault(f"nothing is called '{segment}'", instead=closest(segment, known(node)), at=(address,))
        node = found[0][found[1]]
    found = _enter(node, last)
    if found is not None:
        found[0][found[1]] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise Fault(f"nothing is called '{last}'", instead=closest(last, known(node)), at=(address,))


def known(node: Any) -> list[str]:
    """The segments that lead on from a node."""
    if isinstance(node, list):
        return label_stages([_label(item) or str(index) for index, item in enumerate(node)])
    if not isinstance(node, dict):
        return []
    silent = [
        key for name in _SILENT if isinstance(node.get(name), dict) for key in [*known(node[name]), _label(node[name])]
    ]
    return [key for key in [*node, *silent] if key]
