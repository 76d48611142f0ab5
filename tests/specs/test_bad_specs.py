"""What a wrong spec is told, word for word: ``snapshots/NAME.txt`` holds it, SIGNA_UPDATE_SNAPSHOTS=1 rewrites it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import signa
from signa.errors import RoutingError, SpecError

SNAPSHOTS = Path(__file__).parent / "snapshots"
GROUP = "groups:\n  - match: '*'\n    lr: 0.1\n"
FLOW = "groups:\n  - {match: '*', lr: 0.1, "

#: name: (suffix, text). Every one is a file of its own.
CASES = {
    # keys, at every level
    "key_spec": ("yaml", "groupss:\n  - {match: '*', method: muon, lr: 0.1}\n"),
    "key_group": ("yaml", "groups:\n  - {mtch: '*', method: muon, lr: 0.1}\n"),
    "key_part": ("yaml", GROUP + "    method: signmuon\n    wroker: momentum\n"),
    "key_stage": ("yaml", GROUP + "    worker:\n      - momentum: {beat: 0.9}\n      - {kind: spectral, stps: 3}\n"),
    "key_stage_alone": ("yaml", GROUP + "    worker: {kind: momentum, beat: 0.9}\n"),
    "key_in_method": ("yaml", GROUP + "    method:\n      method: signmuon\n      upp: sign\n"),
    "key_channel": ("yaml", GROUP + "    up: {feedbck: ef21, compressor: scaled_sign}\n"),
    "key_feedback": ("yaml", GROUP + "    up:\n      feedback: {kind: ef14, dcay: 0.5}\n      compressor: sign\n"),
    "key_compressor": ("yaml", GROUP + "    up: {kind: sign, zros: keep}\n"),
    "key_of_nothing": ("yaml", GROUP + "    worker: [{kind: decay, lam: 0.1}, momentum]\n"),
    "key_scaling": ("yaml", FLOW + "method: muon, scaling: {kind: power, alhpa: 0.5}}\n"),
    "key_second_clip": ("yaml", GROUP + "    worker: [clip, momentum, {kind: clip, mst: 2.0}]\n"),
    "missing": ("yaml", "groups:\n  - {match: '*', method: muon}\n  - {match: '*', lr: 0.1}\n  - {}\n"),
    # values
    "types": (
        "yaml",
        "groups:\n  - match: 3\n    method: 4\n    lr: fast\n    weight_decay: true\n    tied: 1\n    optional: 2\n"
        "    sizes: [3]\n    name: 5\n    matrix: 3\n    ndim: x\n",
    ),
    "ranges": ("yaml", "groups:\n  - {lr: -0.1, weight_decay: -1, worker: {kind: momentum, beta: 1.5}}\n"),
    "not_finite": ("yaml", "groups:\n  - {lr: .nan, weight_decay: .inf, worker: {kind: momentum, beta: .nan}}\n"),
    "booleans_as_numbers": (
        "yaml",
        "groups:\n  - {lr: true, worker: [{kind: momentum, nu: false}, {kind: spectral, steps: true}]}\n",
    ),
    "union_nu": ("yaml", GROUP + "    worker:\n      - {kind: momentum, nu: beat}\n      - {kind: momentum, nu: -1}\n"),
    "union_schedule": (
        "yaml",
        GROUP + "    worker:\n      - {kind: spectral, schedule: polar7}\n"
        "      - {kind: spectral, schedule: [[1, 2], [3, 4, x]]}\n"
        "      - {kind: spectral, schedule: {lowr: 0.1}}\n      - {kind: spectral, schedule: 7}\n",
    ),
    "choice": ("yaml", GROUP + "    up: {kind: sign, zeros: cion}\n    down: ef14(scaled_sign)\n"),
    "text_number": ("yaml", "groups:\n  - {match: '*', method: muon, lr: '0.1'}\n"),
    # names
    "unknown_preset": ("yaml", FLOW + "method: signmoun}\n"),
    "unknown_stage": ("yaml", GROUP + "    worker: momentun spectral clip\n"),
    "other_registry": ("yaml", FLOW + "aggregate: spectral}\n  - {lr: 0.1, up: mean}\n  - {lr: 0.1, method: linf}\n"),
    "other_registry_call": ("yaml", GROUP + "    worker: sign\n    up: ef21(spectral)\n    scaling: mean\n"),
    # composition
    "dense_vote": ("yaml", GROUP + "    worker: momentum spectral\n    aggregate: majority_vote\n"),
    "ef21_sign": ("yaml", GROUP + "    worker: momentum\n    up: ef21(sign)\n"),
    "two_steps": ("yaml", GROUP + "    server: step\n    replica: step\n"),
    "no_step": ("yaml", GROUP + "    server: spectral\n    replica: []\n"),
    "step_in_worker": ("yaml", GROUP + "    worker: [momentum, step]\n"),
    "behind_step": ("yaml", GROUP + "    replica: [step, spectral]\n"),
    "coupled_server_step": (
        "yaml",
        GROUP + "    worker: [decay, momentum]\n    server: [spectral, step]\n    down: ef21(scaled_sign)\n",
    ),
    "compressed_model": ("yaml", GROUP + "    server: [spectral, step]\n    down: scaled_sign\n"),
    "preset_and_parts": ("yaml", FLOW + "method: signmuon, up: identity}\n"),
    # the text
    "exponent": ("yaml", "groups:\n  - {match: '*', method: muon, lr: 1e-3}\n"),
    "yaml11": ("yaml", "groups:\n  - {name: on, method: muon, lr: 1.e3, optional: no, weight_decay: 010}\n"),
    "yaml11_more": (
        "yaml",
        "groups:\n  - {name: 12:30, method: muon, lr: 1_000, weight_decay: 0x1F, matrix: 2001-01-01}\n",
    ),
    "twice": ("yaml", "groups:\n  - match: '*'\n    lr: 0.1\n    lr: 0.2\n    method: muon\n"),
    "merge_key": ("yaml", "groups:\n  - &a {match: '*', method: muon, lr: 0.1}\n  - {<<: *a, lr: 0.2, method: muon}\n"),
    "python_tag": ("yaml", 'groups: !!python/object/apply:os.system ["echo pwned"]\n'),
    "tags": ("yaml", "groups:\n  - {match: !!set {a, b}, method: muon, lr: !number 3.0}\n"),
    "bomb": ("yaml", "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
             "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n"),
    "knot": ("yaml", "groups: &a [*a]\n"),
    "deep": ("yaml", "groups: " + "[" * 5000 + "]" * 5000 + "\n"),
    "tab": ("yaml", "groups:\n\t- match: '*'\n"),
    "bracket": ("yaml", "groups:\n  - {match: ['*', method: muon, lr: 0.1}\n"),
    "bracket_at_the_end": ("yaml", "groups:\n  - {match: '*', method: muon,\n"),
    "colon": ("yaml", "groups:\n  - match: a: b\n"),
    "glob_without_quotes": ("yaml", "groups:\n  - {match: *, method: muon, lr: 0.1}\n"),
    "two_documents": ("yaml", "groups: []\n---\ngroups: []\n"),
    "odd_keys": ("yaml", "groups:\n  - {1: 2, [a]: 3, method: muon, lr: 0.1}\n"),
    "empty": ("yaml", "# nothing yet\n"),
    "no_groups": ("yaml", "groups: []\n"),
    "list": ("yaml", "- {match: '*', method: muon, lr: 0.1}\n"),
    "word": ("yaml", "signmuon\n"),
    "version": ("yaml", "version: 2\ngroups:\n  - {match: '*', method: muon, lr: 0.1}\n"),
    "version_text": ("yaml", "version: '1'\ngroups:\n  - {match: '*', method: muon, lr: 0.1}\n"),
    "plugin_absent": ("yaml", "plugins: [mine.py]\ngroups:\n  - {match: '*', lr: 0.1, worker: my_lmo}\n"),
    "json_syntax": ("json", '{\n  "groups": [\n    {"match": "*" "lr": 0.1}\n  ]\n}\n'),
    "json_key": ("json", '{\n\t"groups": [\n\t\t{"match": "*", "lr": 1e-3, "mthod": "muon"}\n\t]\n}\n'),
    "json_nan": ("json", '{"groups": [{"match": "*", "lr": NaN, "method": "muon"}]}\n'),
    "json_twice": ("json", '{"groups": [{"match": "*", "lr": 0.1, "lr": 0.2, "method": "muon"}]}\n'),
    "toml_syntax": ("toml", '[[groups]]\nmatch = "*"\nlr = 0.1.2\n'),
    "toml_key": (
        "toml",
        'version = 1\n[[groups]]\nmatch = "*"\nlr = "x"\nmethod = "muon"\n[[groups]]\nlr = 0.1\n'
        'worker = [\n  "momentum",\n  {kind = "clip", mst = 1.0},\n]\n[groups.scaling]\nkind = "power"\nalhpa = 3\n',
    ),
    "suffix": ("txt", "groups: []\n"),
}  # fmt: skip
#: Words that mean something to pydantic, PyYAML or Python, and nothing to the author of a spec.
JARGON = re.compile(
    r"Value error|pydantic|Input should|validation|Traceback|default factory|dictionary|<class|instance of|\bNone\b"
)


def agrees(name: str, said: str) -> None:
    """Compare with the snapshot, or write it."""
    assert not JARGON.search(said), said
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS"):
        path.write_text(said + "\n", encoding="utf-8")
    assert path.exists(), f"there is no {path}: SIGNA_UPDATE_SNAPSHOTS=1 writes it"
    assert said + "\n" == path.read_text(encoding="utf-8")


def refusal(source: Any, **how: Any) -> SpecError:
    """The error of a spec that must not load, within two seconds."""
    begun = time.process_time()
    with pytest.raises(SpecError) as caught:
        signa.Spec.load(source, **how)
    assert time.process_time() - begun < 2
    return caught.value


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    suffix, text = CASES[name]
    Path(f"spec.{suffix}").write_text(text, encoding="utf-8")
    error = refusal(f"spec.{suffix}")
    agrees(name, str(error))
    for problem in error.problems:
        assert problem.source == f"spec.{suffix}"
        if problem.line:  # the caret stands under something that is there
            line = text.splitlines()[problem.line - 1].replace("\t", " ")
            assert problem.text == line.rstrip() and line[problem.column - 1 :].strip()


def test_every_snapshot_has_its_case() -> None:
    extra = {"not_utf8", "missing_file", "too_long", "control_character"}
    others = {"set_lost", "set_bad_value", "plugin_fails", "plugin_syntax", "plugin_suffix", "plugin_missing"}
    routing = {"routing_parameter", "routing_group", "routing_order"}
    assert {path.stem for path in SNAPSHOTS.iterdir()} == CASES.keys() | extra | others | routing


def test_files_that_are_no_text() -> None:
    Path("spec.yaml").write_bytes(b"groups:\n  - {match: '\xff\xfe'}\n")
    agrees("not_utf8", str(refusal("spec.yaml")))
    agrees("missing_file", str(refusal("missing.yaml")))
    Path("spec.yaml").write_text("# " + "x" * (1 << 19))
    agrees("too_long", str(refusal("spec.yaml")))
    Path("spec.yaml").write_text("groups:\n  - {match: 'a\x00b'}\n")
    agrees("control_character", str(refusal("spec.yaml")))


VALID = {
    "groups": [
        {"name": "head", "match": "head.*", "method": "adamw", "lr": 3e-4},
        {"match": "*", "method": "ef21muonsign", "lr": 0.02},
    ]
}


def test_addresses_that_lead_nowhere() -> None:
    addresses = [
        "groups.2.lr", "groups.hed.lr", "groups.1.worker.momentun.beta", "groups.1.up.sign.zeros", "groups.1.up.zeros",
        "groups.1.lr.x", "groups.1.worker.0.beta.x", "",
    ]  # fmt: skip
    agrees("set_lost", "\n".join(str(refusal(VALID, set={address: 0.5})) for address in addresses))


def test_values_that_do_not_fit_their_address() -> None:
    changes = {
        "groups.head.lr": "fast", "groups.1.worker.momentum.beta": 2, "groups.1.worker.momentum.beat": 0.9,
        "groups.1.server.spectral.schedule": "polar7", "groups.1.up.compressor": "sgn", "groups.1.wroker": "momentum",
        "groups.1.down.scaled_sign.per": "rows", "pluginss": [],
    }  # fmt: skip
    for address, value in changes.items():
        found = [problem.address for problem in refusal(VALID, set={address: value}).problems]
        assert [part for part in found if part.split(".")[-1] == address.split(".")[-1]], (address, found)
    agrees("set_bad_value", str(refusal(VALID, set=changes)))


def test_plugins_that_fail() -> None:
    Path("fails.py").write_text("import math\n\nmath.sqrt(-1)\n")
    said = str(refusal(VALID, plugins=["fails.py"]))
    agrees("plugin_fails", re.sub(r"ValueError: .*", "ValueError: ...", said))
    Path("syntax.py").write_text("def f(:\n")
    said = str(refusal(VALID, plugins=["syntax.py"]))
    agrees("plugin_syntax", re.sub(r"1:\d+: .*|\n.*\^\n?", "1: ...", said))
    Path("notes.txt").write_text("x = 1\n")
    agrees("plugin_suffix", str(refusal(VALID, plugins=["notes.txt"])))
    agrees("plugin_missing", str(refusal(VALID, plugins=["absent.py"])))
    assert signa.Spec.load(VALID)  # the rest works


def test_what_needs_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    routed: dict[str, list[dict[str, Any]]] = {
        "routing_parameter": [{"ndim": 2, "method": "muon", "lr": 0.1}],
        "routing_group": [
            {"match": "1.wieght", "method": "muon", "lr": 0.1},
            {"match": "*", "method": "adamw", "lr": 0.1},
        ],
        "routing_order": [{"match": "*", "method": "muon", "lr": 0.1}, {"match": "0.*", "method": "adamw", "lr": 0.1}],
    }
    for name, groups in routed.items():
        with pytest.raises(RoutingError) as caught:
            signa.build({"groups": groups}, model)
        agrees(name, str(caught.value))


def test_a_tag_never_runs_anything() -> None:
    Path("spec.yaml").write_text('groups: !!python/object/apply:os.mkdir ["pwned"]\n')
    refusal("spec.yaml")
    Path("mine.py").write_text("open('pwned', 'w')\n")
    Path("spec.yaml").write_text("plugins: [mine.py]\ngroups:\n  - {match: '*', method: muon, lr: 0.1}\n")
    assert signa.Spec.load("spec.yaml").plugins == ("mine.py",)  # named, not needed, not run
    assert not Path("pwned").exists()
    signa.Spec.load("spec.yaml", plugins=["mine.py"])
    assert Path("pwned").exists()


def test_python_says_the_same() -> None:
    with pytest.raises(SpecError, match=r"^worker\.momentum\.beat: unknown key 'beat'\n  instead: did you mean 'beta'"):
        signa.method("signmuon", worker=[{"kind": "momentum", "beat": 0.9}])
    with pytest.raises(SpecError, match="unknown preset 'signmoun'"):
        signa.method("signmoun")
    with pytest.raises(SpecError, match="counts \\+-1 messages"):
        signa.method("signmuon", up="identity")
    with pytest.raises(ValueError, match="unknown stage 'foo'"):
        signa.Method(worker=["foo"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts \\+-1 messages"):
        signa.Method(aggregate="majority_vote")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'exact' takes no steps"):
        signa.lmos.get("spectral")(schedule="exact", steps=3)  # type: ignore[call-arg]
    for odd in (3, b"signmuon", None, [1], {1: 2}, {"groups": 3}, {"groups": [3]}, {"groups": None}, {None: None}):
        assert isinstance(refusal(odd), SpecError)
