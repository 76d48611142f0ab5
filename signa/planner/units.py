"""Rates, bandwidths and durations as people write them, read strictly."""

from __future__ import annotations

import re

from ..lab.refusal import refusal

__all__ = ["count", "in_words", "rate", "seconds"]

_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?"


def rate(text: str, where: str = "--link") -> float:
    """Bits per second of ``10Gbps`` (bits: a small b, or bit) or ``450GBps`` (bytes: a large B).

    Raises:
        SpecError: a rate without a unit, with another one, or of zero.

    >>> rate("10Gbps"), rate("450GBps"), rate("100Mbit/s")
    (10000000000.0, 3600000000000.0, 100000000.0)
    """
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([kKMGT]?)(bps|bit|bit/s|b/s|Bps|B/s)\s*", text)
    if not match or not (value := _number(match)):
        raise refusal(
            f"'{text}' is no rate",
            address=where,
            because="a rate is a number above 0, k, M, G or T, and bps (bits per second) or Bps (bytes per second)",
            instead="write 10Gbps for ten gigabits a second, or 450GBps for 450 gigabytes a second",
        )
    return value * _SCALE[match[3]] * (8.0 if match[4].startswith("B") else 1.0)


def seconds(text: str, where: str = "--latency") -> float:
    """Seconds of ``30us``, ``1.5ms`` or ``2s``; 0 needs its unit too.

    Raises:
        SpecError: a duration without a unit, or with another one.

    >>> seconds("30us"), seconds("50ms")
    (3e-05, 0.05)
    """
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(ns|us|µs|ms|s|min)\s*", text)
    if not match:
        raise refusal(
            f"'{text}' is no duration",
            address=where,
            because="a duration is a number and ns, us, ms, s or min",
            instead="write 30us for thirty microseconds",
        )
    return float(f"{_number(match) * _TIME[match[3]]:.12g}")


def count(text: str, where: str = "--workers") -> int:
    """A whole number from 1 on.

    Raises:
        SpecError: it is none.
    """
    if not re.fullmatch(r"\s*\d+\s*", text) or int(text) < 1:
        raise refusal(f"'{text}' is no number of workers", address=where, instead="write a whole number from 1 on")
    return int(text)


def _number(match: re.Match[str]) -> float:
    return float(match[1] + (f"e{match[2]}" if match[2] else ""))


def in_words(value: float, unit: str) -> str:
    """A quantity with three figures and its prefix.

    >>> in_words(1e10, "bit/s"), in_words(0.0272, "s"), in_words(0.0, "s"), in_words(31.5e6, "B")
    ('10 Gbit/s', '27.2 ms', '0 s', '31.5 MB')
    """
    if value == 0:
        return f"0 {unit}"
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("u", 1e-6)):
        if abs(value) >= scale * 0.9995 or prefix == "u":
            if unit == "s" and scale > 1:
                continue
            return f"{_three(value / scale)} {prefix}{unit}"
    raise AssertionError


def _three(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
