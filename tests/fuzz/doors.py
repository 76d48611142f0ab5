"""The entry points that read what somebody else wrote. A door takes a file and may raise documented errors only."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typer.main import get_command

import signa
from signa.checkpoints.archive import Archive
from signa.cli import app
from signa.commands.common import assignment, size_of
from signa.errors import Advice
from signa.lab.ablation import load_ablation, make_plan, parse_vary, read_archive
from signa.lab.ablation.book import read_plan
from signa.lab.records import run_named
from signa.lab.runner import resolve
from signa.lab.settings import Settings, load_experiment
from signa.planner import of_text
from signa.planner.machine import Machine
from signa.presets import presets
from signa.routing import Routing
from signa.rule import plain
from signa.spec import Spec
from signa.transport import Loopback
from signa.written import is_sentence, read_method

#: What a file must be called for its door.
NAMES = {"plan": "plan.json", "manifest": "manifest.json"}
Door = Callable[[Path], object]
BASE = {
    "groups": [
        {"name": "head", "match": "head.*", "method": "adamw", "lr": 3e-4},
        {"match": "*", "method": "ef21muonsign", "lr": 0.02},
    ]
}


def model() -> nn.Module:
    """A small model with a tied weight, a convolution, a scalar and a frozen part."""
    torch.manual_seed(0)
    body = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5), "conv": nn.Conv2d(2, 3, 3)})
    body["head"].weight = body["embed"].weight
    body["norm"] = nn.LayerNorm(4)
    body["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    body["alone"] = nn.ParameterDict({"scalar": nn.Parameter(torch.tensor(1.0))})
    return body


def text_of(file: Path) -> str:
    """A text as a command line would have it: bytes that are none become surrogates."""
    return file.read_bytes().decode("utf-8", "surrogateescape")


def spec(file: Path) -> None:
    """Load, and where that succeeds: what is written is read again as the same spec."""
    loaded = Spec.load(file)
    again = Spec.load(json.loads(loaded.dump("json")))
    assert again.id == loaded.id and again == Spec.load(json.loads(loaded.dump("json", resolved=False)))
    assert str(loaded) and loaded.admit(3) is None


def mapping(file: Path) -> Spec:
    """A mapping from Python, with what no file can hold: ``{"$py": "knot"}`` and so on stand for it."""
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        data = text_of(file)
    return Spec.load(_pythonic(data))


def build(file: Path) -> object:
    """Route a small model by a file, and for some build the optimizer and take a step."""
    loaded = Spec.load(file)
    routed = Routing.of(loaded, model())
    assert str(routed) and routed.bits()
    if sum(file.read_bytes()) % 4:
        return routed
    net = model()
    optimizer = signa.build(file, net, transport=Loopback(3))
    for worker in range(3):
        with optimizer.worker(worker):
            for p in net.parameters():
                p.grad = torch.ones_like(p) if p.requires_grad else None
    return optimizer.step()


def settings(file: Path) -> object:
    """What `signa train` and `signa federated` read."""
    return resolve(load_experiment(file))


def study(file: Path) -> object:
    """What `signa ablate` reads, and the plan that it makes of it."""
    base, section = load_ablation(file)
    return make_plan(base, section, name=file.stem)


def sentence(file: Path) -> object:
    """A sentence or a preset's name, as the command line takes it."""
    text = text_of(file)
    return read_method(text) if is_sentence(text) else Spec.load(text)


def assign(file: Path) -> object:
    """`--set ADDRESS=VALUE`."""
    return Spec.load(BASE, set=dict([assignment(text_of(file))]))


def vary(file: Path) -> object:
    """`--vary`, in a plan."""
    from signa.lab.ablation import Ablation

    axes = [parse_vary(text_of(file))]
    base = Spec.load({**BASE, "train": plain(Settings())})
    return make_plan(base, Ablation(tune={"points": 0}), name="x", axes=axes)  # type: ignore[arg-type]


def path(file: Path) -> object:
    """A text where a path is expected: of a spec, and of a plug-in."""
    text = text_of(file)
    if text.endswith(".py"):
        return Spec.load(BASE, plugins=[file.with_name("absent") / text])
    return Spec.load(text)


def plugin(file: Path) -> object:
    """A name of a plug-in that a spec asks for, and nobody passed."""
    group = {"match": "*", "lr": 0.1, "worker": "of_a_plugin"}
    return Spec.load({"plugins": [text_of(file)], "groups": [group]})


def run_name(file: Path) -> object:
    """A run's name: it is refused, or names a folder right inside the run directory."""
    name = run_named(text_of(file))
    assert (file.parent / name).parent == file.parent and Path(name).name == name
    return name


def shapes(file: Path) -> object:
    """A model by its shapes, in a file or in a word."""
    return of_text(str(file)) if file.suffix in (".yaml", ".json", ".toml") else of_text(text_of(file))


def size(file: Path) -> object:
    """`--shape MxN`."""
    return size_of(text_of(file))


def machine(file: Path) -> object:
    """A machine's rates."""
    return Machine.load(file)


def plan(file: Path) -> object:
    """The plan in an ablation's folder, which is what `signa report` reads first."""
    return read_plan(file.parent)


def archive(file: Path) -> object:
    """A committed study."""
    return read_archive(file)


def manifest(file: Path) -> object:
    """A checkpoint's manifest."""
    return Archive(file.parent)


def check(file: Path) -> None:
    """`signa check FILE`: it ends with 0 or 2, whatever is in the file."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = _command().main(["check", str(file), "--json"], prog_name="signa", standalone_mode=False)
    assert code in (0, 2)


@cache
def _command() -> Any:
    """The command line; Typer compiles its functions' annotations, which are no input, each time it makes one."""
    return get_command(app)


DOORS: dict[str, Door] = {
    door.__name__: door
    for door in (
        spec, mapping, build, settings, study, sentence, assign, vary, path, plugin, run_name, shapes, size, machine,
        plan, archive, manifest, check,
    )
}  # fmt: skip


def opened(door: str, file: Path) -> Callable[[], object]:
    """Going through a door with a file, to be tried."""

    def act() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Advice)
            DOORS[door](file)

    return act


def _pythonic(data: Any) -> Any:
    """The data with the Python objects that its marks stand for."""
    if isinstance(data, list):
        return [_pythonic(item) for item in data]
    if not isinstance(data, dict):
        return data
    if set(data) == {"$py"}:
        return _object(data["$py"])
    return {key: _pythonic(value) for key, value in data.items()}


def _object(word: Any) -> Any:
    if word == "knot":
        knot: list[Any] = []
        knot.append({"groups": knot, "method": knot})
        return knot
    if word == "deep":
        deep: Any = {}
        for _ in range(100_000):
            deep = {"method": deep}
        return deep
    if word == "none_key":
        return {None: 1, 3: 2, (1,): 3, b"x": 4}
    fixed: dict[str, Any] = {
        "huge": 10**5000, "bytes": b"\xff", "set": {1, 2}, "nan": float("nan"), "inf": float("inf"), "complex": 1j,
        "object": object(), "type": int, "function": print, "tensor": torch.ones(3), "model": nn.Linear(1, 1),
        "surrogate": "\ud800", "tuple": ("momentum", ("spectral",)), "path": Path("/"), "range": range(10**9),
        "rule": presets.get("muon").method.worker[0],
    }  # fmt: skip
    return fixed.get(str(word), word)
