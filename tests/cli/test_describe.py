"""`signa list`, `show`, `check` and `schema`: what they print, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import signa
from signa.lab.json_schema import document
from signa.presets import presets
from signa.spec import Spec
from tests.cli.terminal import Terminal

ROOT = Path(__file__).parents[2]
MODELS = """
import torch
def net(): return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
def no_net(): return 3
def fails(): raise RuntimeError("no weights here")
"""


def test_list_names_everything(run: Terminal) -> None:
    said = run("list")
    for registry in (
        signa.lmos,
        signa.stages.stages,
        signa.compressors.compressors,
        signa.feedbacks,
        signa.scalings,
        presets,
    ):
        assert all(f"  {name} " in said for name in registry.names())
    assert said.count("  spectral ") == 1  # an LMO is a stage, and stands under lmos alone
    assert run("list", "preset", "ef21*").split("\n")[1].startswith("  ef21muonsign   EF21 up and EF21-P down")
    found = json.loads(run("list", "schedules", "--json"))
    assert {"constant", "cosine", "linear", "wsd"} <= {item["name"] for item in found} and all(
        i["summary"] for i in found
    )
    assert run("list", "lmos", "nothing*") == ""
    assert "did you mean 'scalings'?" in run("list", "scaling_s", code=2)


@pytest.mark.parametrize("name", presets.names())
def test_show_prints_the_yaml_that_a_preset_equals(name: str, run: Terminal, tmp_path: Path) -> None:
    said = run("show", name)
    assert presets.get(name).formula in said and presets.get(name).source in said
    (tmp_path / "pasted.yaml").write_text(said.split("As a spec:\n")[1], encoding="utf-8")
    group = Spec.load("pasted.yaml").groups[0]
    assert group.method == presets.get(name).method and group.lr == presets.get(name).lr


def test_show_works_out_a_shape(run: Terminal) -> None:
    said = run("show", "EF21-MuonSign", "--shape", "4x16")
    assert "for 4x16: 1.5 bits per entry up, 1.5 down" in said  # 1 + 32 / 64
    lines = [line.split() for line in said.splitlines()]
    assert ["server.spectral", "direction", "dense", "sqrt(min(m,", "n))", "32"] in lines
    (about,) = json.loads(run("show", "signmuon", "--shape", "64x25", "--json"))
    assert about["lam"] == 0.2 and about["bits"] == {"up": 1.0, "down": 1.0} and len(about["trace"]) == 7
    assert "diverge" in run("show", "ef21signmuon")
    for shape in ("0x3", "3", "axb", "3x", "-1x2"):
        assert "is not MxN" in run("show", "signmuon", "--shape", shape, code=2)


def test_show_explains_components(run: Terminal) -> None:
    said = run("show", "momentum")
    assert (
        "nu          number >= 0 | beta  1.0" in said
        and "true | false        false" in said
        and "stages/momentum.py:" in said
        and "Lion" in said
    )
    said = run("show", "none")
    assert "none (feedbacks)" in said and "none (scalings)" in said
    assert "arXiv 2505.16932" in run("show", "polar6") and "wsd (schedules)" in run("show", "wsd")
    assert "did you mean 'momentum'?" in run("show", "momentun", code=2)
    for sort in (
        "presets",
        "lmos",
        "stages",
        "compressors",
        "aggregators",
        "feedbacks",
        "scalings",
        "schedules",
        "tasks",
    ):
        for item in json.loads(run("list", sort, "--json")):
            assert run("show", item["name"])


def test_show_goes_through_a_spec(run: Terminal) -> None:
    said = run("show", str(ROOT / "examples" / "shakespeare.yaml"))
    assert "group 0 'vocabulary': match: embed.* head.*, lr: 0.003" in said and "group 1 'matrices': ndim: >=2" in said
    about = json.loads(run("show", str(ROOT / "examples" / "shakespeare.yaml"), "--json"))
    assert len(about["groups"]) == 2 and about["id"] == Spec.load(ROOT / "examples" / "shakespeare.yaml").id


def spec(group: str) -> str:
    Path("spec.yaml").write_text(f"groups:\n  - {{{group}}}\n", encoding="utf-8")
    return "spec.yaml"


def test_check_a_spec(run: Terminal) -> None:
    assert run("check", spec("match: '*', method: muon, lr: 0.1")).startswith("spec.yaml: fine; spec ")
    assert run("check", "signmuon").startswith("signmuon: fine")
    said = run("check", spec("match: '*', method: ef21signmuon, lr: 0.1"))
    assert "advice: groups.0: 'up' runs ef21 on an LMO's output" in said
    assert "spec.yaml:2:36: groups.0.lr: expected a number" in run(
        "check", spec("method: muon, match: '*', lr: fast"), code=2
    )
    report = json.loads(run("check", "spec.yaml", "--json", code=2))
    assert not report["ok"] and report["problems"][0]["address"] == "groups.0.lr" and report["problems"][0]["line"] == 2
    assert "No such file" in run("check", "absent.yaml", code=2)
    assert "give a spec, or a plug-in" in run("check", code=2)


def test_check_reads_train_too(run: Terminal) -> None:
    said = run("check", str(ROOT / "examples" / "shakespeare.yaml"))
    assert "; experiment " in said and ", with train:" in said
    Path("spec.yaml").write_text("groups:\n  - {match: '*', method: muon, lr: 0.1}\ntrain:\n  step: 3\n")
    assert "spec.yaml:4:3: train.step: unknown key 'step'" in run("check", "spec.yaml", code=2)


def test_check_routes_a_model(run: Terminal) -> None:
    Path("cli_models.py").write_text(MODELS)
    said = run("check", "signmuon", "--model", "cli_models:net")
    assert "0.weight" in said and "bits per parameter: " in said
    report = json.loads(run("check", "signmuon", "--model", "cli_models:net", "--json"))
    assert [route["parameter"] for route in report["routes"]] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model = __import__("cli_models").net()
    assert report["bits"] == pytest.approx(dict(zip(("up", "down"), signa.build("signmuon", model).bits())))
    narrow = spec("match: '0.*', method: muon, lr: 0.1")
    assert "no group takes parameter '1.weight'" in run("check", narrow, "--model", "cli_models:net", code=2)
    assert not json.loads(run("check", narrow, "--model", "cli_models:net", "--json", code=2))["ok"]
    assert "returned an int" in run("check", "signmuon", "--model", "cli_models:no_net", code=2)
    assert "RuntimeError: no weights here" in run("check", "signmuon", "--model", "cli_models:fails", code=2)
    assert "No module named 'absent'" in run("check", "signmuon", "--model", "absent:net", code=2)
    assert "cli_models" in run("check", "signmuon", "--model", "cli_models", code=2)


PLUGIN = """
from typing import Literal
import torch
import signa
@signa.lmos.register
class {cls}(signa.LMO):
    '''``{factor} sign(g)``.'''
    kind: Literal["{name}"] = "{name}"
    def direction(self, g): return {factor} * torch.sign(g)
    def norm(self, x): return x.abs().amax((-2, -1))
