"""Specs as data: five ways to write one, exact round trips, stable ids, the JSON Schema, and no input that crashes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import signa
from signa import spec as spec_module
from signa.errors import RegistryError, SpecError
from signa.presets import presets
from signa.rule import Registry, Rule, plain
from signa.sources import KEY, Source, read, read_value
from signa.spec import ParamGroup, Spec, dump_yaml
from signa.stage import Context, State
from signa.toml_places import toml_places

ROOT = Path(__file__).parents[2]
SPEC_FILES = [*sorted((ROOT / "examples").rglob("*.yaml")), *sorted((ROOT / "signa" / "lab" / "data").glob("*.yaml"))]
SLOW_MACHINE = settings(deadline=None, suppress_health_check=list(HealthCheck))

DATA: dict[str, Any] = {
    "version": 1,
    "groups": [
        {"name": "head", "match": ["*embed*", "head.*"], "method": "adamw", "lr": 3e-4},
        {
            "ndim": ">=2",
            "worker": [{"kind": "momentum", "beta": 0.9, "nu": "beta"}, "spectral"],
            "up": {"feedback": {"ef14": {"decay": 0.5}}, "compressor": "scaled_sign"},
            "lr": 1e-5,
            "scaling": {"kind": "power", "alpha": 0.25},
            "matrix": "(three h) i -> three h i",
            "sizes": {"three": 3},
        },
        {"match": "*", "method": {"method": "muonsign", "down": "identity"}, "lr": 0.5, "optional": True},
    ],
    "train": {"steps": 3},
}
TOML = """\
version = 1
groups = [ {name = "head", match = ["*embed*", "head.*"], method = "adamw", lr = 3e-4}, # a comment, with ] and "
  {ndim = '>=2', lr = 1e-5, matrix = \"\"\"(three h) i -> three h i\"\"\", sizes.three = 3, worker = [
      {kind = "momentum", beta = 0.9, nu = "beta"},
      "spectral",  # an array may break lines, an inline table may not
   ], scaling = {kind = "power", alpha = 0.25}, up = {feedback = {ef14 = {decay = 0.5}}, compressor = "scaled_sign"}},
  {match = "*", method = {method = "muonsign", down = "identity"}, lr = 0.5, optional = true}]

