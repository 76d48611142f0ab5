"""Writes every page of the site, and the builder's settings, into one folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

from . import api, notebook, parts
from .links import PAGES, ROOT, Linker, page_of, source_page

_FOLDER = re.compile(r"^( *)- (.+): (\w+)/$", re.MULTILINE)


def written() -> dict[str, str]:
    """The pages that people wrote, by the file they stand in."""
    files = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
    names = [file.relative_to(ROOT).as_posix() for file in files] + [name for name in PAGES if (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


def generated() -> dict[str, str]:
    """The pages that the code writes."""
    return {**parts.pages(), **api.pages(), "tour.md": notebook.page(notebook.PATH)}


def stage(folder: Path) -> None:
    """Fill a folder with ``mkdocs.yml`` and ``pages/``; what was there before goes.

    Paths:
        docs/*.md and experiments/*.md are the written pages; presets/, lmos/, ... and api/ the generated ones; source/
        shows files that pages link to; files/ has copies of the others.
    """
    shutil.rmtree(folder, ignore_errors=True)
    linker, pages = Linker(), {}
    for path, text in written().items():
        page = page_of(path)
        assert page is not None
        pages[page] = linker.rewrite(text, here=page, home=str(PurePosixPath(path).parent))
    for page, text in generated().items():
        pages[page] = linker.rewrite(text, here=page, home=str(PurePosixPath("docs") / PurePosixPath(page).parent))
    _show_sources(linker, pages)
    for page, text in pages.items():
        _write(folder / "pages" / page, text)
    for path in linker.copies:
        _copy(ROOT / path, folder / "pages" / "files" / path)
    for path in (ROOT / "docs" / "assets").iterdir():
        _copy(path, folder / "pages" / "assets" / path.name)
    _write(folder / "mkdocs.yml", settings((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), pages))


def _show_sources(linker: Linker, pages: dict[str, str]) -> None:
    """A page for each file that a page links to; a folder's page links to further ones."""
    done: set[str] = set()
    while todo := sorted(linker.sources - done):
        for path in todo:
            page = f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"
            pages[page] = linker.rewrite(source_page(path), here=page, home=".")
        done |= {*todo}


def settings(text: str, pages: dict[str, str]) -> str:
    """mkdocs.yml with each ``- Title: folder/`` of its nav filled in: the folder's index first, then its pages."""

    def fill(match: re.Match[str]) -> str:
        indent, title, folder = match.groups()
        inside = sorted(page for page in pages if page.startswith(f"{folder}/") and page != f"{folder}/index.md")
        lines = [f"{indent}- {title}:"]
        if f"{folder}/index.md" in pages:
            lines.append(f"{indent}    - {folder}/index.md")
        lines += [f"{indent}    - '{PurePosixPath(page).name.removesuffix('.md')}': {page}" for page in inside]
        return "\n".join(lines)

    return _FOLDER.sub(fill, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
