"""A file imports lower floors only, and a few words have one home. See CONTRIBUTING.md for what the floors hold."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "signa"
FLOORS = (
    "errors kernels packing codec signal coins rule stage linalg scratch host storage address ordinary sources "
    "reading scalars toml_places",
    "lmo compressors aggregators stages feedback scaling",
    "channel sentence written presets",
    "transport routing rows part probe stack exact parcel overlap engine finite pace optim building saving checkpoints "
    "spec json_schema plugin show diagram theory",
    "lab flower integrations planner bench cli commands testing __main__",
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"}
LOADERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def part(file: str) -> str:
    """The module or sub-package on a floor that a file belongs to."""
    return file.split("/")[0].removesuffix(".py")


def imports(file: str) -> set[str]:
    """The dotted names that a file imports, wherever in it; those of signa start with ``signa``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["signa", *file.split("/")[:-1]]
            base = package[: len(package) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_lower_floors_only(file: str) -> None:
    assert part(file) in FLOOR, f"give '{part(file)}' a floor here and in CONTRIBUTING.md"
    own = FLOOR[part(file)]
    for name in imports(file):
        head, _, rest = name.partition(".")
        there = rest.split(".")[0]
        if head != "signa" or there in (part(file), "__version__"):
            continue
        assert there in FLOOR, f"{file} imports '{name}': take it from its own module, not from the package's top"
        assert FLOOR[there] <= own, f"{file} (floor {own}) imports {name} (floor {FLOOR[there]})"
        assert not FLOOR[there] == own == 1, f"{file} imports its sibling {name}"


@pytest.mark.parametrize("file", FILES)
def test_words_with_one_home(file: str) -> None:
    names = {name for name in imports(file) if name.split(".")[0] in LOADERS}
    assert not names, f"{file} imports {names}: data that is loaded must not run"
    transport = part(file) in ("transport", "checkpoint", "checkpoints")
    assert transport or not any(name.startswith("torch.distributed") for name in imports(file)), file
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        code = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call | ast.keyword) else ""
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        line = f"{file}:{getattr(node, 'lineno', 0)}: {code}"
        assert transport or code != "torch.distributed", line
        assert part(file) in ("cli", "commands") or called != "print", line
        assert called not in ("eval", "exec", "compile", "__import__"), line
        assert code not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "weights_only=False"), line


def test_every_floor_is_inhabited() -> None:
    """The rules above must not pass because a path or a name is wrong."""
    parts = {part(file) for file in FILES}
    assert len(FILES) > 40 and all(parts & set(names.split()) for names in FLOORS)
    assert {"signa.rule.Rule", "torch.Tensor"} <= imports("lmo/newton_schulz.py") | imports("feedback.py")
    assert any("signa.aggregators" in name for name in imports("transport/base.py"))
