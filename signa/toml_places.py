"""Where each key and value of a TOML text stands. Python's TOML parser keeps no places, so they are found again."""

from __future__ import annotations

import re
from bisect import bisect_right

from .address import Address

Place = tuple[int, int, int]
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(r'''"""(?:[^\\]|\\.)*?"{3,5}|\'{3}.*?\'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL)
_BARE = re.compile(r"[^,\]}#\n]*")


def toml_places(text: str, key: str) -> dict[Address, Place]:
    """Line, column and width of every value by its path, and of every key by its path followed by ``key``.

    The text must be valid TOML. A table's place is its header, that of an inline table or a list its first line.

    >>> places = toml_places("[[groups]]\\nlr = 0.1\\n[groups.scaling]\\nkind = 'power'", "*key*")
    >>> places[("groups", 0)], places[("groups", 0, "lr")], places[("groups", 0, "scaling", "kind")]
    ((1, 3, 6), (2, 6, 3), (4, 8, 7))
    """
    return _Scanner(text, key).places


class _Scanner:
    def __init__(self, text: str, key: str) -> None:
        self.text, self.key, self.at = text, key, 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.places: dict[Address, Place] = {(): (1, 1, 1)}
        self.lengths: dict[Address, int] = {}
        table: Address = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self) -> bool:
        """Go past blanks, line ends and comments; whether anything is left."""
        self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.at < len(self.text)

    def _place(self, start: int, end: int) -> Place:
        line = bisect_right(self.starts, start)
        first = self.text[start:end].split("\n")[0].rstrip()
        return line, start - self.starts[line - 1] + 1, max(1, len(first))

    def _keys(self) -> tuple[list[str], Place]:
        """A dotted key's words and its place."""
        start, words = self.at, []
        while match := _KEY.match(self.text, self.at):
            words.append(next(group for group in match.groups() if group is not None))
            self.at = match.end()
            if self.text[self.at : self.at + 1] != ".":
                break
            self.at += 1
        start += len(self.text[start : self.at]) - len(self.text[start : self.at].lstrip())
        return words, self._place(start, self.at)

    def _header(self) -> Address:
        """``[a.b]`` or ``[[a.b]]``: the path of the table that begins here."""
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        words, place = self._keys()
        self.at += 2 if array else 1
        path: Address = ()
        for word in words[:-1]:
            path = (*path, word)
            path += (self.lengths[path] - 1,) if path in self.lengths else ()
        path = (*path, words[-1])
        if array:
            self.places.setdefault(path, place)
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path += (self.lengths[path] - 1,)
        self._note(path, place)
        return path

    def _note(self, path: Address, place: Place) -> None:
        """A table and its key; tables on the way to it that have no place of their own get this one."""
        self.places[path] = self.places[(*path, self.key)] = place
        for depth in range(1, len(path)):
            self.places.setdefault(path[:depth], place)
            self.places.setdefault((*path[:depth], self.key), place)

    def _pair(self, table: Address) -> None:
        """``a.b = value``."""
        words, place = self._keys()
        self.at += 1  # the equals sign
        self._note((*table, *words), place)
        self._value((*table, *words))

    def _value(self, path: Address) -> None:
        self._skip()
        start, opening = self.at, self.text[self.at]
        if opening in "[{":
            self.at += 1
            index = 0
            while self._skip() and self.text[self.at] not in "]}":
                if opening == "[":
                    self._value((*path, index))
                else:
                    self._pair(path)
                index += 1
                self._skip()
                self.at += self.text[self.at] == ","
            self.at += 1
        else:
            match = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
            self.at = match.end()  # type: ignore[union-attr]
        self.places[path] = self._place(start, self.at)
