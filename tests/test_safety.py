"""Nothing that is read is run: rules on our own source, each with a snippet that it must catch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("signa", "examples", "benchmarks", "docs")
FILES = {str(path.relative_to(ROOT)): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
FILES["run.py"] = ROOT / "run.py"

#: Modules that build objects from what they read.
LOADERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
#: Calls by their last names, and why not.
CALLS = {
    "eval": "runs a text",
    "exec": "runs a text",
    "compile": "makes code of a text",
    "__import__": "loads what a text names",
    "mktemp": "names a file that somebody else may make first: use mkstemp",
    "system": "gives a text to a shell",
    "popen": "gives a text to a shell",
    "extractall": "writes where the archive says",
    "all_gather_object": "unpickles what a peer sent",
    "gather_object": "unpickles what a peer sent",
    "scatter_object_list": "unpickles what a peer sent",
    "broadcast_object_list": "unpickles what a peer sent",
    "send_object_list": "unpickles what a peer sent",
    "recv_object_list": "unpickles what a peer sent",
    "unsafe_load": "builds objects from YAML",
    "full_load": "builds objects from YAML",
    "unsafe_load_all": "builds objects from YAML",
    "full_load_all": "builds objects from YAML",
}
#: Functions of these names that are harmless: a pattern, a model, a method of our own.
HARMLESS = {"re.compile", "torch.compile", "super().eval", "self.eval", "model.eval", "platform.system"}
YAML_LOADERS = {"SafeLoader", "_Loader", "CSafeLoader"}
#: Where code is loaded that the caller has named: plug-ins, entry points, --model, and the lazy attributes of packages.
IMPORTERS = {
    "signa/__init__.py": "its own modules, when they are first asked for",
    "signa/bench/peers.py": "the peers of its own table",
    "signa/testing/two_ranks.py": "the component that is tested, in the processes that test it",
    "docs/site/api.py": "our own modules, to list them",
    "signa/plugin.py": "files of --plugin",
    "signa/rule.py": "installed packages' entry points",
    "signa/commands/common.py": "--model MODULE:FUNCTION",
}


def problems(code: str, file: str = "signa/x.py") -> Iterator[str]:
    """Every line that breaks a rule, and which."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        found = ""
        if isinstance(node, ast.Import):
            found = _imported(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found = _imported([node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)])
            found = found or next(
                (f"imports '{a.name}', which {CALLS[a.name]}" for a in node.names if _from(node, a)), ""
            )
        elif isinstance(node, ast.Call):
            found = _called(node, file)
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__"):
            found = f"'{node.id}' {CALLS[node.id]}"
        elif isinstance(node, ast.Assert):
            found = _asserted(node, file)
        if found:
            yield f"{file}:{node.lineno}: {found}: {ast.unparse(node)[:100]}"


def _imported(names: object) -> str:
    bad = {name for name in names if set(name.split(".")) & LOADERS}  # type: ignore[attr-defined]
    return f"imports {', '.join(sorted(bad))}" if bad else ""


def _from(node: ast.ImportFrom, alias: ast.alias) -> bool:
    return alias.name in CALLS and (node.module or "").split(".")[0] in ("os", "tempfile", "yaml", "torch", "builtins")


def _called(node: ast.Call, file: str) -> str:
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if last in CALLS and name not in HARMLESS and not (last in ("eval", "compile") and "." in name and not node.args):
        return CALLS[last]
    if given.get("shell", "False") != "False":
        return "a shell reads the command"
    if last in ("load", "torch_load") and name.split(".")[0] == "torch" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True unpickles"
    if given.get("weights_only", "True") != "True":
        return "weights_only must be True in words"
    if given.get("allow_pickle", "False") != "False":
        return "NumPy unpickles objects"
    if name.startswith("yaml.") and last in ("load", "load_all", "compose", "compose_all", "parse", "scan"):
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "Loader")
        if loader.rpartition(".")[2] not in YAML_LOADERS:
            return "YAML without a safe loader"
    if last in ("import_module", "spec_from_file_location", "exec_module") or name.startswith("runpy."):
        constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
        if not constant and file not in IMPORTERS and not _of_one_package(node):
            return "imports what a value names"
    return ""


def _of_one_package(node: ast.Call) -> bool:
    """``import_module(f"flwr.{name}")``: the package stands in the source."""
    return bool(node.args) and ast.unparse(node.args[0]).startswith("f'flwr.")


def _asserted(node: ast.Assert, file: str) -> str:
    """Asserts vanish under -O. In signa one may narrow a type for mypy, ``x is not None`` or ``isinstance(x, T)``, and
    the laws of signa.testing are asserts."""
    narrows = isinstance(node.test, ast.Compare) and ast.unparse(node.test).endswith(" is not None")
    narrows = narrows or (isinstance(node.test, ast.Call) and ast.unparse(node.test.func) == "isinstance")
    if not file.startswith("signa/") or file.startswith("signa/testing/") or (narrows and node.msg is None):
        return ""
    return "an assert is no validation, it vanishes under python -O"


@pytest.mark.parametrize("file", FILES)
def test_source_is_safe(file: str) -> None:
    found = list(problems(FILES[file].read_text(encoding="utf-8"), file))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from pickle import loads",
        "import torch.utils.pickle",
        "import cloudpickle as c",
        "eval('1')",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "__import__(name)",
        "f = eval",
        "builtins.eval(x)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(x)",
        "yaml.compose(text)",
        "from yaml import unsafe_load",
        "yaml.load_all(x, Loader=yaml.UnsafeLoader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "f(weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "dist.all_gather_object(a, b)",
        "torch.distributed.broadcast_object_list(x)",
        "from torch.distributed import gather_object",
        "subprocess.run('ls', shell=True)",
        "subprocess.call(x, shell=flag)",
        "os.system('ls')",
        "os.popen('ls')",
        "from os import system",
        "tempfile.mktemp()",
        "from tempfile import mktemp",
        "importlib.import_module(name)",
        "import_module(spec['module'])",
        "runpy.run_path(file)",
        "tar.extractall(folder)",
        "loader.exec_module(m)",
        "assert isinstance(x, int), 'x'",
        "assert x > 0",
        "assert 0 < beta < 1, 'beta'",
    ],
)
def test_a_rule_catches_what_it_is_for(bad: str) -> None:
    assert list(problems(f"def f():\n    {bad}\n"))


@pytest.mark.parametrize(
    "good",
    [
        "re.compile('x')",
        "torch.compile(model)",
        "model.eval()",
        "self.model.eval()",
        "yaml.safe_load(text)",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "yaml.compose(text, Loader=yaml.SafeLoader)",
        "import_module('optuna')",
        "import_module(f'flwr.{name}')",
        "subprocess.run(['ls'])",
        "np.load(path)",
        "platform.system()",
        "np.load(path, allow_pickle=False)",
        "tempfile.mkstemp()",
        "dist.all_gather(a, b)",
    ],
)
def test_a_rule_catches_nothing_else(good: str) -> None:
    assert not list(problems(f"def f():\n    {good}\n"))


def test_every_exception_is_in_use() -> None:
    """An exception that nobody needs any more would let the next one through."""
    for file in IMPORTERS:
        code = FILES[file].read_text(encoding="utf-8")
        assert re.search(r"import_module|exec_module|entry_points", code), file
    assert len(FILES) > 150