[train]
steps = 3
"""
TOML_TABLES = """\
version = 1
[[groups]]
name = "head"
match = ["*embed*", "head.*"]
method = "adamw"
lr = 3e-4
[[groups]]
ndim = ">=2"
lr = 1e-5
matrix = \"\"\"(three h) i -> three h i\"\"\"
[groups.sizes]
three = 3
[groups.up]
compressor = "scaled_sign"
feedback.ef14.decay = 0.5
[[groups.worker]]
kind = "momentum"
beta = 0.9
nu = "beta"
[[groups.worker]]
kind = "spectral"
[ groups . "scaling" ]
kind = "power"
alpha = 0.25
[[groups]]
match = "*"
lr = 0.5
optional = true
[groups.method]
method = "muonsign"
down = "identity"
[train]
steps = 3
"""


def in_python() -> Spec:
    from signa.compressors import ScaledSign
    from signa.feedback import EF14
    from signa.lmo import Spectral
    from signa.scaling import Power
    from signa.stages import Momentum

    method = signa.Method(
        worker=(Momentum(beta=0.9, nu="beta"), Spectral()),
        up=signa.Channel(feedback=EF14(decay=0.5), compressor=ScaledSign()),
    )
    head = ParamGroup(name="head", match=("*embed*", "head.*"), method=signa.method("adamw"), lr=3e-4)
    middle = {"ndim": ">=2", "matrix": "(three h) i -> three h i", "sizes": {"three": 3}}
    body = ParamGroup(method=method, lr=1e-5, scaling=Power(alpha=0.25), **middle)  # type: ignore[arg-type]
    rest = ParamGroup(match=("*",), method=signa.method("muonsign", down="identity"), lr=0.5, optional=True)
    return Spec(groups=(head, body, rest), train={"steps": 3})


def test_every_way_of_writing_gives_the_same_spec(tmp_path: Path) -> None:
    texts = {
        "a.yaml": dump_yaml(DATA),
        "b.yml": json.dumps(DATA).replace("1e-05", "1.0e-05"),
        "c.json": json.dumps(DATA),
    }
    texts |= {"d.toml": TOML, "e.toml": TOML_TABLES, "f.yaml": "\ufeff" + dump_yaml(DATA).replace("\n", "\r\n")}
    loaded = [Spec.load(DATA), in_python(), Spec.load(in_python())]
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        loaded += [Spec.load(tmp_path / name), Spec.load(str(tmp_path / name))]
    for spec in loaded:
        assert spec == loaded[0] and spec.id == loaded[0].id and spec.canonical() == loaded[0].canonical()


def test_the_five_spellings_of_a_component() -> None:
    for up in ("ef21(scaled_sign)", {"feedback": "ef21", "compressor": "scaled_sign"}, " ef21 ( scaled_sign ) ",
               {"feedback": {"kind": "ef21"}, "compressor": {"scaled_sign": None}}):  # fmt: skip
        assert signa.method("ef21muonusign", up=up) == signa.method("ef21muonusign")
    for worker in ("momentum spectral", ["momentum", "spectral"], [{"kind": "momentum"}, {"spectral": {}}]):
        assert signa.method("signmuon", worker=worker) == signa.method("signmuon")
    assert signa.method("muon", server={"kind": "spectral"}) == signa.method("muon", server="spectral")


def there_and_back(spec: Spec, tmp_path: Path) -> None:
    for form in ("yaml", "json"):
        for resolved in (True, False):
            path = tmp_path / f"spec.{form}"
            path.write_text(spec.dump(form, resolved=resolved), encoding="utf-8")  # type: ignore[arg-type]
            back = Spec.load(path)
            assert back == spec and back.id == spec.id, path.read_text(encoding="utf-8")
            assert back.dump(resolved=True) == spec.dump(resolved=True)


@pytest.mark.parametrize("name", presets.names())
def test_presets_round_trip(name: str, tmp_path: Path) -> None:
    there_and_back(Spec.load(name), tmp_path)
    spec = Spec.load(name)
    spec.save(tmp_path / "saved.yaml")
    assert Spec.load(tmp_path / "saved.yaml") == spec == spec.replace({})
    with pytest.raises(SpecError, match="not written as TOML"):
        spec.save(tmp_path / "saved.toml")


def test_ids_are_pinned() -> None:
    """An id names a spec in run folders and checkpoints: it may change only with what a preset computes."""
    ids = {name: Spec.load(name).id for name in ("signmuon", "ef21muonsign")}
    assert ids == {"signmuon": "092b2df13ea3", "ef21muonsign": "13dd303c7561"}
    canonical = Spec.load({"groups": [{"match": "*", "method": "sgd", "lr": 0.1}]}).canonical()
    assert canonical.startswith('{"groups":[{"lr":0.1,"match":["*"],"matrix":"","method":{"aggregate":{"kind":"mean"},')


def test_train_plugins_and_order_of_keys_leave_the_id_alone() -> None:
    spec = Spec.load(DATA)
    turned = {key: DATA[key] for key in reversed(DATA)}
    assert Spec.load(turned).id == spec.id == Spec.load({**DATA, "train": {}, "plugins": "x.py"}).id
    assert spec.replace({"groups.0.lr": 3.1e-4}).id != spec.id


# Hypothesis -----------------------------------------------------------------------------------------------------------


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values for a field, from its JSON Schema."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([values(branch) for branch in schema["anyOf"] if "$ref" not in branch])
    low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 5))
    if schema.get("type") == "number":
        return st.floats(low, high, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema)
    return {"integer": st.integers(low, high), "boolean": st.booleans()}.get(schema.get("type", ""), st.just("polar6"))


@st.composite
def rules(draw: st.DrawFn, registry: Registry[Any], *names: str) -> Rule:
    """A component with some of its fields drawn."""
    cls = registry.get(draw(st.sampled_from(names or registry.names())))
    properties = cls.model_json_schema()["properties"]
    fields = draw(st.lists(st.sampled_from(sorted(set(properties) - {"kind"}) or ["kind"]), unique=True, max_size=3))
    try:
        return cls.model_validate({name: draw(values(properties[name])) for name in fields})
    except ValidationError:
        return cls()


CHANNELS = st.one_of(
    st.builds(lambda c: {"compressor": c}, rules(signa.compressors.compressors)),
    st.builds(lambda f: {"feedback": f, "compressor": "scaled_sign"}, rules(signa.feedbacks)),
)
NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["1e-3", "no", "on", "010", "0x1f", "1_0", "null", "~", "12:30", "2001-01-01", "<<", "=", "é ☃"]),
)  # fmt: skip


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    """A group, valid or not."""
    worker = st.lists(rules(signa.stages.stages, "momentum", "spectral", "clip", "linf", "row", "adam"), max_size=3)
    up = draw(CHANNELS)
    kind = getattr(up["compressor"], "kind", "")
    aggregate = draw(
        rules(signa.aggregators.aggregators, *(["majority_vote"] if kind == "sign" else ["mean", "median"]))
    )
    parts = {
        "worker": draw(worker),
        "up": up,
        "aggregate": aggregate,
        "server": draw(worker),
        "down": draw(CHANNELS),
        "replica": [*draw(worker), draw(rules(signa.stages.stages, "step"))],
    }
    preset = st.builds(lambda name: {"method": name}, st.sampled_from(presets.names()))
    group = draw(st.one_of(st.just(parts), preset))
    return group | {
        "name": draw(NAMES),
        "match": draw(st.lists(NAMES, max_size=3)),
        "lr": draw(st.floats(0, 1e30)),
        "weight_decay": draw(st.floats(0, 10)),
        "scaling": draw(rules(signa.scalings)),
        "sizes": draw(st.dictionaries(NAMES, st.integers(1, 9), max_size=2)),
        "tied": draw(st.sampled_from([None, True, False])),
        "ndim": draw(st.sampled_from(["", 2, ">=2", "< 3"])),
    }


@given(st.lists(groups(), min_size=1, max_size=3))
@settings(SLOW_MACHINE, max_examples=60)
def test_generated_specs_round_trip(tmp_path_factory: pytest.TempPathFactory, data: list[dict[str, Any]]) -> None:
    try:
        spec = Spec.load({"groups": data})
    except SpecError:
        reject()
    there_and_back(spec, tmp_path_factory.mktemp("spec"))


TEXTS = [dump_yaml(DATA), *(path.read_text(encoding="utf-8") for path in SPEC_FILES)]
SNIPPETS = st.one_of(
    st.sampled_from([
        "\n", "  ", "\t", ":", ": ", "- ", "[", "]", "{", "}", ",", "'", '"', "&a ", "*a", "<<: *a", "!!python/name:os",
        "!", "#", "|", ">", "%", "@", "`", "---\n", "...\n", "? ", "~", ".nan", "1e-3", "no", "\x00", "\x85", "\u2028",
        "\ufeff", "kind", "method: muon", "worker: ", "up: sign\n", "9" * 5000, "1e999", "ef21(", "ef21(sign)",
        "polar6", "[[[[[[", "momentum spectral",
    ]),
    st.text(max_size=4),
)  # fmt: skip


@given(
    st.sampled_from(TEXTS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), SNIPPETS), min_size=1, max_size=4)
)
@settings(SLOW_MACHINE, max_examples=150)
def test_mutated_texts_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[tuple[float, int, str]]
) -> None:
    for place, cut, snippet in edits:
        at = int(place * len(text))
        text = text[:at] + snippet + text[at + cut :]
    begun = time.process_time()
    for suffix in ("yaml", "toml", "json"):
        path = tmp_path_factory.mktemp("spec") / f"spec.{suffix}"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            assert Spec.load(path)
        except SpecError as error:
            assert str(error)
    assert time.process_time() - begun < 3


@given(st.text(max_size=30))
@settings(SLOW_MACHINE, max_examples=200)
def test_no_value_or_name_crashes(text: str) -> None:
    read_value(text)
    try:
        Spec.load("signmuon", set={"groups.3.method": text, text: 3})
    except SpecError as error:
        assert str(error)


# Changing a spec ------------------------------------------------------------------------------------------------------


def test_replace_by_address() -> None:
    spec = Spec.load(DATA)
    changes = {
        "groups.head.lr": 0.25, "groups.1.worker.momentum.beta": 0.5, "groups.1.up.ef14.drain": 0.75,
        "groups.1.up.scaled_sign.per": "row", "groups.1.method.aggregate": "median",
        "groups.2.replica.step.decay": "cautious", "groups.1.worker.1.schedule": "jordan5", "train.steps": 7,
        "groups.1.scaling.beta": 1,
    }  # fmt: skip
    new = spec.replace(changes)
    head, body, rest = new.groups
    assert (head.lr, body.method.worker[0].beta, body.method.up.feedback.drain) == (0.25, 0.5, 0.75)  # type: ignore[attr-defined]
    assert (body.method.up.compressor.per, body.method.aggregate.kind) == ("row", "median")  # type: ignore[attr-defined]
    assert (rest.method.replica[-1].decay, new.train["steps"]) == ("cautious", 7)  # type: ignore[attr-defined]
    assert (body.method.worker[1].schedule, body.method.worker[1].steps) == ("jordan5", 5)  # type: ignore[attr-defined]
    assert body.scaling == signa.scalings.parse({"kind": "power", "alpha": 0.25, "beta": 1.0})
    assert spec == Spec.load(DATA) and new == Spec.load(DATA, set=changes)


def test_a_change_may_lead_into_an_earlier_one() -> None:
    changes = {"groups.1.method": "signmuon", "groups.1.worker.momentum.beta": 0.5}
    changes |= {"groups.1.up": "sign", "groups.1.up.sign.zeros": "keep"}
    method = Spec.load(DATA).replace(changes).groups[1].method
    assert str(method) == "momentum(beta=0.5) spectral | sign(zeros=keep) | majority_vote |  | identity | step"


def test_addresses_reach_every_value() -> None:
    """Whatever a resolved spec holds, its address changes it; the same address is what an error names."""
    spec = Spec.load("ef21muonsign")

    def leaves(node: Any, address: str) -> list[tuple[str, Any]]:
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
        below = [leaf for key, value in pairs for leaf in leaves(value, f"{address}.{key}" if address else str(key))]
        return below or ([(address, node)] if not isinstance(node, dict | list) else [])

    found = leaves({"groups": plain(spec.groups)}, "")
    assert len(found) > 100
    for address, value in found:
        assert spec.replace({address: value}) == spec, address
        with pytest.raises(SpecError) as caught:
            spec.replace({address: {"no": "such", "thing": 1}})
        ways = [problem.address.split(".") for problem in caught.value.problems]
        last = address.split(".")[-1]
        assert last in ("kind", "match", "0") or any(last in way for way in ways), (address, ways)


def test_copies_are_validated() -> None:
    spec = Spec.load(DATA)
    assert spec.model_copy(update={"train": {}}).train == {} and spec.model_copy() == spec
    with pytest.raises(ValidationError):
        spec.groups[0].model_copy(update={"lr": -1})
    with pytest.raises(ValidationError):
        spec.groups[1].method.model_copy(update={"aggregate": "majority_vote"})
    with pytest.raises(ValidationError):
        spec.groups[0].lr = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2E5", 2e5), (".5", 0.5), ("010", 10.0), ("no", "no"), ("[1e-3, x]", [1e-3, "x"]), ("", None),
     ("{kind: sign}", {"kind": "sign"}), ("ef21(sign)", "ef21(sign)"), ("a: b: c", "a: b: c"), ("*", "*")],
)  # fmt: skip
def test_values_behind_set(text: str, value: Any) -> None:
    assert read_value(text) == value


# Versions, schema, registries -----------------------------------------------------------------------------------------


def test_migrations_run_before_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_zero(data: dict[str, Any]) -> dict[str, Any]:
        return {"version": 1, "groups": data["rules"]}

    old = {"version": 0, "rules": DATA["groups"]}
    with pytest.raises(SpecError, match="specs of version 0 are not understood"):
        Spec.load(old)
    monkeypatch.setitem(spec_module.MIGRATIONS, 0, from_zero)
    assert Spec.load(old).id == Spec.load(DATA).id


def schema_errors(data: Any) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dev extra, not in test")
    validator = jsonschema.Draft202012Validator(signa.schema())
    return [error.message for error in validator.iter_errors(json.loads(json.dumps(data)))]


def test_the_schema_accepts_what_is_shipped() -> None:
    for path in SPEC_FILES:
        data = {key: value for key, value in read(path)[0].items() if key != "ablate"}
        assert "spec" in data or schema_errors(data) == []  # an ablation may name its spec
    for name in presets.names():
        for resolved in (True, False):
            assert schema_errors(plain(Spec.load(name), resolved=resolved)) == []
    assert schema_errors(DATA) == []


@pytest.mark.parametrize(
    "group",
    [{}, {"lr": 0.1}, {"method": "signmoun", "lr": 0.1}, {"method": "muon", "lr": -1}, {"method": "muon"},
     {"method": "muon", "lr": 0.1, "mtch": "*"}, {"worker": "momentun", "lr": 0.1}, {"up": "ef22(sign)", "lr": 0.1},
     {"worker": [{"kind": "momentum", "beat": 1}], "lr": 0.1}, {"up": {"feedbck": "ef21"}, "lr": 0.1},
     {"worker": [{"beta": 0.9}], "lr": 0.1}],
)  # fmt: skip
def test_the_schema_refuses_what_the_loader_refuses(group: dict[str, Any]) -> None:
    assert schema_errors({"groups": [group]})
    with pytest.raises(SpecError):
        Spec.load({"groups": [group]})


def test_late_registrations_are_known_at_once(tmp_path: Path) -> None:
    class Twice(signa.Stage):
        """``2 x``."""

        kind: Literal["twice"] = "twice"

        def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
            return 2 * x

        def signal(self, s: signa.Signal) -> signa.Signal:
            return s

    data = {"groups": [{"match": "*", "worker": "twice momentum", "lr": 0.1}]}
    with pytest.raises(SpecError, match="unknown stage 'twice'"):
        Spec.load(data)
    signa.stages.register(Twice)
    presets.register("doubled", signa.method("muon", worker="twice momentum"), lr=0.5)
    try:
        there_and_back(Spec.load(data), tmp_path)
        there_and_back(Spec.load("doubled"), tmp_path)
        assert "twice" in json.dumps(signa.schema()) and "doubled" in json.dumps(signa.schema())
        assert schema_errors(data) == [] == schema_errors({"groups": [{"method": "doubled", "lr": 0.1}]})
        with pytest.raises(RegistryError, match="registered already"):
            presets.register("Doubled", signa.method("muon"))
        with pytest.raises(RegistryError, match="cannot name a preset"):
            presets.register("two words", signa.method("muon"))
        with pytest.raises(SpecError, match="lr: expected a number > 0"):
            presets.register("doubled_2", signa.method("muon"), lr=0.0)
    finally:
        signa.stages.unregister("twice")
        presets.unregister("doubled")


def test_plugins_load_only_when_the_caller_says_so(tmp_path: Path) -> None:
    plugin = tmp_path / "halves.py"
    plugin.write_text(
        "from typing import Literal\nimport signa\n@signa.scalings.register\n"
        "class Half(signa.Scaling):\n    '''One half.'''\n"
        "    kind: Literal['half_of_it'] = 'half_of_it'\n    def sign(self, m, n): return 0.5\n"
    )
    data = {
        "plugins": ["halves.py"],
        "groups": [{"match": "*", "method": "signsgd", "lr": 0.1, "scaling": "half_of_it"}],
    }
    with pytest.raises(SpecError, match=r"were not passed: halves\.py"):
        Spec.load(data)
    try:
        spec = Spec.load(data, plugins=[plugin])
        assert spec == Spec.load(data, plugins=iter([str(plugin)])) and spec.groups[0].scaling.kind == "half_of_it"
        assert "half_of_it" in json.dumps(signa.schema())
        plugin.write_text(plugin.read_text() + "\n")
        with pytest.raises(SpecError, match="changed after it was loaded"):
            Spec.load(data, plugins=[plugin])
    finally:
        signa.scalings.unregister("half_of_it")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("EF21-MuonSign", "ef21muonsign"), ("SignMuon", "signmuon"), ("muonserver", "muon"), ("MuonLMO-Server", "muon"),
     ("Adam", "adamw"), ("muonUsign-1bit", "muonusign_1bit"), ("signum", "signsgd")],
)  # fmt: skip
def test_spellings_of_presets(spelling: str, name: str) -> None:
    assert presets.canonical(spelling) == name
    assert signa.method(spelling) == signa.method(name)


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TOML, TOML_TABLES])
def test_toml_places(text: str) -> None:
    """The place of every value is where its text stands, and that of every key where its name stands."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    data, lines, places = tomllib.loads(text), text.splitlines(), toml_places(text, KEY)

    def visit(node: Any, path: tuple[Any, ...]) -> None:
        line, column, width = places[path]
        shown = lines[line - 1][column - 1 : column - 1 + width]
        if path and isinstance(path[-1], str):
            at, first, wide = places[(*path, KEY)]
            assert path[-1] in lines[at - 1][first - 1 : first - 1 + wide], path
        if isinstance(node, dict):
            for key, value in node.items():
                visit(value, (*path, key))
        elif isinstance(node, list):
            for index, value in enumerate(node):
                visit(value, (*path, index))
        elif isinstance(node, str):
            assert shown.strip("'\"") == node, (path, shown)
        else:
            assert json.loads(shown) == node, (path, shown)

    visit(data, ())


def test_words_and_keys_have_places(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("groups:\n  - worker: momentum  spectral\n    up:\n", encoding="utf-8")
    data, source, problems = read(path)
    assert isinstance(source, Source) and problems == [] and data["groups"][0]["up"] is None
    assert source.marks[("groups", 0, "worker", 1)] == (2, 23, 8)
    assert source.marks[("groups", 0, "up")] == source.marks[("groups", 0, "up", KEY)] == (3, 5, 2)


def test_the_documents_specs_load() -> None:
    """Every YAML block of docs/specs.md is a whole spec."""
    import yaml

    blocks = (ROOT / "docs" / "specs.md").read_text(encoding="utf-8").split("```yaml\n")[1:]
    assert len(blocks) > 3
    for block in blocks:
        data = yaml.safe_load(block.split("```")[0])
        assert schema_errors(data) == [] and Spec.load(data)
