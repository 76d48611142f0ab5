"""The site without its builder: what the nav names exists, what exists is in the nav, and links lead somewhere."""

from __future__ import annotations

import doctest
import json
import os
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml

import run
import signa
from docs.site import links, notebook, parts, spectra, stage, words
from signa.show import catalogue
from tests.test_docs import anchors

ROOT = Path(__file__).parents[1]
SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
SAMPLE = ("presets/signmuon", "lmos/spectral", "stages/momentum", "compressors/sign", "feedbacks/ef21",
          "aggregators/majority_vote", "scalings/unit_gain", "iterations/jordan5")  # fmt: skip


class Loader(yaml.SafeLoader):
    """mkdocs.yml names a Python function; whoever reads the nav does not need it."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def leaves(nav: object) -> list[str]:
    """The pages of a nav, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(item)]  # type: ignore[attr-defined]


def nav() -> list[str]:
    return leaves(yaml.load(SETTINGS, Loader)["nav"])


def generated() -> set[str]:
    """The paths of the pages that the code writes."""
    return {*parts.entries(), "tour.md", *(f"{sort}/index.md" for sort in parts.SORTS)}


def test_every_page_in_the_nav_exists() -> None:
    pages = {links.page_of(path) for path in stage.written()} | generated()
    for page in nav():
        if page.endswith("/"):
            assert page == "api/" or any(str(known).startswith(page) for known in pages), page
        else:
            assert page in pages, f"mkdocs.yml names {page}, which nobody writes"


def test_every_page_is_in_the_nav() -> None:
    named = nav()
    folders = tuple(page for page in named if page.endswith("/"))
    for path in stage.written():
        page = links.page_of(path)
        assert page in named or str(page).startswith(folders), f"{path}: give it a line in mkdocs.yml"
    assert len(named) == len({*named})


def test_everything_registered_has_a_page() -> None:
    assert {entry.sort for entry in catalogue()} == {*parts.SORTS}
    assert {*parts.entries()} == {f"{entry.sort}/{entry.name}.md" for entry in catalogue()}


def test_the_site_loads_nothing_from_elsewhere() -> None:
    settings = yaml.load(SETTINGS, Loader)
    assert settings["theme"]["font"] is False
    style = (ROOT / "docs" / "assets" / "extra.css").read_text()
    code = "\n".join(line.partition("#")[0] for line in SETTINGS.splitlines())
    assert "://" not in code and "url(" not in style and "@import" not in style


def test_a_folder_in_the_nav_is_filled_in() -> None:
    text = stage.settings("nav:\n  - Parts: lmos/\n  - X: x.md\n", {"lmos/index.md": "", "lmos/row.md": "", "x.md": ""})
    assert yaml.safe_load(text)["nav"] == [{"Parts": ["lmos/index.md", {"row": "lmos/row.md"}]}, {"X": "x.md"}]


