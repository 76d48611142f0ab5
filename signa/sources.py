"""Reading spec files as data: values, and the line and column of every one of them. No code ever runs from a file."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import Problem, SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

MOST_BYTES, MOST_NODES, MOST_DEPTH = 1 << 20, 10_000, 32
_YAML11_BOOL = re.compile(r"(?:yes|no|on|off|y|n)\Z", re.IGNORECASE)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_EXPONENT_ONLY = re.compile(r"([-+]?[0-9]+)([eE])([-+]?[0-9]+)\Z|([-+]?[0-9]*\.[0-9]*[eE])([0-9]+)\Z")
_OCTAL = re.compile(r"[-+]?0[0-9]+\Z")
_CONSTANTS = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
    ".inf": float("inf"),
    "-.inf": -float("inf"),
    ".nan": float("nan"),
}
Path_ = tuple[str | int, ...]


@dataclass
class Source:
    """Where a spec came from, and where in it each value stands."""

    name: str = ""
    lines: list[str] = field(default_factory=list)
    marks: dict[Path_, tuple[int, int, int]] = field(default_factory=dict)

    def locate(self, problem: Problem) -> Problem:
        """The problem with its file, line, column and text. The nearest enclosing value stands in for a missing one."""
        path = problem.path
        if self.marks:
            while path and path not in self.marks:
                path = path[:-1]
            line, column, width = self.marks.get(path, (0, 0, 1))
            if line:
                return problem.at(self.name, line, column, self.lines[line - 1].rstrip(), width)
        return problem.at(self.name)


def read(path: Path) -> tuple[Any, Source, list[Problem]]:
    """The data of a ``.yaml``, ``.yml``, ``.json`` or ``.toml`` file, its places, and what is wrong with its text.

    Raises:
        SpecError: the file cannot be read as data at all.
    """
    name = path.name if path.is_absolute() else str(path)
    readers = {".yaml": _yaml, ".yml": _yaml, ".json": _json, ".toml": _toml}
    if path.suffix not in readers:
        raise SpecError(
            [Problem(f"'{path.suffix}' files are no specs", source=name, instead=f"use {', '.join(readers)}")]
        )
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError([Problem(f"the file is larger than {MOST_BYTES} bytes", source=name, instead="split it")])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([Problem("the spec cannot be read", source=name, because=str(reason))]) from None
    source = Source(name, text.splitlines())
    data, problems = readers[path.suffix](text, source)
    return data, source, [source.locate(problem) for problem in problems]


def read_value(text: str) -> Any:
    """A value as it stands behind ``--set a.b=``: like YAML, but ``1e-3`` is the number that it looks like.

    >>> read_value("1e-3"), read_value("[momentum, spectral]"), read_value("polar6"), read_value("true")
    (0.001, ['momentum', 'spectral'], 'polar6', True)
    """
    try:
        return float(text) if _EXPONENT_ONLY.match(text) else _yaml(text, Source("--set", text.splitlines()))[0]
    except SpecError:
        return text


def _yaml(text: str, source: Source) -> tuple[Any, list[Problem]]:
    return _Builder(source, strict=True).build(_compose(text, source))


def _compose(text: str, source: Source) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(f"this is not YAML: {error.problem or error.context}")
        if mark is not None and mark.line < len(source.lines):
            problem = problem.at(source.name, mark.line + 1, mark.column + 1, source.lines[mark.line])
        raise SpecError([problem]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecError([Problem(f"this is not YAML: {str(error).splitlines()[0]}", source=source.name)]) from None


def _json(text: str, source: Source) -> tuple[Any, list[Problem]]:
    try:
        json.loads(text)
        node = _compose(text.replace("\t", " "), source)
    except json.JSONDecodeError as error:
        line = source.lines[error.lineno - 1] if error.lineno <= len(source.lines) else ""
        place = Problem(f"this is not JSON: {error.msg}").at(source.name, error.lineno, error.colno, line)
        raise SpecError([place]) from None
    except RecursionError:
        raise SpecError([Problem(f"the JSON nests deeper than {MOST_DEPTH}", source=source.name)]) from None
    return _Builder(source, strict=False).build(node)


def _toml(text: str, source: Source) -> tuple[Any, list[Problem]]:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r"line (\d+), column (\d+)", str(error))
        problem = Problem(f"this is not TOML: {str(error).split(' (at')[0]}")
        if place and int(place[1]) <= len(source.lines):
            problem = problem.at(source.name, int(place[1]), int(place[2]), source.lines[int(place[1]) - 1])
        raise SpecError([problem if place else problem.at(source.name)]) from None
    source.marks = _toml_marks(source.lines)
    return data, []


def _toml_marks(lines: list[str]) -> dict[Path_, tuple[int, int, int]]:
    """Places of tables and of keys at the start of a line (TOML's parser keeps none)."""
    marks: dict[Path_, tuple[int, int, int]] = {}
    table: Path_ = ()
    counts: dict[Path_, int] = {}
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.\- ]+?)\s*\]", line):
            path: Path_ = ()
            for word in header[2].split("."):
                path += (word.strip(),)
                path += (counts[path],) if path in counts and path[-1] != header[2].split(".")[-1].strip() else ()
            if header[1] == "[[":
                counts[path] = counts.get(path, -1) + 1
                path += (counts[path],)
            table = path
            marks[table] = (number, header.start(2) + 1, len(header[2]))
        elif key := re.match(r"""\s*([\w.\-]+)\s*=\s*(.*?)\s*(?:#.*)?$""", line):
            marks[(*table, *key[1].split("."))] = (number, key.start(1) + 1, len(key[1]))
    return marks


