"""Addresses such as ``groups.1.worker.momentum.beta``: how a person names one value of a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import Problem, SpecError
from .rule import Rule, closest

Address = tuple[str | int, ...]

#: Keys that an address, and a spec, may leave out: ``groups.1.worker`` is ``groups.1.method.worker``, and ``up.sign``
#: is ``up.compressor`` where that is a ``sign``.
SILENT = ("method", "compressor", "feedback")


def dotted(path: Address) -> str:
    """A path as text.

    >>> dotted(("groups", 1, "lr"))
    'groups.1.lr'
    """
    return ".".join(map(str, path))


def kind_of(item: Any) -> str:
    """The name of a component that is a rule, a word or a mapping; empty for anything else.

    >>> kind_of("sign"), kind_of({"kind": "sign"}), kind_of({"sign": {"zeros": "coin"}}), kind_of({"lr": 0.1})
    ('sign', 'sign', 'sign', '')
    """
    if isinstance(item, Rule):
        return item.kind
    if isinstance(item, Mapping) and len(item) == 1 and "kind" not in item:
        ((name, fields),) = item.items()
        item = name if fields is None or isinstance(fields, Mapping) else ""
    elif isinstance(item, Mapping):
        item = item.get("kind")
    return item if isinstance(item, str) else ""


def label_stages(kinds: Sequence[str]) -> list[str]:
    """Names for the items of a list of components: the kind, numbered from the second of its kind on.

    >>> label_stages(["clip", "momentum", "clip"])
    ['clip', 'momentum', 'clip_2']
    """
    count: dict[str, int] = {}
    found = []
    for kind in kinds:
        count[kind] = count.get(kind, 0) + 1
        found.append(kind if count[kind] == 1 else f"{kind}_{count[kind]}")
    return found


def labels(items: Sequence[Any]) -> list[str]:
    """What the items of a list are called: groups by their name, components by their kind, the others by their number.

    >>> labels(["clip", {"kind": "clip"}, {"name": "head", "lr": 0.1}, {"lr": 0.1}])
    ['clip', 'clip_2', 'head', '3']
    """
    names = [item.get("name") if isinstance(item, Mapping) else getattr(item, "name", "") for item in items]
    words = [name if isinstance(name, str) and name else kind_of(item) for name, item in zip(names, items)]
    return label_stages([word or str(index) for index, word in enumerate(words)])


def _enter(node: Any, segment: str) -> tuple[Any, Any] | None:
    """The container and key that a segment means inside a node, or None."""
    if isinstance(node, list):
        if segment.isdecimal() and len(segment) < 9 and int(segment) < len(node):
            return node, int(segment)
        names = labels(node)
        return (node, names.index(segment)) if segment in names else None
    if isinstance(node, dict):
        if segment in node:
            return node, segment
        for silent in SILENT:
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
        SpecError: a part of the address leads nowhere.
    """
    *way, last = address.split(".")
    node: Any = tree
    for segment in way:
        found = _enter(node, segment)
        if found is None:
            raise _lost(address, segment, node)
        node = found[0][found[1]]
    if found := _enter(node, last):
        found[0][found[1]] = value
    elif isinstance(node, dict) and "compressor" not in node:  # a channel has these two keys and no others
        node[last] = value
    else:
        raise _lost(address, last, node)


def _lost(address: str, segment: str, node: Any) -> SpecError:
    names = known(node)
    what = f"nothing is called '{segment}' here" if names else f"'{segment}' leads into a value"
    near = closest(segment, names) if names else ""
    return SpecError([Problem(what, address, because="" if "?" in near else near, instead=near if "?" in near else "")])


def known(node: Any) -> list[str]:
    """The segments that lead on from a node."""
    if isinstance(node, list):
        return labels(node)
    if not isinstance(node, dict):
        return []
    names = list(node)
    for silent in SILENT:
        child = node.get(silent)
        if isinstance(child, dict):
            names += [kind_of(child)] if "kind" in child else known(child)
    return [name for name in names if name]
