"""Inputs by number: ``made(seed, index)`` is always the same one, whatever was tried before it."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from signa.checkpoints.files import digest_of
from signa.presets import presets
from signa.spec import dump_yaml
from tests.fuzz import hostile
from tests.fuzz.schema import drawn

ROOT = Path(__file__).parents[2]
#: The doors, and how often each is tried. What takes a file of any text gets most.
SHARES = {
    "spec": 40, "mapping": 9, "build": 11, "settings": 8, "study": 9, "sentence": 4, "assign": 3, "vary": 2,
    "path": 2, "plugin": 1, "run_name": 1, "shapes": 2, "size": 1, "machine": 1, "plan": 2, "archive": 1,
    "manifest": 2, "check": 1,
}  # fmt: skip
TEXT_DOORS = ("sentence", "assign", "vary", "path", "plugin", "run_name", "size")
Tree = Any


@dataclass(frozen=True)
class Case:
    """A door, the suffix of the file that goes through it, and the file's bytes."""

    door: str
    suffix: str
    data: bytes


def made(seed: int, index: int) -> Case:
    """The input of a number."""
    rng = Random(f"{seed}/{index}")
    door = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if door in TEXT_DOORS:
        text = broken_text(rng, _words(rng, door)) if rng.random() < 0.7 else hostile.name(rng)
        return Case(door, ".txt", _bytes(text))
    if door in ("manifest", "plan", "archive", "machine", "mapping"):
        return Case(door, ".json", _json_file(rng, door))
    if rng.random() < 0.07:
        return _built(rng)
    tree = _tree(rng, door)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        tree = _mutated(rng, tree)
    suffix = rng.choices((".yaml", ".json", ".toml", ".yml", ".txt"), (60, 20, 15, 4, 1))[0]
    text = rendered(rng, tree, suffix)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        text = broken_text(rng, text)
    data = _bytes(text)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 3))):
        data = _broken_bytes(rng, data)
    return Case(door, suffix, data)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# What is valid --------------------------------------------------------------------------------------------------------


@cache
def shipped() -> tuple[Tree, ...]:
    """The specs of the examples and of the presets."""
    files = [*sorted((ROOT / "examples").rglob("*.yaml")), *sorted((ROOT / "signa/lab/data").glob("*.yaml"))]
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    for name in presets.names():
        found.append({"groups": [{"match": "*", "method": name, "lr": 0.1}]})
        parts = {part: str(said) for part, said in _parts(name).items() if said}
        found.append({"version": 1, "groups": [{"name": "all", "lr": 0.01, "weight_decay": 0.1, **parts}]})
    return tuple(found)


def _parts(name: str) -> dict[str, str]:
    words = str(presets.get(name).method).split("|")
    return dict(zip(("worker", "up", "aggregate", "server", "down", "replica"), (word.strip() for word in words)))


def _tree(rng: Random, door: str) -> Tree:
    tree = drawn(rng) if rng.random() < 0.35 else json.loads(json.dumps(rng.choice(shipped())))
    if door == "shapes":
        shapes = ("512x512*3", [4, 5], "7", "2x3x4", 5, "1x1*2")
        return {f"layer.{i}{rng.choice(('', '.*'))}": rng.choice(shapes) for i in range(rng.randint(1, 4))}
    if door == "study" and isinstance(tree, dict) and "ablate" not in tree and rng.random() < 0.7:
        vary = {"groups.0.lr": [0.1, 0.2]} if rng.random() < 0.5 else {"size": {"small": {"train.batch": 2}}}
        tree["ablate"] = {"vary": vary, "seeds": 2, "tune": {"points": 0}}
    return tree


