"""The path of a method as a picture: an SVG that is drawn from the trace, and from nothing else.

A worker, the server and a replica are boxes with their stages; between them is the wire, with what travels, the Signal
that it is, and what it costs. The path goes to the server and back: three boxes in a row would be wider than a page's
column, and its letters too small to read. The text is the same wherever it is drawn, so a picture can be kept beside a
page and compared with what the code says now. Colours follow the reader's: light, or dark where the page or the system
asks.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .rule import Rule
from .sentence import Hop, Method
from .signal import Signal

__all__ = ["diagram"]

_BOX, _WIRE, _EDGE = 228, 190, 16  # widths of a box and of a gap between two, and the margin, in pixels
_HEAD, _GAP, _LINE = 34, 14, 16  # heights of a box's title, between two stages, and of a line of text
_LOW = 136  # the least height of a box beside a wire, which has its labels above and below
_LETTERS = 29  # of the small monospaced font that fit into a box
_LONG = re.compile(r"\d+\.\d{4,}(?:e[+-]?\d+)?")  # a number that is longer than what a reader takes in
_STYLE = """
  .ground { fill: none } .box { fill: #f6f8fa; stroke: #8c959f } .copy { fill: #eaeef2; stroke: #afb8c1 }
  .wire { stroke: #0969da; stroke-width: 2; fill: none } .tip { fill: #0969da }
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .name { font-weight: 600 }
  .mono { font: 12px ui-monospace, monospace } .soft { fill: #59636e } .bits { font-weight: 600; fill: #0969da }
  .mid { text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    .box { fill: #151b23; stroke: #656c76 } .copy { fill: #212830; stroke: #3d444d }
    .wire { stroke: #4493f8 } .tip { fill: #4493f8 } text { fill: #f0f6fc } .soft { fill: #9198a1 }
    .bits { fill: #4493f8 }
  }
"""


_PARTS = ("up", "down")
_Label = tuple[str, str]  # a line, and its style


@dataclass(frozen=True)
class _Row:
    """A stage in a box: its name, its fields, and the Signal that it puts out."""

    name: str
    small: tuple[str, ...]

    @property
    def height(self) -> int:
        return _LINE * (1 + len(self.small)) + _GAP


_Box = tuple[str, list[_Row]]  # its title, and what stands in it


def diagram(methods: Sequence[tuple[str, Method]], shape: tuple[int, int] = (768, 768), *, tall: bool = False) -> str:
    """The SVG of some methods, one below the other, each with its name; bits are those of an m x n matrix.

    The worker is above its replica and the server beside both; ``tall`` puts all three below each other, for a narrow
    page such as a telephone's.

    >>> from signa.presets import presets
    >>> picture = diagram([("signmuon", presets.get("signmuon").method)])
    >>> picture[:4], "1 bit per entry" in picture, "majority_vote" in picture
    ('<svg', True, True)
    """
    parts, top = [], _EDGE
    for name, method in methods:
        drawn, height = (_column if tall else _loop)(name, method, shape, top)
        parts += drawn
        top += height + 2 * _EDGE
    across = _BOX if tall else 2 * _BOX + _WIRE
    width, height = across + 2 * _EDGE + 8, top - _EDGE
    said = "; ".join(f"{name}: {method}" for name, method in methods)
    names = ", ".join(name for name, _ in methods)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">',
            f"<title>The path of {escape(names)}</title>",
            f"<desc>{escape(said)}</desc>",
            f"<style>{_STYLE}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _loop(name: str, method: Method, shape: tuple[int, int], top: int) -> tuple[list[str], int]:
    """One method from its gradient to the server, and back to its model; and how high it is."""
    worker, server, replica = _boxes(method)
    high, low, between = max(_LOW, _height(worker)), max(_LOW, _height(replica)), 8 + _GAP
    low += max(0, _height(server) - high - between - low)
    out, first = [_text(_EDGE, top + _LINE - 2, name, "name")], top + _LINE + 10
    second, left, right = first + high + between, _EDGE + _BOX + 8, _EDGE + _BOX + _WIRE  # 8: a box's copies
    out += _box(_EDGE, first, high, *worker, several=True)
    out += _wire(left, right, first + high // 2, *_labels(method, "up", shape))
    out += _box(right, first, high + between + low, *server, several=False)
    out += _wire(right, left, second + low // 2, *_labels(method, "down", shape))
    out += _box(_EDGE, second, low, *replica, several=True)
    return out, second + low + 8 - top


def _column(name: str, method: Method, shape: tuple[int, int], top: int) -> tuple[list[str], int]:
    """One method from top to bottom, and how high it is."""
    out, y = [_text(_EDGE, top + _LINE - 2, name, "name")], top + _LINE + 10
    for index, (title, rows) in enumerate(_boxes(method)):
        height = _height((title, rows))
        out += _box(_EDGE, y, height, title, rows, several=index != 1)
        y += height + 8
        if index < len(_PARTS):
            above, below = _labels(method, _PARTS[index], shape)
            drawn, height = _fall(y, [*above, *below])
            out += drawn
            y += height
    return out, y - top


def _boxes(method: Method) -> list[_Box]:
    """Worker, server and replica, with what stands in them."""
    hops = {hop.address: hop for hop in method.trace()}
    worker = [_Row("gradient", _signal(hops["gradient"].signal)), *_stages(method, "worker", hops)]
    server = [_row(method.aggregate, hops["aggregate"]), *_stages(method, "server", hops)]
    replica = _stages(method, "replica", hops) or [_Row("the model, as it came", _signal(hops["down"].signal))]
    return [("every worker", worker), ("server", server), ("every replica", replica)]


def _height(box: _Box) -> int:
    return _HEAD + sum(row.height for row in box[1])


def _stages(method: Method, part: str, hops: dict[str, Hop]) -> list[_Row]:
    return [_row(stage, hops[address]) for address, stage in method.stages(part)]


def _row(rule: Rule, hop: Hop) -> _Row:
    fields = _rounded(str(rule).removeprefix(rule.kind).strip("()"))
    return _Row(rule.kind, (*_lines(fields, _LETTERS), *_signal(hop.signal)))


def _lines(text: str, letters: int) -> list[str]:
    """A written part in lines of so many letters, broken in front of a parenthesis or behind a comma where that does.

    >>> _lines("ef14(decay=0.9)(scaled_sign)", 23)
    ['ef14(decay=0.9)', '(scaled_sign)']
    """
    lines = [""]
    for piece in re.split(r"(?=\()|(?<=, )", text):
        if len(lines[-1] + piece.rstrip()) > letters:
            lines.append("")
        lines[-1] += piece
    return [short for line in lines for short in textwrap.wrap(line, letters)]


def _rounded(text: str) -> str:
    """Its numbers in four digits, or in more where those would move them, or their distance to 1, by a hundredth.

    >>> _rounded("beta=0.99, nu=0.9090909090909091"), _rounded("beta=0.99999")
    ('beta=0.99, nu=0.9091', 'beta=0.99999')
    """
    return _LONG.sub(lambda match: _short(float(match[0])), text)


def _short(exact: float) -> str:
    for digits in range(4, 17):
        short = float(f"{exact:.{digits}g}")
        if all(abs(short - exact) <= 0.01 * abs(exact - anchor) for anchor in (0.0, 1.0)):
            break
    return repr(short)


def _signal(signal: Signal) -> tuple[str, ...]:
    """A Signal in one line or two."""
    norm = f"norm {signal.norm}" if signal.norm else ""
    line = f"{signal.role}, {signal.alphabet}"
    return (line, norm) if norm else (line,)


def _box(x: int, top: int, height: int, title: str, rows: list[_Row], *, several: bool) -> list[str]:
    out = []
    for shift in (8, 4) if several else ():
        out.append(_rectangle(x + shift, top + shift, height, "copy"))
    out += [_rectangle(x, top, height, "box"), _text(x + 12, top + 21, title, "soft")]
    y = top + _HEAD + _LINE
    for row in rows:
        out.append(_text(x + 12, y, row.name, "name"))
        for number, line in enumerate(row.small, 1):
            out.append(_text(x + 12, y + number * _LINE, line, "mono soft"))
        y += row.height
    return out


def _labels(method: Method, part: str, shape: tuple[int, int]) -> tuple[list[_Label], list[_Label]]:
    """What is said of a wire: above it the channel and its bits, below it the Signal that travels."""
    channel = method.up if part == "up" else method.down
    number = f"{method.bits_at(part, *shape):.4g}"
    cost = f"{number} bit{'' if number == '1' else 's'} per entry"
    named = [(line, "mono") for line in _lines(_rounded(str(channel)), _LETTERS - 6)]
    travels = [(line, "mono soft") for line in _signal(channel.message(method.before(part)))]
    return [(part, "soft"), *named, (cost, "bits")], travels


def _wire(start: int, end: int, y: int, above: list[_Label], below: list[_Label]) -> list[str]:
    """An arrow to the right or to the left, with its labels above and below."""
    middle, way = (start + end) // 2, 1 if end > start else -1
    out = [
        _text(middle, y - 10 - (len(above) - 1 - number) * _LINE, line, f"{style} mid")
        for number, (line, style) in enumerate(above)
    ]
    out += [
        f'<path class="wire" d="M{start + 6 * way} {y}H{end - 12 * way}"/>',
        f'<path class="tip" d="M{end - 14 * way} {y - 5}L{end - 4 * way} {y}L{end - 14 * way} {y + 5}Z"/>',
    ]
    return [*out, *(_text(middle, y + 20 + n * _LINE, line, f"{style} mid") for n, (line, style) in enumerate(below))]


def _fall(y: int, labels: list[_Label]) -> tuple[list[str], int]:
    """An arrow downwards, with its labels beside it, and how high it is."""
    x, end = _EDGE + 20, y + len(labels) * _LINE + 2 * _GAP
    out = [
        f'<path class="wire" d="M{x} {y + 2}V{end - 12}"/>',
        f'<path class="tip" d="M{x - 5} {end - 14}L{x} {end - 4}L{x + 5} {end - 14}Z"/>',
    ]
    lines = [_text(x + 18, y + _GAP + _LINE * n - 4, line, style) for n, (line, style) in enumerate(labels, 1)]
    return [*out, *lines], end - y


def _rectangle(x: int, y: int, height: int, style: str) -> str:
    return f'<rect class="{style}" x="{x}" y="{y}" width="{_BOX}" height="{height}" rx="8"/>'


def _text(x: int, y: int, said: str, style: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}">{escape(said)}</text>'
