"""Sentences as text: what ``print(method)`` says, read back.

A sentence is six parts between bars, ``worker | up | aggregate | server | down | replica``, of which the last may be
left out. A part is a list of components; a component is its name, with its fields in brackets where they differ from
their defaults: ``momentum(beta=0.9) spectral | ef14(decay=0.9)(scaled_sign) | mean``. An arrow between two components
is a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import Problem, SpecError
from .reading import validated
from .sentence import PARTS, Method
from .sources import read_value

__all__ = ["is_sentence", "read_method"]

_OPEN, _CLOSE = "([{", ")]}"


def is_sentence(text: str) -> bool:
    """Whether a text is meant as a sentence: no name and no path has a bar.

    >>> is_sentence("momentum |"), is_sentence("signmuon"), is_sentence("spec.yaml")
    (True, False, False)
    """
    return "|" in text


def read_method(text: str) -> Method:
    """The method that a sentence says; what :meth:`signa.Method.__str__` prints comes back equal.

    >>> print(read_method("momentum(beta=0.9) -> spectral | sign | majority_vote"))
    momentum(beta=0.9) spectral | sign | majority_vote |  | identity | step

    Raises:
        SpecError: a bracket is not closed, there are more than six parts, or the parts do not compose.
    """
    parts = [part.strip() for part in _cut(text, "|")]
    if len(parts) > len(PARTS):
        raise _refusal(f"a sentence of {len(parts)} parts", f"there are six: {' | '.join(PARTS)}", "leave some out")
    read = {"up": _channel, "down": _channel, "aggregate": _component}
    return validated(Method, {part: read.get(part, _stages)(said) for part, said in zip(PARTS, parts) if said})


def _stages(text: str) -> list[Any]:
    return [_component(item) for item in _cut(text.replace("->", " "), " ") if item]


def _channel(text: str) -> Any:
    """``sign``, ``sign(zeros=keep)``, ``ef21(scaled_sign)``, ``ef14(decay=0.9)(top_k(fraction=0.1))``."""
    brackets = _brackets(text)[1]
    if not brackets or _fields(brackets[-1]) is not None:
        return {"compressor": _component(text)}
    feedback = _component(text[: len(text) - len(brackets[-1]) - 2])
    return {"feedback": feedback, "compressor": _component(brackets[-1])}


def _component(text: str) -> Any:
    """A name, or a mapping of its fields."""
    name, brackets = _brackets(text)
    fields = _fields(brackets[0]) if len(brackets) == 1 else {}
    if fields is None or len(brackets) > 1:
        raise _refusal(f"'{text}' is no component", "its brackets hold fields", "write name(field=value, field=value)")
    return {"kind": name, **fields} if fields else name


def _fields(text: str) -> dict[str, Any] | None:
    """``beta=0.9, nu=1`` as a mapping; None where it is something else."""
    pairs = [item.partition("=") for item in _cut(text, ",") if item.strip()]
    if not all(equals and name.strip().isidentifier() for name, equals, _ in pairs):
        return None
    return {name.strip(): _value(value.strip()) for name, _, value in pairs}


def _value(text: str) -> Any:
    """A value as YAML has it, or as Python prints it: ``(1.5, -0.5)`` is a list, and ``False`` is false."""
    return read_value(text.replace("(", "[").replace(")", "]") if text.startswith("(") else text)


def _brackets(text: str) -> tuple[str, list[str]]:
    """``a(b)(c)`` as ("a", ["b", "c"]).

    Raises:
        SpecError: something stands behind or between the brackets.
    """
    name, bracket, rest = text.partition("(")
    found: list[str] = []
    rest = bracket + rest
    while rest:
        end = next(end for end, depth in _depths(rest) if depth == 0)
        if rest[0] != "(":
            raise _refusal(f"'{rest}' stands behind a component's brackets", "", "put a space in front of it")
        found.append(rest[1:end])
        rest = rest[end + 1 :]
    return name.strip(), found


def _cut(text: str, at: str) -> list[str]:
    """The pieces between separators that stand outside all brackets.

    >>> _cut("a(b, c), d", ",")
    ['a(b, c)', ' d']
    """
    pieces, start = [], 0
    for index, depth in _depths(text):
        if depth == 0 and text[index] == at:
            pieces.append(text[start:index])
            start = index + 1
    return [*pieces, text[start:]]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Every character's index, and in how many brackets it stands; a closing one stands outside its own.

    Raises:
        SpecError: a bracket has no partner.
    """
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if depth < 0:
            break
        yield index, depth
    if depth:
        raise _refusal(f"'{text}': a bracket has no partner", "", "close it, or take it out")


def _refusal(what: str, because: str, instead: str) -> SpecError:
    return SpecError([Problem(what, because=because, instead=instead)])
