"""Two devices are held to one pattern of bits here: both multiply what is narrow as it is."""

import pytest


@pytest.fixture(autouse=True)
def _one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signa.linalg._multiplies_bfloat16", lambda: True)
