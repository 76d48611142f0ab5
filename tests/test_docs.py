"""The documentation runs: Python, doctests, specs, commands, links, and the tables that are derived from the code.

``SIGNA_UPDATE_SNAPSHOTS=1`` rewrites the tables between ``<!-- table: name -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import run
import signa
from signa import cli, lmo, plugin
from signa.bench import VERBS, markdown
from signa.lab.ablation import load_ablation, read_archive
from signa.lab.ablation.tables import compared, rows
from signa.lab.tasks import tasks
from signa.sources import read

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FAST = {"list", "show", "check", "schema"}
COMPONENTS = (signa.stages, signa.lmos, signa.compressors, signa.aggregators, signa.presets, tasks)


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of the fenced blocks in these languages."""
    text = page.read_text(encoding="utf-8")
    found = [(text.count("\n", 0, match.start(2)), match[1], match[2]) for match in BLOCK.finditer(text)]
    return [(line, body) for line, language, body in found if language in languages]


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a generator of one's own; what a page registers is taken out again, and its plug-ins forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signa.plugin._loaded", dict(plugin._loaded))
    before = [registry.names() for registry in COMPONENTS]
    torch.manual_seed(0)
    yield
    for registry, names in zip(COMPONENTS, before):
        for name in set(registry.names()) - set(names):
            registry.unregister(name)