"""


def test_check_puts_a_plugin_to_the_laws(run: Terminal) -> None:
    Path("right.py").write_text(PLUGIN.format(cls="Right", name="right_lmo", factor=1))
    Path("wrong.py").write_text(PLUGIN.format(cls="Wrong", name="wrong_lmo", factor=2))
    try:
        said = run("check", "--plugin", "wrong.py", code=2)
        assert "breaks the law" in said
        user = spec("match: '*', worker: right_lmo, lr: 0.1")
        run("check", user, "--plugin", "right.py")
        assert "right_lmo" in run("list", "lmos", "--plugin", "right.py") and "right_lmo" in run("schema")
        assert "`1 sign(g)`" in run("show", "right_lmo", "--plugin", "right.py")
        assert "nothing.py" in run("check", "--plugin", "nothing.py", code=2)
    finally:
        signa.lmos.unregister("right_lmo")
        signa.lmos.unregister("wrong_lmo")


SCHEDULE = """
from typing import Literal
from signa.lab.schedules import Schedule, schedules

@schedules.register
class Steep(Schedule):
    kind: Literal["steep"] = "steep"
    def shape(self, k, steps): return (1 - k / steps) ** 4
"""


def test_check_names_what_a_plugin_adds_to_the_lab(run: Terminal) -> None:
    from signa.lab.schedules import schedules

    Path("steep.py").write_text(SCHEDULE)
    try:
        assert "steep (schedules): registered; there are no laws" in run("check", "--plugin", "steep.py")
    finally:
        schedules.unregister("steep")


def test_schema(run: Terminal) -> None:
    assert json.loads(run("schema")) == json.loads(json.dumps(document()))
    run("schema", "--out", "signa.schema.json")
    assert json.loads(Path("signa.schema.json").read_text()) == json.loads(json.dumps(document()))


def test_help_is_cheap() -> None:
    """It imports none of what takes long: 0.2 s in place of 2."""
    code = (
        "import sys, signa.cli as cli; sys.argv = ['signa', '--help']\n"
        "heavy = {'torch', 'pydantic', 'rich', 'yaml', 'numpy', 'signa.lab'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert all(f"  {command} " in done.stdout for command in ("list", "show", "check", "schema", "train"))


def test_python_m_signa_is_signa() -> None:
    def said(*words: str) -> Any:
        done = subprocess.run([*words, "list", "lmos"], capture_output=True, text=True, cwd=ROOT, check=True)
        return done.stdout

    assert "spectral" in said(sys.executable, "-m", "signa")
    assert said(sys.executable, "-c", "from signa.cli import main; main()") == said(sys.executable, "-m", "signa")
