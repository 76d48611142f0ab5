"""From docstrings to Markdown: sections, labels, examples, and links for what papers and classes are called."""

from __future__ import annotations

import inspect
import re
import textwrap

#: ``code``, `code`, and Sphinx's roles, which a page shows as code.
_CODE = re.compile(r"``(.+?)``|:\w+:`~?([^`]+)`|`([^`]+)`", re.DOTALL)
_SECTION = re.compile(r"(Args|Raises|Returns|Yields):\n")
_LABEL = re.compile(r"(?:^|(?<=[.;`)\]] ))(Shapes|Norm|Laws?|State|Source|Units)( [^:.\n]{1,30})?: ", re.MULTILINE)
_PAPER = re.compile(r"\barXiv[ :](\d{4}\.\d{4,5})|(?<![/\w.])(\d{4}\.\d{5})\b")
_REPOSITORY = re.compile(r"\bgithub ([\w-]+/[\w.-]+\w)")


def code(text: str) -> str:
    """A span of code, whatever it holds; on one line."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{' '.join(text.split())}{fence}"


def prose(text: str) -> str:
    """A paragraph: code stays code, the rest is escaped, papers become links."""
    parts, end = [], 0
    for match in _CODE.finditer(text):
        inside = next(group for group in match.groups() if group is not None)
        name = inside.rpartition(".")[2] if match[2] is not None and match[0].split("`")[1].startswith("~") else inside
        parts += [_linked(text[end : match.start()]), code(name)]
        end = match.end()
    return "".join([*parts, _linked(text[end:])])


def _linked(text: str) -> str:
    text = re.sub(r"([*_\[\]\\])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    text = _PAPER.sub(lambda m: f"[arXiv {m[1] or m[2]}](https://arxiv.org/abs/{m[1] or m[2]})", text)
    return _REPOSITORY.sub(lambda m: f"[github {m[1]}](https://github.com/{m[1]})".replace("\\_", "_"), text)


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown.

    >>> print(markdown("``sign(x)`` of <x>.\\n\\nLaw: odd. Source: arXiv 1802.04434.\\n\\nArgs:\\n    zeros: kept."))
    `sign(x)` of &lt;x>.
    <BLANKLINE>
    **Law:** odd.
    <BLANKLINE>
    **Source:** [arXiv 1802.04434](https://arxiv.org/abs/1802.04434).
    <BLANKLINE>
    **Args**
    <BLANKLINE>
    - `zeros`: kept.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        if block.lstrip().startswith(">>>"):
            blocks.append(f"```pycon\n{inspect.cleandoc(block)}\n```")
        elif section := _SECTION.match(block):
            blocks += [f"**{section[1]}**", _items(block[section.end() :])]
        elif re.match(r"( {4}|\t)", block):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        elif re.match(r"[-*] ", block):
            blocks.append("\n".join(f"- {prose(item)}" for item in re.split(r"^[-*] ", block, flags=re.MULTILINE)[1:]))
        else:
            blocks += _labelled(block)
    return "\n\n".join(filter(None, blocks))


def _labelled(block: str) -> list[str]:
    """Paragraphs of their own for what starts with a label."""
    pieces, end, head = [], 0, ""
    for match in _LABEL.finditer(block):
        pieces.append(head + prose(block[end : match.start()].strip()))
        head, end = f"**{match[1]}{match[2] or ''}:** ", match.end()
    return [piece for piece in [*pieces, head + prose(block[end:].strip())] if piece]


def _items(text: str) -> str:
    """``name: what``, a line or more each, or a sentence."""
    lines = []
    for item in re.split(r"\n(?=\S)", textwrap.dedent(text)):
        name, colon, rest = item.partition(": ")
        named = colon and re.fullmatch(r"[\w*., |]+", name)
        lines.append(
            f"- {code(name)}: {prose(' '.join(rest.split()))}" if named else f"- {prose(' '.join(item.split()))}"
        )
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of ready Markdown cells."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """One line, whose bars outside of code do not end it."""
    return re.sub(r"(`+.*?`+)|\|", lambda m: m[1] or r"\|", text.replace("\n", " "))
