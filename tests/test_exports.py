"""The public contract: what `signa` and its registries are called, and that each of it explains itself."""

import inspect
import re
from types import ModuleType
from typing import Any

import pytest

import signa

NAMES = [
    "LMO",
    "Advice", "Aggregator", "Channel", "Compressor", "Context", "Fault", "Feedback", "Group", "Loopback", "Method",
    "Norm", "ParamGroup", "Rule", "Scaling", "SignA", "SignaError", "Signal", "Spec", "SpecError", "Stage",
    "__version__", "aggregators", "build", "compressors", "feedbacks", "lmos", "load_checkpoint", "method",
    "param_groups", "presets", "replicate", "save_checkpoint", "scalings", "schema", "stages",
]  # fmt: skip
REGISTRIES = {
    "lmos": ["column", "frobenius", "l1", "linf", "nuclear", "row", "spectral"],
    "compressors": ["identity", "random_k", "rank", "scaled_sign", "sign", "stochastic_sign", "ternary", "top_k"],
    "aggregators": [
        "centered_clip", "majority_vote", "mean", "median", "trimmed_mean", "weighted_mean", "weighted_vote",
    ],
    "stages": [
        "adam", "attack_alie", "attack_constant", "attack_flip", "attack_inner_product", "attack_mimic", "attack_nan",
        "attack_omniscient", "attack_random", "attack_stale", "clip", "column", "decay", "frobenius", "l1", "linf",
        "momentum", "normalise", "nuclear", "project", "row", "spectral", "step",
    ],
    "feedbacks": ["ef14", "ef21", "none"],
    "scalings": ["legacy", "match_adamw", "mishra", "mup", "none", "power", "semantic", "unit_gain"],
    "presets": [
        "adamw", "dlion_mean", "dlion_vote", "doublesqueeze", "ef21muonsign", "ef21muonusign", "ef21signmuon",
        "ef_signsgd", "lion", "muon", "muon_worker", "muonsign", "muonusign", "muonusign_1bit", "nsgd", "sgd",
        "signmuon", "signmuon_polar", "signsgd",
    ],
}  # fmt: skip
PARTS = [(registry, name) for registry in ("stages", "compressors", "aggregators") for name in REGISTRIES[registry]]


def test_signa_exports_these_names_and_no_others() -> None:
    assert sorted(signa.__all__) == sorted(NAMES)
    public = {name for name, value in vars(signa).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public <= set(NAMES), "exported, but not in __all__"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", signa.__version__)


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_has_these_names_and_three_verbs(name: str) -> None:
    registry = getattr(signa, name)
    assert registry.names() == REGISTRIES[name]
    assert all(callable(getattr(registry, verb)) for verb in ("register", "unregister", "names", "get"))
    for kind in REGISTRIES[name] if name != "presets" else ():
        assert registry.get(kind).model_fields["kind"].default == kind


def explained(value: Any, name: str) -> list[str]:
    """The classes, functions and methods reachable from a public name that have no docstring of their own."""
    if isinstance(value, ModuleType):
        return [line for item in value.__all__ for line in explained(getattr(value, item), f"{name}.{item}")]
    missing = [] if getattr(value, "__doc__", None) else [name]
    if inspect.isclass(value):
        own = {key: getattr(item, "fget", None) or getattr(item, "__func__", item) for key, item in vars(value).items()}
        methods = {key: item for key, item in own.items() if inspect.isfunction(item) and key[0] != "_"}
        missing += [f"{name}.{key}" for key, item in methods.items() if item.__module__ == value.__module__
                    and not item.__doc__]  # fmt: skip
    return missing


def test_everything_public_has_a_docstring() -> None:
    names = [name for name in signa.__all__ if name != "__version__"]
    assert [line for name in names for line in explained(getattr(signa, name), name)] == []


@pytest.mark.parametrize(("registry", "name"), PARTS)
def test_a_component_names_its_formula_and_its_source(registry: str, name: str) -> None:
    text = getattr(signa, registry).get(name).__doc__ or ""
    assert re.search(r"``[^`]+``", text) or "$" in text, "no formula"
    assert "Source:" in text, "no source"


@pytest.mark.parametrize("name", REGISTRIES["presets"])
def test_a_preset_names_its_formula_and_its_source(name: str) -> None:
    preset = signa.presets.get(name)
    assert preset.summary and preset.source and preset.formula.startswith("X <- ")