def _words(rng: Random, door: str) -> str:
    name = rng.choice(presets.names())
    return {
        "sentence": lambda: rng.choice((str(presets.get(name).method), name)),
        "assign": lambda: rng.choice(("groups.1.lr", "groups.head.up.sign", "groups.1.server", "train.seed", name))
        + "=" + str(hostile.value(rng)),
        "vary": lambda: rng.choice(("groups.0.lr=0.1,0.2", "groups.1.lr=1;groups.0.lr=2|groups.1.lr=3;groups.0.lr=4")),
        "path": lambda: rng.choice((name, "spec.yaml", "mine.py", "a/b.json", "x.toml")),
        "plugin": lambda: "mine.py",
        "run_name": lambda: rng.choice(("my-run", "CON", "lpt1.txt", "a.b", "x-2")),
        "size": lambda: "120x4608",
    }[door]()  # fmt: skip


def _json_file(rng: Random, door: str) -> bytes:
    """A file that the project writes itself, or a mapping from Python: broken as a tree, then perhaps as a text."""
    if door == "mapping":
        tree = _tree(rng, door)
    else:
        tree = json.loads(_WRITTEN[door])
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        tree = _mutated(rng, tree, python=door == "mapping")
    text = rendered(rng, tree, ".json")
    if rng.random() < 0.3 and door != "mapping":
        text = rng.choice(
            (broken_text(rng, text), "[" * rng.choice((10, 100_000)), text[: rng.randrange(len(text) + 1)])
        )
    if door == "manifest":  # made whole again: a digest keeps damage out, and no attacker
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(text)
            if isinstance(content, dict):
                text = json.dumps({**content, "digest": digest_of(content)})
    return _bytes(text)


_WRITTEN = {
    "machine": '{"form": 1, "together": 1, "rates": {"AdamW": 1e9, "pack Signs": 2e9}}',
    "manifest": '{"format": 1, "step": 3, "workers": 1, "world": [[0]], "layout": {"a": "x"}, "digest": "", "files":'
    ' {"shared.pt": {"sha256": "0", "bytes": 0}, "rank-00000.pt": {"sha256": "0", "bytes": 0, "workers": [0]}}}',
    "plan": '{"signa": "0.1.0", "name": "x", "arms": [{"name": "a", "folder": "a", "changes": {}, "spec": {}, "rates":'
    ' [0.1], "choice": [0]}], "against": "a", "seeds": [0, 1], "sampler": {"kind": "grid"}, "sizes": [1], "tune":'
    ' {"points": 3}, "interval": {"kind": "t"}, "reach": 0.9, "keep_checkpoints": false}',
    "archive": '{"version": 1, "name": "x", "against": "a", "seeds": [0], "interval": {"kind": "t"}, "reach": 0.9,'
    ' "left": 0, "environments": [{}], "members": [{"name": "a", "spec": {}, "runs": [{"path": "r", "seed": 0, "rate":'
    ' null, "summary": {}, "records": [], "environment": 0}], "tried": [], "rate": null, "edge": false, "note": ""}]}',
}


_SPEC = '{"groups": [{"match": "*", "method": "signmuon", "lr": 0.1}], "train": {"steps": 2}}'
#: A text that every door lets through.
RIGHT = {
    **dict.fromkeys(("spec", "mapping", "build", "settings", "check"), _SPEC),
    "study": _SPEC[:-1] + ', "ablate": {"vary": {"groups.0.lr": [0.1, 0.2]}, "tune": {"points": 0}}}',
    "sentence": "momentum spectral | sign |", "assign": "groups.1.lr=0.1", "vary": "groups.0.lr=0.1,0.2",
    "path": "muon", "plugin": "mine.py", "run_name": "x", "shapes": '{"a": "4x4*2"}', "size": "4x4", **_WRITTEN,
}  # fmt: skip


def _built(rng: Random) -> Case:
    make, door = rng.choice(hostile.BUILT)
    text = make(rng, rng.choice((0, 1, 2, 7, 33, 65, 150, 600, 3000, 12_000, 60_000, 250_000)))
    text = text if len(text) <= 400_000 else text[:400_000]
    suffix, door = (".toml", "spec") if door == "toml" else (".yaml", door)
    if suffix == ".yaml" and rng.random() < 0.1:
        door = rng.choice(("settings", "study", "shapes", "check"))
    return Case(door, suffix, _bytes(text))