def test_what_the_tools_are_pinned_to_meets_the_extra() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints-docs.txt").read_text(), re.MULTILINE))
    wanted = run.requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"), ("docs",))
    for requirement in wanted[len(run.requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"), ())) :]:
        name = re.split(r"[>=<]", requirement)[0]
        assert run.met(requirement, lambda _, pin=pins[name]: pin), requirement


# Pages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLE)
def test_a_page_has_formula_signal_plot_and_source(path: str) -> None:
    sort, _, name = path.partition("/")
    (entry,) = catalogue(sort, name)
    text = parts.page(entry)
    assert text.startswith(f"# {name}\n") and "## Source" in text
    assert re.search(r"`[^`]*(<-|=|X|sign|sqrt|argmax)[^`]*`|```text\nX <-", text), "no formula"
    assert ("| ---" in text and "## In a spec" in text) or "## As a spec" in text
    for target in re.findall(r"\(repo:([^)#]+)", text):
        assert (ROOT / target).is_file(), target
    if sort != "scalings":
        (drawing,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        picture = ElementTree.fromstring(drawing)
        assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2
        assert "width" not in picture.attrib and "script" not in drawing  # it takes the page's width


@pytest.mark.parametrize("sort", ["lmos", "stages", "compressors", "aggregators", "feedbacks"])
def test_every_part_can_be_shown_to_a_matrix(sort: str) -> None:
    for entry in catalogue(sort):
        shown = spectra.view(entry.item, sort)
        assert shown is not None
        for matrix in shown.curves.values():
            assert matrix.shape == (spectra.M, spectra.N) and matrix.isfinite().all(), entry.name
            assert matrix.any(), f"{entry.name} is shown as nothing"


def test_the_plots_tell_the_truth() -> None:
    values = torch.linalg.svdvals(spectra.gradient())
    torch.testing.assert_close(values, torch.logspace(0, -3, spectra.N), rtol=1e-3, atol=1e-5)
    flat = spectra.view(signa.lmos.get("spectral"), "lmos").curves["out"]  # type: ignore[union-attr]
    assert torch.linalg.svdvals(flat).min() > 0.9
    assert torch.linalg.matrix_rank(spectra.view(signa.lmos.get("nuclear"), "lmos").curves["out"]) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("module", [words, links], ids=lambda module: module.__name__)
def test_doctests(module) -> None:
    assert doctest.testmod(module).attempted and not doctest.testmod(module).failed


def test_links_lead_to_pages_sources_and_copies() -> None:
    linker = links.Linker()
    text = "[a](theory.md#setting) [b](../run.py) [c](../examples/cifar/README.md) [d](repo:signa/rule.py#L9)"
    text += " ![e](main-job.svg)"
    there = linker.rewrite(f"{text}\n\n```python\n[x](y)\n```\n", here="deep/page.md", home="docs")
    assert re.findall(r"\]\(([^)]+)\)", there) == [
        "../theory.md#setting", "../source/run.py.md", "../experiments/cifar.md",
        "../source/signa/rule.py.md#__codelineno-0-9", "../files/docs/main-job.svg", "y",
    ]  # fmt: skip
    assert linker.sources == {"run.py", "signa/rule.py"} and linker.copies == {"docs/main-job.svg"}


def test_a_narrow_page_shows_the_tall_picture() -> None:
    linker = links.Linker()
    said = linker.rewrite('![a "b"](diagrams/lion.svg) [a](diagrams/lion.svg)', here="deep/page.md", home="docs")
    assert said == (
        f'<picture><source media="(max-width: {links.NARROW})" srcset="../files/docs/diagrams/lion-tall.svg">'
        '<img alt="a &quot;b&quot;" src="../files/docs/diagrams/lion.svg"></picture>'
        " [a](../files/docs/diagrams/lion.svg)"
    )
    assert linker.copies == {"docs/diagrams/lion.svg", "docs/diagrams/lion-tall.svg"}


@pytest.mark.parametrize("path", sorted(stage.written()))
def test_no_word_is_taken_for_html(path: str) -> None:
    """``<G, d>`` outside of code vanishes from a page: write ⟨G, d⟩."""
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^(`{3,}).*?^\1`*$", "", stage.written()[path]))
    tags = {tag for tag in re.findall(r"<(/?[A-Za-z][^>\n]*)>?", text) if not re.match(r"/?a\b|https?:", tag)}
    assert tags == set()


@pytest.mark.slow
def test_every_link_of_every_page_leads_somewhere(tmp_path: Path) -> None:
    """As the builder would find it, strictly; without a builder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", signa.Advice)
        stage.stage(tmp_path / "site")
    folder = tmp_path / "site" / "pages"
    pages = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}
    assert len(pages) > 120
    for path, text in pages.items():
        plain = re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^(`{3,}).*?^\1`*$", "", text))
        for target in re.findall(r"\]\(([^)\s]+)\)", plain):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            there = Path(os.path.normpath(path.parent / name)) if name else path
            assert there.is_file(), f"{path.relative_to(folder)} links to {target}"
            assert not anchor or anchor.startswith("__codelineno") or anchor in anchors(there), f"{path.name}: {target}"
    assert leaves(yaml.load((tmp_path / "site" / "mkdocs.yml").read_text(), Loader)["nav"])


# The notebook --------------------------------------------------------------------------------------------------------


def test_the_notebook_was_executed_from_the_top() -> None:
    code = [cell for cell in notebook.cells(notebook.PATH) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds <= {"stream", "execute_result"}, "an error, or something that only a widget shows"
    assert any("image/svg+xml" in output.get("data", {}) for cell in code for output in cell["outputs"])
    assert str(ROOT) not in notebook.PATH.read_text(encoding="utf-8")
    assert "indistinguishable" in notebook.page(notebook.PATH)


def test_the_notebook_runs_without_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell in order; the ablation is made shorter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    names: dict[str, object] = {"__name__": "tour"}
    try:
        for number, cell in enumerate(notebook.cells(notebook.PATH)):
            if cell["cell_type"] == "code":
                source = "".join(cell["source"]).replace("STEPS, SEEDS = 30, 3", "STEPS, SEEDS = 2, 1")
                source = source.replace('tune={"points": 3, "widen": 2}', 'tune={"points": 0}')
                exec(compile(source, f"cell {number}", "exec", dont_inherit=True), names)
        assert names["plan"].counts()[0] == 3  # type: ignore[attr-defined]
    finally:
        signa.lmos.unregister("tour_greedy")


def test_the_notebook_is_kept_as_the_command_writes_it() -> None:
    """Nothing in it changes from run to run but what the cells print: no times, no ids of a session, no addresses."""
    text = notebook.PATH.read_text(encoding="utf-8")
    book = json.loads(text)
    assert not re.search(r" at 0x[0-9a-f]+", text)
    assert set(book["metadata"]) == {"kernelspec"}
    assert [cell["id"] for cell in book["cells"]] == [f"cell-{n}" for n in range(len(book["cells"]))]
    assert not any(cell["metadata"] for cell in book["cells"])
