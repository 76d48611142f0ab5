"""Where a link of a page leads on the site: to another page, to one that shows a file's source, or to a copy of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from html import escape
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
#: Files that are pages under another name; the rest of docs/*.md and the experiments follow the two rules of `page_of`.
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
#: What a reader wants to read in the browser, and its language.
SOURCES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".txt": "text",
    ".cff": "yaml",
    ".md": "markdown",
}
#: The width of a window below which a page has no room for two boxes and a wire: the theme's, without its columns.
NARROW = "59.9375em"
_FENCES = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")


def page_of(path: str) -> str | None:
    """The page that a file of the repository becomes, or None.

    >>> page_of("docs/theory.md"), page_of("examples/cifar/README.md"), page_of("run.py")
    ('theory.md', 'experiments/cifar.md', None)
    """
    if path in PAGES:
        return PAGES[path]
    if match := re.fullmatch(r"docs/([^/]+\.md)", path):
        return match[1]
    if match := re.fullmatch(r"examples/([^/]+)/README\.md", path):
        return f"experiments/{match[1]}.md"
    return None


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with everything changed but fenced code."""
    parts, end = [], 0
    for match in _FENCES.finditer(text):
        parts += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(text[end:])])


class Linker:
    """Rewrites links, and collects the files that they need: ``sources`` become pages, ``copies`` are copied."""

    def __init__(self) -> None:
        self.sources: set[str] = set()
        self.copies: set[str] = set()

    def rewrite(self, text: str, *, here: str, home: str) -> str:
        """A page's text with its links leading to pages.

        Args:
            here: the page on the site.
            home: the folder in the repository that its links start from; ``repo:`` starts from the top.
        """
        return outside_code(text, lambda part: _LINK.sub(lambda m: self._link(m, here, home), part))

    def _link(self, match: re.Match[str], here: str, home: str) -> str:
        """A link; of a picture that has a tall sister, both: a narrow page shows the sister, and neither is shrunk."""
        begin, path, end = match.groups()
        target, tall = self._target(path, here, home), path.removesuffix(".svg") + "-tall.svg"
        if not begin.startswith("!") or not (ROOT / home / tall).is_file():
            return f"{begin}{target}{end}"
        return (
            f'<picture><source media="(max-width: {NARROW})" srcset="{self._target(tall, here, home)}">'
            f'<img alt="{escape(begin[2:-2])}" src="{target}"></picture>'
        )

    def _target(self, target: str, here: str, home: str) -> str:
        if "://" in target or target.startswith(("#", "mailto:")):
            return target
        path, _, anchor = target.partition("#")
        inside = path.removeprefix("repo:") if path.startswith("repo:") else os.path.normpath(f"{home}/{path}")
        if not (ROOT / inside).exists():
            return target  # a page that is generated, or a mistake that the builder reports
        there, anchor = self._there(inside, anchor)
        return os.path.relpath(there, PurePosixPath(here).parent).replace(os.sep, "/") + (
            f"#{anchor}" if anchor else ""
        )

    def _there(self, inside: str, anchor: str) -> tuple[str, str]:
        """The path on the site, and the anchor there."""
        if page := page_of(inside):
            return page, anchor
        if (ROOT / inside).is_dir() or Path(inside).suffix in SOURCES:
            self.sources.add(inside)
            name = f"source/{inside}/index.md" if (ROOT / inside).is_dir() else f"source/{inside}.md"
            return name, re.sub(r"^L(\d+)$", r"__codelineno-0-\1", anchor)
        self.copies.add(inside)
        return f"files/{inside}", anchor


def source_page(path: str) -> str:
    """A file, or what is in a folder, to read in the browser."""
    here = ROOT / path
    if here.is_dir():
        names = sorted(item.name for item in here.iterdir() if item.suffix in SOURCES)
        return f"# {path}\n\n" + "\n".join(f"- [{name}](repo:{path}/{name})" for name in names) + "\n"
    text = here.read_text(encoding="utf-8")
    fence = "`" * (max([2, *map(len, re.findall(r"^`+", text, re.MULTILINE))]) + 1)
    return f"# {path}\n\n{fence}{SOURCES[here.suffix]}\n{text.rstrip()}\n{fence}\n"