# What is broken -------------------------------------------------------------------------------------------------------


def _places(tree: Tree, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        found += _places(item, (*path, key))
    return found


def _at(tree: Tree, path: tuple[Any, ...]) -> Tree:
    for key in path:
        tree = tree[key]
    return tree


def _mutated(rng: Random, tree: Tree, *, python: bool = False) -> Tree:
    """A tree with one thing wrong, or one thing moved."""
    places = _places(tree)
    path = rng.choice(places)
    if not path:
        return hostile.value(rng) if rng.random() < 0.1 else tree
    parent, key = _at(tree, path[:-1]), path[-1]
    kind = rng.randrange(9)
    if kind == 0 and isinstance(parent, dict):
        word = str(key)
        at = rng.randrange(len(word) + 1)
        parent[rng.choice((word[:at] + word[at + 1 :], word + "s", word.upper(), rng.choice(hostile.TEXTS)))] = (
            parent.pop(key)
        )
    elif kind == 1:
        del parent[key]
    elif kind == 2:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {rng.choice(("kind", "method", "x")): parent[key]}
    elif kind == 3:
        parent[key] = json.loads(json.dumps(_at(tree, rng.choice(places)), default=str))  # from elsewhere
    elif kind == 4 and isinstance(parent, list):
        parent[key:key] = [parent[key]] * rng.choice((1, 2, 30, 300))
    elif kind == 5 and isinstance(parent, dict):
        parent[rng.choice(hostile.TEXTS)] = hostile.value(rng)
    elif kind == 6 and python:
        parent[key] = {"$py": rng.choice(hostile.PYTHON)}
    else:
        parent[key] = hostile.value(rng)
    return tree


def rendered(rng: Random, tree: Tree, suffix: str) -> str:
    """A tree as text of a format; NaN and the like as the format has them, or as it has not."""
    if suffix == ".json":
        return json.dumps(tree, indent=rng.choice((None, 1, "\t")), ensure_ascii=rng.random() < 0.5)
    if suffix == ".toml":
        lines = [f"{_toml_key(key)} = {_toml(item)}" for key, item in tree.items()] if isinstance(tree, dict) else []
        return "\n".join(lines or [_toml(tree)])
    try:
        return dump_yaml(tree) if rng.random() < 0.5 else yaml.safe_dump(tree, default_flow_style=rng.random() < 0.5)
    except (yaml.YAMLError, ValueError):
        return json.dumps(tree)


def _toml_key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(str(key))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else str(value)
    return "1979-05-27T07:32:00Z" if value is None else json.dumps(value)


def broken_text(rng: Random, text: str) -> str:
    """A text with something put in, taken out, cut off, or doubled."""
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 5, 20, 100)))
    kind = rng.randrange(9)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + text[end:]
    if kind == 2:
        return text[:end] + text[at:]
    if kind == 3:
        return text[:at] + rng.choice("\t\n\r \"'[]{}:,#&*!|>%@`?-=.0\\\x00\x7f\u2028\u0085é") + text[at:]
    lines = text.split("\n")
    line = rng.randrange(len(lines))
    if kind == 4:
        lines[line:line] = [lines[rng.randrange(len(lines))]]
    elif kind == 5:
        lines[line] = rng.choice((" ", "  ", "\t", "    ")) + lines[line]
    elif kind == 6:
        head, colon, _ = lines[line].partition(": ")
        lines[line] = head + (colon or ": ") + rng.choice(hostile.SCALARS)
    else:
        return text[:at] + rng.choice(hostile.SCALARS if kind == 7 else hostile.TEXTS) + text[at:]
    return "\n".join(lines)


def _broken_bytes(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 50))) + data[at:]
    if kind == 2:
        return data[:at]
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PK\x03\x04", b"\x80\x04\x95")) + data
