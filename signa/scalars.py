"""Plain YAML scalars: how YAML 1.2 reads them, where YAML 1.1 reads them otherwise, and how to write them for both."""

from __future__ import annotations

import re
from typing import Any

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})\Z")
FLOAT = re.compile(r"(?P<head>[-+]?)(?P<whole>[0-9]*)(?P<part>\.[0-9]*)?(?:[eE](?P<sign>[-+]?)(?P<power>[0-9]+))?\Z")
_SPECIAL = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_WORDS = {"bool": "a boolean", "float": "a number", "int": "a number", "null": "nothing", "timestamp": "a date"}


def kind_of(text: str) -> str:
    """What YAML 1.2 (core schema, without 0o and 0x) makes of a plain scalar: null, bool, int, float or str.

    >>> [kind_of(text) for text in ("1e-3", "no", "010", "1.", "~", ".")]
    ['float', 'str', 'float', 'float', 'null', 'str']
    """
    if _NULL.match(text):
        return "null"
    if _BOOL.match(text):
        return "bool"
    if _INT.match(text):
        return "int"
    number = FLOAT.match(text)
    digits = number and (number["whole"] or (number["part"] or ".") != ".")
    return "float" if digits or _SPECIAL.match(text) else "str"


def scalar(text: str) -> Any:
    """The value of a plain scalar.

    >>> scalar("1e-3"), scalar("-3"), scalar("TRUE"), scalar("polar6"), scalar("-.inf")
    (0.001, -3, True, 'polar6', -inf)
    """
    kind = kind_of(text)
    if kind == "float":
        return float(text.replace(".", "", 1)) if _SPECIAL.match(text) else float(text)
    return {"null": None, "bool": text.lower() == "true"}.get(kind, int(text) if kind == "int" else text)


def ambiguity(text: str, old: str) -> tuple[str, str] | None:
    """What is wrong with a plain scalar that YAML 1.1 takes for the kind ``old`` and YAML 1.2 for another, and the
    remedy; None where both agree.

    >>> ambiguity("1e-3", "str")
    ("'1e-3' is text for YAML 1.1 and a number for YAML 1.2", "write 1.0e-3 (or '1e-3', if text is meant)")
    """
    new = kind_of(text)
    if new == old or (new == "str" and old not in _WORDS):
        return None
    was, now = _WORDS.get(old, "text"), _WORDS.get(new, "text")
    what = f"'{text}' is {was} for YAML 1.1 and {now} for YAML 1.2"
    if was == now:
        what = f"'{text}' is one number for YAML 1.1 and another for YAML 1.2"
    if old == "bool":
        return what, f"write {'true' if text.lower() in ('yes', 'on') else 'false'} (or '{text}', if text is meant)"
    if new == "float":
        return what, f"write {_plainly(text)} (or '{text}', if text is meant)"
    return what, f"write '{text}' in quotes, if text is meant"


def _plainly(text: str) -> str:
    """A number so that both versions read it as one.

    >>> _plainly("1e-3"), _plainly("2.5e3"), _plainly("010"), _plainly("-.5")
    ('1.0e-3', '2.5e+3', '10', '-0.5')
    """
    number = FLOAT.match(text)
    if number is None:
        return text
    whole = number["whole"].lstrip("0") or "0"
    part = number["part"] or ""
    if number["power"] is None:
        return number["head"] + whole + (part if part != "." else ".0")
    return f"{number['head']}{whole}{part if len(part) > 1 else '.0'}e{number['sign'] or '+'}{number['power']}"