def absent(page: Path, line: int) -> list[str]:
    """The libraries that a block needs (``<!-- needs: lightning -->`` stands above it) and this Python has not."""
    above = page.read_text(encoding="utf-8").splitlines()[: line - 1]
    needs = re.fullmatch(r"<!-- needs: (.*) -->", above[-1]) if above else None
    missing = [name for name in needs[1].split() if find_spec(name) is None] if needs else []
    assert not missing or "SIGNA_INTEGRATIONS" not in os.environ, f"{label(page)}:{line} needs {', '.join(missing)}"
    return missing


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_python(page: Path) -> None:
    """Every block runs, top to bottom, in one namespace; ``>>>`` blocks show what they print."""
    names: dict[str, object] = {"__name__": page.stem}
    for line, text in blocks(page, "python", "pycon"):
        if absent(page, line):
            continue
        if text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, names, label(page), str(page), line)
            printed: list[str] = []
            result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=printed.append, clear_globs=False)
            assert not result.failed, "".join(printed)
            names.update(test.globs)
        else:
            exec(compile("\n" * line + text, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_specs(page: Path) -> None:
    for line, text in blocks(page, "yaml"):
        if re.sub(r"(?m)^#.*\n|^\n", "", text).startswith("groups:"):
            path = Path(f"line{line}.yaml")
            path.write_text(text)
            assert signa.Spec.load(path).groups


def said(page: Path) -> list[tuple[int, list[str], str]]:
    """(line, words, output) of every command in a console block; the prompt is ``$``."""
    found: list[tuple[int, list[str], str]] = []
    for line, text in blocks(page, "console"):
        for number, row in enumerate(text.splitlines()):
            if row.startswith("$ "):
                words = shlex.split(row[2:], comments=True)
                found.append((line + number + 1, [w for w in words if not re.match(r"[A-Z_]+=", w)], ""))
            elif found:
                at, words, output = found[-1]
                found[-1] = (at, words, f"{output}{row}\n")
    return found


def ran(words: list[str]) -> tuple[int, str]:
    """Exit code and output of a signa command; one with a plug-in gets its own process, which loads it once."""
    if "--plugin" in words:
        command = [sys.executable, "-m", "signa", *words]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, cwd=ROOT
        )
        return done.returncode, done.stdout
    result = CliRunner().invoke(cli.app, words)
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command exists with its options; the fast ones run, and print what the page says that they print."""
    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    monkeypatch.chdir(ROOT)
    for line, words, output in said(page):
        place = f"{label(page)}:{line}: {shlex.join(words)}"
        if words[:2] == ["python3", "run.py"]:
            assert words[2] in run.NEEDS, place
            words = ["signa", *words[2:]] if words[2] == "train" else []
        if not words or words[0] != "signa":
            continue
        assert words[1] in verbs, f"{place}: known are {', '.join(verbs)}"
        with verbs[words[1]].make_context(words[1], words[2:]):
            pass
        if words[1] in FAST:
            code, printed = ran(words[1:])
            assert code == 0, f"{place}: {printed}"
            same = doctest.OutputChecker().check_output(output.strip(), printed.strip(), FLAGS)
            assert not output.strip() or same, f"{place} prints\n{printed}"


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings as GitHub spells them, and explicit ids."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return set(re.findall(r'id="([^"]+)"', text)) | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links(page: Path) -> None:
    """A link to a file of this repository finds it, and the heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{label(page)} links to {target}"
            assert not anchor or anchor in anchors(there), f"{label(page)} links to {target}"


# Tables that the code writes -----------------------------------------------------------------------------------------


def summary() -> str:
    """The README's: every method, what it does to the model, and its price."""
    rows = ["| method | step | bits up | bits down |", "|---|---|--:|--:|"]
    for name in signa.presets.names():
        preset = signa.presets.get(name)
        up, down = (f"{value:.3g}" for value in preset.method.bits(768, 768))
        step = preset.formula.split(",  ")[0].replace("|", r"\|")  # a bar would end the cell, in code as well
        rows.append(f"| [`{name}`](docs/the-path.md#{name}) | `{step}` | {up} | {down} |")
    return "\n".join(rows)


def sentences() -> str:
    """The essay's: the six parts of every method."""
    rows = ["| method | worker | up | aggregate | server | down | replica |", "|---|---|---|---|---|---|---|"]
    for name in signa.presets.names():
        parts = [cell.strip() for cell in str(signa.method(name)).split("|")]
        cells = ["" if cell in ("", "identity") else f"`{cell}`" for cell in parts]
        rows.append(f"| [{name}](#{name}) | {' | '.join(cells)} |")
    return "\n".join(rows)


def formulas() -> str:
    """Every method's formula, source and cost."""
    entries = []
    for name in signa.presets.names():
        preset = signa.presets.get(name)
        up, down = (f"{value:.3g}" for value in preset.method.bits(768, 768))
        entries.append(
            f'<a id="{name}"></a>\n**{name}**: {preset.summary}.\n`{preset.formula}`.\n'
            f"Bits: {up} up, {down} down. Source: {preset.source}.\n"
        )
    return "\n".join(entries).rstrip()


def results(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def wire() -> str:
    """Bits per parameter, worker and step at each rank's network interface."""
    runs = results("wire")["runs"]
    worlds = sorted({one["ranks"] for one in runs})
    found = {(one["case"], one["ranks"]): one for one in runs}
    head = " | ".join(f"{kind}, N = {n}" for n in worlds for kind in ("payload", "on the link"))
    rows = [f"| method | {head} |", f"|---|{'--:|' * 2 * len(worlds)}"]
    for case in dict.fromkeys(one["case"] for one in runs):
        numbers = [f"{found[case, n][kind]:.3f}" for n in worlds for kind in ("payload_bits", "interface_bits")]
        rows.append(f"| {case} | {' | '.join(numbers)} |")
    return "\n".join(rows)


def packing() -> str:
    """Milliseconds, and the ratio that counts."""
    found = results("packing")
    ratio = f"{found['ratio_to_clone_and_add']:.2f}"
    rows = ["| pass | ms |", "|---|--:|", *(f"| {name} | {ms:.0f} |" for name, ms in found["milliseconds"].items())]
    return "\n".join([*rows, f"| (pack + vote + unpack and apply) / (clone and add) | **{ratio}** |"])


def written(name: str) -> str:
    """The table that a benchmark wrote."""
    return (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8").strip()


def slow_link() -> str:
    """Seconds of whole steps on shaped links."""
    return written("slow_link")


def links() -> str:
    """The README's choice of these rows: DDP, and the one-bit exchange."""
    head, line, *rows = slow_link().splitlines()
    return "\n".join([head, line, *(row for row in rows if "summed" not in row)])


def losses() -> str:
    """The README's: each method at its best rate."""
    return written("shakespeare").split("\n\n")[1]


def weak_scaling() -> str:
    """A step's cost as ranks are added."""
    return written("weak_scaling")


def planned() -> str:
    """What the planner said of the steps on shaped links."""
    return written("planned")


def bench(verb: str) -> Callable[[], str]:
    """What `signa bench` found."""

    def measured() -> str:
        return markdown(results(f"bench_{verb}"))

    measured.__name__ = f"bench_{verb}"
    return measured


def state() -> str:
    """What states in fewer bits cost a run."""
    return written("state")


def liars(which: str) -> Callable[[], str]:
    """What is left with workers that lie: a table of examples/byzantine."""

    def measured() -> str:
        return str(runpy.run_path(str(ROOT / "examples" / "byzantine" / "table.py"))[which]())

    measured.__name__ = which
    return measured


def simulate() -> str:
    """What many simulated workers cost."""
    return written("simulate")


TABLES = [
    ("README.md", summary),
    ("README.md", links),
    ("README.md", losses),
    ("docs/the-path.md", sentences),
    ("docs/the-path.md", formulas),
    ("docs/distributed.md", wire),
    ("docs/distributed.md", packing),
    ("docs/distributed.md", slow_link),
    ("docs/distributed.md", weak_scaling),
    ("docs/planner.md", planned),
    *(("docs/performance.md", bench(verb)) for verb in (*VERBS, "step_avx2", "spectral_avx2")),
    ("docs/state.md", state),
    ("docs/state.md", simulate),
    *(("examples/byzantine/README.md", liars(which)) for which in ("two", "number", "owner")),
]


def studies() -> Iterator[tuple[str, Path]]:
    """(page, file) of every table of a study: ``<!-- table: results/mnist.json -->``, a path from the page."""
    for page in PAGES:
        for name in re.findall(r"<!-- table: (\S+\.json) -->", page.read_text(encoding="utf-8")):
            yield label(page), (page.parent / name)


@pytest.mark.parametrize(("page", "file"), [*studies()], ids=lambda item: getattr(item, "stem", item))
def test_tables_of_studies(page: str, file: Path) -> None:
    """What `signa report FILE` says; the figures beside it come from the same command."""
    study = read_archive(file)
    compare(page, os.path.relpath(file, (ROOT / page).parent), compared(study, rows(study)).markdown())
    assert study.left == 0, "the ablation was not over"


@pytest.mark.parametrize(("page", "table"), TABLES, ids=lambda item: getattr(item, "__name__", item))
def test_tables(page: str, table) -> None:
    compare(page, table.__name__, table())


def compare(page: str, name: str, table: str) -> None:
    """Hold a page to a table, or write it there."""
    path, begin = ROOT / page, f"<!-- table: {name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    assert found, f"{page} has no {begin}"
    old, _, after = rest.partition("<!-- end -->")
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS") == "1":
        path.write_text(f"{before}{begin}\n{table}\n<!-- end -->{after}", encoding="utf-8")
    else:
        assert old.strip() == table, "SIGNA_UPDATE_SNAPSHOTS=1 rewrites the table"


# Examples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quickstart", "own_lmo"])
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    if name == "own_lmo":
        before, after = map(float, re.findall(r"(\d\.\d+) (?:before|after)", printed))
        assert after < before / 5
    else:
        assert float(re.findall(r"step  60: ([\d.]+)%", printed)[0]) > 90


def test_the_ranks_example_runs_and_goes_on(tmp_path: Path) -> None:
    """torchrun, two ranks: to the end, and once more from the checkpoint that it left."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "examples" / "ranks.py"), str(tmp_path / "checkpoints")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    first, second = (
        subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout
        for _ in range(2)
    )
    assert float(re.findall(r"step  60: ([\d.]+)%", first)[0]) > 90
    assert "bucket 0 (0.weight, ...): 26,384 entries, signs -> signs -> signs, majority_vote" in first
    assert "step" not in second.split("sent")[0]  # nothing was left to do


def test_the_plugin_obeys_the_laws() -> None:
    from signa.testing import check_component, laws

    names = runpy.run_path(str(ROOT / "examples" / "own_lmo.py"), run_name="plugin")
    part = names["Hadamard"]()
    check_component(part, shapes=[(9, 24), (7, 5)], only=[*laws(part), "golden step"])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_an_example_spec_is_valid(path: Path) -> None:
    plugins = [path.parent / name for name in read(path)[0].get("plugins", ())]
    code, printed = ran(["check", str(path), *(word for plugin in plugins for word in ("--plugin", str(plugin)))])
    assert code == 0, printed
    spec, _ = load_ablation(path, plugins=plugins)
    Path("again.yaml").write_text(spec.dump())
    assert signa.Spec.load("again.yaml", plugins=plugins).id == spec.id


def test_scion_is_scion() -> None:
    """One step of the spec against the paper's own formulas: (1 - gamma) X - gamma rho lmo, shape factors and all."""
    from signa.lab.models import GPT

    model = GPT(vocabulary=65, layers=1, heads=4, width=128, context=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    opt = signa.build(signa.Spec.load(ROOT / "examples" / "scion.yaml"), model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    gamma = 0.01
    for name, p in model.named_parameters():
        g, (m, n) = p.grad * (1 - 0.9), p.shape  # the momentum's first value
        if name == "embed.weight":  # stored (vocabulary, width): its rows are the columns of the paper's matrix
            d = 1.0 * n**0.5 * g / g.norm(dim=1, keepdim=True)
        elif name == "head.weight":
            d = 40.0 / n * g.sign()
        else:
            d = 5.0 * (m / n) ** 0.5 * lmo.Spectral().direction(g)
        torch.testing.assert_close(p.detach(), (1 - gamma) * before[name] - gamma * d, msg=name)