class _Builder:
    """Turns composed YAML nodes into plain data, keeping every place.

    ``strict`` refuses scalars that YAML 1.1 and 1.2 read differently (``1e-3``, ``no``, ``010``); JSON has none.
    """

    def __init__(self, source: Source, *, strict: bool) -> None:
        self.source, self.strict = source, strict
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, node: yaml.Node | None) -> tuple[Any, list[Problem]]:
        """The data, and what is wrong with it."""
        return (None if node is None else self._value(node, ())), self.problems

    def _object(self, node: yaml.Node, what: str, because: str = "", instead: str = "") -> None:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        width = node.end_mark.column - node.start_mark.column if node.end_mark.line + 1 == line else 1
        problem = Problem(what, because=because, instead=instead)
        self.problems.append(problem.at(self.source.name, line, column, self.source.lines[line - 1], max(1, width)))

    def _value(self, node: yaml.Node, path: Path_) -> Any:
        self.count += 1
        if self.count > MOST_NODES or len(path) > MOST_DEPTH:
            what = f"the spec holds more than {MOST_NODES} values or nests deeper than {MOST_DEPTH}"
            raise SpecError([Problem(what, source=self.source.name, because="aliases count each time they are used")])
        mark, end = node.start_mark, node.end_mark
        width = end.column - mark.column if end.line == mark.line else 1
        self.source.marks.setdefault(path, (mark.line + 1, mark.column + 1, max(1, width)))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key == "<<":
                self._object(key_node, "a key must be a word", instead="write the fields out (there are no merge keys)")
                continue
            if key in data:
                self._object(
                    key_node,
                    f"the key '{key}' stands twice",
                    because="only one of them could count",
                    instead="keep one",
                )
            data[key] = self._value(value_node, (*path, key))
            if isinstance(value_node, yaml.ScalarNode) and not value_node.value:
                start = key_node.start_mark
                self.source.marks[(*path, key)] = (start.line + 1, start.column + 1, len(key))
            self.source.marks.setdefault(
                (*path, key, "*key*"), (key_node.start_mark.line + 1, key_node.start_mark.column + 1, len(key))
            )
        return data

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value"):
            self._object(
                node,
                f"the tag '{node.tag}' is refused",
                because="a spec is data and never builds objects",
                instead="remove the tag",
            )
            return text
        if getattr(node, "style", None):
            return text
        if self.strict and (exponent := _EXPONENT_ONLY.match(text)):
            number = f"{exponent[1]}.0e{exponent[3]}" if exponent[1] else f"{exponent[4]}+{exponent[5]}"
            self._object(
                node, f"'{text}' is text for YAML 1.1 and a number for YAML 1.2", instead=f"write {number}, or quote it"
            )
        if self.strict and _YAML11_BOOL.match(text):
            self._object(
                node,
                f"'{text}' is a boolean for YAML 1.1 and text for YAML 1.2",
                instead="write true or false, or quote it",
            )
        if self.strict and _OCTAL.match(text):
            self._object(
                node,
                f"'{text}' is octal for YAML 1.1 and decimal for YAML 1.2",
                instead="drop the leading zero, or quote it",
            )
        if text.lower() in _CONSTANTS:
            return _CONSTANTS[text.lower()]
        if _INT.match(text):
            return int(text)
        return float(text) if _FLOAT.match(text) or _EXPONENT_ONLY.match(text) else text
