"""What `show`, `check`, `diff`, `init`, `new` and `doctor` print and write, and how they exit.

`train`, `ablate`, `report`, `certify`, `plan` and `federated` are run by the tests of what they do.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import signa
from signa.commands.common import styled
from signa.lab.json_schema import document
from signa.presets import presets
from signa.sources import read
from signa.written import read_method
from tests.cli.terminal import Terminal, snapshot
from tests.lab.tiny import words
from tests.ranks.methods import METHODS, plugged

ROOT = Path(__file__).parents[2]
DIAGRAMS = ROOT / "docs" / "diagrams"
KINDS = ("lmo", "compressor", "aggregator", "stage")
SENTENCE = "momentum(beta=0.9) spectral | sign | majority_vote"
MODELS = """
import torch
def net(): return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
def wild():
    model = net()
    model[0].weight.data[0, 0] = torch.inf
    return model
def large(): return torch.nn.Linear(6000, 6000)
"""

# Sentences ------------------------------------------------------------------------------------------------------------


def test_a_printed_sentence_is_read_back() -> None:
    with plugged():
        for method in (*(presets.get(name).method for name in presets.names()), *map(made, METHODS.values())):
            assert read_method(str(method)) == method, str(method)
    assert str(read_method("momentum -> spectral |")) == "momentum spectral | identity | mean |  | identity | step"


def made(parts: dict[str, Any]) -> signa.Method:
    return signa.Method(**parts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a | b | c | d | e | f | g", "a sentence of 7 parts"),
        ("momentum(beta=0.9 | sign", "a bracket has no partner"),
        ("momentum | sign)", "a bracket has no partner"),
        ("momentum(0.9) | sign", "is no component"),
        ("momentum(beta=0.9)x |", "stands behind a component's brackets"),
        ("momentum(beat=0.9) |", "did you mean 'beta'?"),
        ("momentum | ef21(sgin) |", "did you mean 'sign'?"),
    ],
)
def test_a_wrong_sentence(text: str, said: str, run: Terminal) -> None:
    assert said in run("show", text, code=2)


def test_one_sentence_for_all(run: Terminal) -> None:
    assert "momentum(beta=0.9) spectral | sign | majority_vote" in run("show", SENTENCE)
    (about,) = json.loads(run("show", SENTENCE, "--json"))
    assert about["bits"] == {"up": 1.0, "down": 1.0} and about["spec"]["groups"][0]["worker"][0]["beta"] == 0.9
    assert "5 groups" in run("check", SENTENCE)
    assert "momentum(beta=0.9) spectral" in run("certify", SENTENCE, "--tries", "5", "--seconds", "5")
    assert "worker.momentum.beta: 0.9 -> 0.95" in run("diff", SENTENCE, "signmuon", code=1)


# show -----------------------------------------------------------------------------------------------------------------


def test_show_goes_through_a_model(run: Terminal) -> None:
    said = run("show", "signmuon", "--model", "64x25,7")
    rows = [line.split() for line in said.split("layers of 64x25,7:")[1].splitlines()]
    assert ["p0", "signmuon", "1", "of", "64x25", "0.2", "0.004", "1", "1"] in rows
    data = json.loads(run("show", "signmuon", "--model", "64x25,7", "--json"))
    assert [layer["group"] for layer in data["layers"]] == ["signmuon", "rest"]
    assert data["layers"][0]["lam"] == 0.2 and data["described"][0]["name"] == "signmuon"


@pytest.mark.parametrize("layout", [[], ["--tall"]])
@pytest.mark.parametrize("name", ["signmuon", "muonusign_1bit", "ef21muonsign", "lion"])
def test_the_picture_of_a_preset(name: str, layout: list[str], run: Terminal) -> None:
    """The pages show the same files: the tall ones on a narrow page, where they are not made smaller."""
    said = run("show", name, "--diagram", *layout)
    snapshot(f"{name}{'-tall' if layout else ''}.svg", said, DIAGRAMS)
    assert (int(re.findall(r'width="(\d+)"', said)[0]) < 300) == bool(layout)
    texts = [element.text for element in ElementTree.fromstring(said).iter("{http://www.w3.org/2000/svg}text")]
    method = presets.get(name).method
    stages = [stage.kind for part in ("worker", "server", "replica") for _, stage in method.stages(part)]
    assert {*stages, method.aggregate.kind, str(method.up), str(method.down)} <= set(texts)
    up, down = method.bits(768, 768)
    bits = [re.sub(" bits? per entry", "", text or "") for text in texts if "per entry" in (text or "")]
    assert bits == [f"{up:.4g}", f"{down:.4g}"]


def test_pictures_of_specs_and_sentences(run: Terminal) -> None:
    shakespeare = str(ROOT / "examples" / "shakespeare.yaml")
    assert all(f">{name}</text>" in run("show", shakespeare, "--diagram") for name in ("vocabulary", "matrices"))
    assert "ef14(decay=0.9)" in run("show", "momentum | ef14(decay=0.9)(sign)", "--diagram", "--shape", "8x8")
    assert run("show", "muon", "--diagram", "--out", "muon.svg") == "wrote muon.svg\n"
    assert Path("muon.svg").read_text() == run("show", "muon", "--diagram")
    assert "does not go with --json" in run("show", "muon", "--diagram", "--json", code=2)
    assert "give --diagram" in run("show", "muon", "--tall", code=2)


def test_a_picture_rounds_and_says_the_exact_sentence_beside_it(run: Terminal) -> None:
    said = run("show", "momentum(beta=0.99999, nu=0.9090909090909091) | sign | mean", "--diagram")
    assert ">beta=0.99999, nu=0.9091</text>" in said
    assert "<desc>a sentence: momentum(beta=0.99999, nu=0.9090909090909091) |" in said


# check ----------------------------------------------------------------------------------------------------------------


def test_check_takes_two_steps(run: Terminal) -> None:
    Path("verb_models.py").write_text(MODELS)
    assert "dry run: 2 steps of 3 workers, every parameter finite and moved" in run("check", "signmuon")
    said = run("check", "signmuon", "--model", "verb_models:net", "--workers", "4")
    assert "dry run: 2 steps of 4 workers, every parameter finite and moved" in said and "37.5%" in said
    said = run("check", "signmuon", "--model", "verb_models:wild", code=2)
    assert "0.weight: not finite after 2 steps" in said
    assert "left out: 108," in run("check", "signmuon", "--model", "verb_models:large")
    assert "known by its shapes alone" in run("check", "signmuon", "--model", "64x64")
    assert json.loads(run("check", "signmuon", "--model", "64x64", "--json"))["dry_run"]["ok"] is None


def test_check_says_how_many_workers_a_spec_needs(run: Terminal) -> None:
    Path("weighted.yaml").write_text(
        "groups:\n- {match: '*', worker: momentum, aggregate: {kind: weighted_mean, weights: [1, 2]}, lr: 0.1}\n"
    )
    assert "--workers N says how many" in run("check", "weighted.yaml", code=2)
    run("check", "weighted.yaml", "--workers", "2")


def test_few_ties_are_not_advised_against() -> None:
    method = signa.method("signmuon")
    assert "37.5%" in method.advice(4)[0] and method.advice(254)
    assert not any(method.advice(workers) for workers in (1, 5, 256, 1000))


def test_an_experiments_id_covers_train_and_ablate(run: Terminal) -> None:
    group = "groups:\n- {match: '*', method: muon, lr: 0.1}\n"

    def ids(more: str) -> tuple[str, str]:
        Path("spec.yaml").write_text(group + more)
        report = json.loads(run("check", "spec.yaml", "--json"))
        return report["id"], report.get("experiment", "")

    plain, ten, twenty = ids(""), ids("train: {steps: 10}\n"), ids("train: {steps: 20}\n")
    varied = ids("train: {steps: 20}\nablate: {vary: {groups.0.lr: [0.1, 0.2]}, tune: {points: 0}}\n")
    assert len({plain[0], ten[0], twenty[0], varied[0]}) == 1
    assert len({plain[1], ten[1], twenty[1], varied[1]}) == 4 and not plain[1]
    assert ids("train: {steps: 20, workers: 5}\n")[1] == twenty[1]  # a default that is written out


def test_the_schema_knows_train_and_ablate() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dev extra, not in test")
    validator = jsonschema.Draft202012Validator(document())
    found = [*(ROOT / "examples").rglob("*.yaml"), *(ROOT / "signa" / "lab" / "data").glob("*.yaml")]
    assert len(found) > 15 and any("ablate" in read(path)[0] for path in found)
    for path in found:
        assert not list(validator.iter_errors(read(path)[0])), path
    group = {"match": "*", "method": "muon", "lr": 0.1}
    for wrong in ({"ablate": {"sedes": 3}}, {"ablate": {"sampler": "gird"}}, {"train": {"step": 3}}):
        assert list(validator.iter_errors({"groups": [group], **wrong})), wrong
    assert not list(validator.iter_errors({"spec": "signmuon", "ablate": {"seeds": [1, 2], "tune": {"points": 0}}}))
    assert list(validator.iter_errors({"spec": "signmuon", "ablat": {}}))


# diff -----------------------------------------------------------------------------------------------------------------


def test_diff(run: Terminal) -> None:
    assert run("diff", "signmuon", "SignMuon") == "signmuon and SignMuon are the same\n"
    snapshot("diff_signmuon_muon.txt", run("diff", "signmuon", "muon", code=1))
    Path("a.yaml").write_text("groups:\n- {name: all, match: '*', method: signmuon, lr: 0.1}\n")
    Path("b.yaml").write_text("groups:\n- {name: all, match: '*', method: signmuon, lr: 0.2}\ntrain: {workers: 7}\n")
    rows = {row["address"]: row for row in json.loads(run("diff", "a.yaml", "b.yaml", "--json", code=1))["changes"]}
    assert rows["groups.all.lr"]["a"] == 0.1 and rows["groups.all.lr"]["b"] == 0.2
    Path("run").mkdir()
    Path("run", "spec.yaml").write_text(Path("a.yaml").read_text())
    assert "are the same" in run("diff", "a.yaml", "run")
    changed = signa.Spec.load("a.yaml", set={"groups.all.worker.momentum.beta": 0.5})
    changed.save("c.yaml")
    assert run("diff", "a.yaml", "c.yaml", code=1) == "groups.all.worker.momentum.beta: 0.95 -> 0.5\n"
    assert signa.Spec.load("c.yaml", set={"groups.all.worker.momentum.beta": 0.95}).id == signa.Spec.load("a.yaml").id


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("ok", fg="red") == "\x1b[31mok\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("ok", fg="red") == "ok"


# init, new, doctor ----------------------------------------------------------------------------------------------------


def test_init_begins_what_works(run: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("init", "project", "--workers", "3")
    assert {path.name for path in Path("project").iterdir()} == {"spec.yaml", "signa.schema.json", "train.py"}
    assert "signa check project/spec.yaml" in said
    assert "fine" in run("check", "project/spec.yaml")
    assert signa.Spec.load("project/spec.yaml").train["workers"] == 3
    runpy.run_path("project/train.py", run_name="__main__")
    last = float(re.findall(r"([\d.]+)% of 1000", capsys.readouterr().out)[-1])
    assert last > 85
    assert "would be written over" in run("init", "project", code=2)
    run("init", "other", "--method", "momentum(beta=0.9) | ef21(scaled_sign) | mean | spectral")
    (_, matrices, _) = signa.Spec.load("other/spec.yaml").groups
    assert str(matrices.method) == "momentum(beta=0.9) | ef21(scaled_sign) | mean | spectral | identity | step"


def test_new_begins_what_keeps_the_laws(run: Terminal) -> None:
    """The templates are clean, and pass what they bring; what takes two processes stands in the slow test below."""
    for kind in KINDS:
        said = run("new", kind, f"fresh_{kind}", "--out", "parts")
        assert f"signa check --plugin parts/fresh_{kind}.py" in said
        assert "would be written over" in run("new", kind, f"fresh_{kind}", "--out", "parts", code=2)
    assert len(list(Path("parts").iterdir())) == 3 * len(KINDS)
    for asked in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *asked, "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(command, cwd="parts", capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "No module named ruff" in done.stderr, done.stdout
    Path("parts", "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not every_law"]
    done = subprocess.run(command, cwd="parts", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "10 passed" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_new_makes_keeps_every_law(kind: str, run: Terminal) -> None:
    run("new", kind, f"whole_{kind}")
    words = [sys.executable, "-m", "signa", "check", "--plugin", f"whole_{kind}.py"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "passes golden step and two ranks" in done.stdout, done.stdout + done.stderr


def test_new_refuses_names(run: Terminal) -> None:
    assert "the name 'spectral' is taken: see signa show spectral" in run("new", "lmo", "spectral", code=2)
    assert "would hide the module 'random'" in run("new", "stage", "random", code=2)
    assert "is no name for specs" in run("new", "stage", "My-Stage", code=2)
    assert "did you mean 'compressor'?" in run("new", "compresser", "mine", code=2)


def test_doctor(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("doctor")
    assert said.endswith("\nall is well\n")
    for part in ("versions", "devices", "backends", "kernels", "data", "optional", "tried"):
        assert f"\n{part}\n" in f"\n{said}"
    found = json.loads(run("doctor", "--json"))
    assert found["ok"] and {"torch", "gloo", "cpu", "tiny-shakespeare", "a step"} <= {
        f["name"] for f in found["findings"]
    }
    monkeypatch.setenv("SIGNA_DATA", "/nowhere")
    monkeypatch.setenv("SIGNA_KERNELS", "none")
    broken = run("doctor", code=1)
    assert "3 broken: cpu, SIGNA_DATA, a step" in broken


# JSON of the verbs that other tests run -------------------------------------------------------------------------------


def test_train_and_report_print_json(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.loads(run(*words(Path("runs"), "--steps", "4", "--name", "one", "--json")))
    (found,) = said["runs"]
    assert said["folder"] == "runs/one" and found == json.loads(Path("runs/one/summary.json").read_text())
    shutil.copy(ROOT / "examples" / "cifar" / "results" / "cpu.json", "study.json")
    table = json.loads(run("report", "study.json", "--json"))
    assert Path(table["page"]).exists() and len(table["rows"]) > 2 and all("arm" in row for row in table["rows"])
