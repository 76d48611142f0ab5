"""No public name without its contract: formula, shapes, errors and source, where each of them applies."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import signa
from docs.site.api import MODULES, public

REGISTRIES = ("lmos", "stages", "compressors", "aggregators", "feedbacks", "scalings")
PARTS = [(registry, name) for registry in REGISTRIES for name in getattr(signa, registry).names()]
#: A source is some words at least; whether they are true is for the review.
SOURCE = re.compile(r"Source: *[^\s.][^\n]{5,}")


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=lambda item: str(item))
def test_a_part_says_formula_shapes_and_source(registry: str, name: str) -> None:
    cls = getattr(signa, registry).get(name)
    text = cls.__doc__ or ""
    first = text.partition("\n\n")[0]
    assert re.search(r"``[^`]+``|\b1 for\b", text), "no formula"
    assert len(first.replace("\n", " ")) <= 240, "its first line is a line"
    assert SOURCE.search(text), "no source"
    if registry not in ("scalings", "feedbacks"):  # a number of two numbers; any shape
        assert "Shapes: (" in text, "no shapes"
    for field in cls.model_fields:
        said = re.search(rf"\b{re.escape(field)}\b|``{re.escape(field)}``", text)
        inherited = field in signa.LMO.model_fields
        assert field == "kind" or inherited or said, f"nothing about its field '{field}'"


def callables() -> Iterator[tuple[str, Any]]:
    """Every public function, and every class with its own public methods, by their full name."""
    seen: set[int] = set()
    for module_name in MODULES:
        for name, value in public(importlib.import_module(module_name)).items():
            if id(value) in seen or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            seen.add(id(value))
            yield f"{module_name}.{name}", value
            for key, item in vars(value).items() if inspect.isclass(value) else ():
                method = getattr(item, "fget", None) or getattr(item, "__func__", item)
                if key[0] != "_" and inspect.isfunction(method) and method.__module__ == value.__module__:
                    yield f"{module_name}.{name}.{key}", method


def raised(value: Any) -> list[str]:
    """What a function raises by a statement of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError, SyntaxError):
        return []
    function = tree.body[0]
    nested = {
        id(inner)
        for node in ast.walk(function)
        if node is not function and isinstance(node, ast.FunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    found = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and id(node) not in nested]
    return [ast.unparse(error) for error in found if error is not None]


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    missing = [name for name, value in callables() if not value.__doc__]
    assert missing == []


def test_every_public_function_names_the_errors_that_it_raises() -> None:
    silent = []
    for name, value in callables():
        errors = [] if inspect.isclass(value) else raised(value)
        abstract = all(error.startswith("NotImplementedError") for error in errors)
        if errors and not abstract and "Raises" not in (value.__doc__ or ""):
            silent.append(f"{name}: {errors[0][:60]}")
    assert silent == []


def test_every_error_says_when_it_is_raised() -> None:
    from signa import errors

    classes = [
        value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, signa.SignaError)
    ]
    assert len(classes) > 10
    for cls in classes:
        assert "__doc__" in vars(cls) and len(cls.__doc__ or "") > 30, cls
