"""A message names what it was given with the right article: "an aggregator", and never "a aggregator"."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa.aggregators import aggregators
from signa.compressors import Sign, compressors
from signa.errors import RegistryError, a_or_an
from signa.rule import Registry
from signa.stage import stages

ROOT = Path(__file__).parents[1] / "signa"
#: An article in front of something that is known only when the message is made.
LOOSE = re.compile(r"""\ban? \{[^}]*(?:what|__name__|__qualname__|kind|role|alphabet|base)\b[^}]*\}""")


@pytest.mark.parametrize(
    ("nouns", "article"),
    [
        ("stage compressor list dict Module str SignA Step RMSNorm2 UserDict uint8 Union", "a"),
        ("aggregator LMO int object ndarray nn.Module Adam OrderedDict SGD MLPNet Identity UnsharpMask", "an"),
    ],
)
def test_an_article_goes_by_the_sound(nouns: str, article: str) -> None:
    wrong = {"RMSNorm2"}  # spelled out, so "an"
    for noun in nouns.split():
        assert a_or_an(noun) == f"{'an' if noun in wrong else article} {noun}"


def test_every_sort_of_part_has_its_article() -> None:
    sorts: dict[str, Registry[Any]] = {"an aggregator": aggregators, "an LMO": signa.lmos}
    sorts |= {"a compressor": compressors, "a stage": stages}
    for said, registry in sorts.items():
        with pytest.raises(ValueError, match=f"expected {said}, got 3"):
            registry.parse(3)
    with pytest.raises(signa.SpecError, match="'sign' is not an aggregator"):
        signa.method("signmuon", aggregate=Sign())
    with pytest.raises(ValueError, match="'sign' is not an LMO"):
        signa.lmos.parse(Sign())
    with pytest.raises(RegistryError, match="is not an Aggregator: derive from it"):
        aggregators.register(Sign)


def test_what_was_passed_has_its_article() -> None:
    with pytest.raises(signa.SpecError, match="an int is no spec"):
        signa.build(3, nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got a Linear and an Adam"):
        model = nn.Linear(2, 2)
        signa.save_checkpoint("nowhere", model, torch.optim.Adam(model.parameters()))  # type: ignore[arg-type]


def test_no_message_has_an_article_of_its_own() -> None:
    files = sorted(ROOT.rglob("*.py"))
    found = [f"{file.name}: {line.strip()}" for file in files for line in file.read_text().splitlines()
             if LOOSE.search(line)]  # fmt: skip
    assert len(files) > 100 and not found, f"write a_or_an(...): {found}"
    assert LOOSE.search('f"is not a {self.what}"')  # or the line above finds nothing, whatever there is
