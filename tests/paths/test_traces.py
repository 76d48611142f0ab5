"""Every preset's trace is a contract: an algorithm cannot change unseen. SIGNA_UPDATE_SNAPSHOTS=1 rewrites the file."""

import os
from pathlib import Path

import signa

GOLDEN = Path(__file__).with_name("traces.txt")
SHAPE = (768, 768)
HEAD = """\
# What flows along the path of every preset, hop by hop, and every number that it starts with.
# address | role | alphabet | nominal Frobenius norm | logical bits per entry of a 768x768 matrix | fields
"""


def table(method: signa.Method) -> str:
    """A method's trace. At ``up`` stands what one worker sends, at ``down`` what a replica ends up with."""
    fields = dict(numbers(method))
    rows = [
        (
            hop.address, hop.signal.role, hop.signal.alphabet, str(hop.signal.norm or "-"),
            f"{method.bits_at(hop.address, *SHAPE):.7g}", fields.get(hop.address, ""),
        )
        for hop in method.trace()
    ]  # fmt: skip
    return "".join(
        " | ".join(f"{cell:<{width}}" for cell, width in zip(row, (15, 9, 11, 15, 8, 0))).rstrip(" |") + "\n"
        for row in rows
    )


def numbers(method: signa.Method) -> list[tuple[str, str]]:
    """The fields of what stands at each address, defaults included: a default is part of the algorithm too."""
    found = [(address, stage) for part in ("worker", "server", "replica") for address, stage in method.stages(part)]
    channels = [(way, (getattr(method, way).feedback, getattr(method, way).compressor)) for way in ("up", "down")]
    parts = [(address, (stage,)) for address, stage in found] + channels + [("aggregate", (method.aggregate,))]
    return [
        (address, ", ".join(f"{key}={value}" for rule in rules for key, value in rule if key != "kind"))
        for address, rules in parts
    ]


def test_traces() -> None:
    methods = {name: signa.method(name) for name in signa.presets.names()}
    now = HEAD + "".join(f"\n{name}: {method}".rstrip() + f"\n{table(method)}" for name, method in methods.items())
    if os.environ.get("SIGNA_UPDATE_SNAPSHOTS") == "1":
        GOLDEN.write_text(now, encoding="utf-8")
    then = GOLDEN.read_text(encoding="utf-8")
    assert now.splitlines() == then.splitlines(), "SIGNA_UPDATE_SNAPSHOTS=1 rewrites traces.txt, if this is meant"


def test_the_file_can_fail() -> None:
    """Another order, another number, another rule for zeros or ties, another memory: each shows."""
    text = GOLDEN.read_text(encoding="utf-8")
    assert table(signa.method("signmuon")) in text
    for changed in (
        signa.method("signmuon", worker="momentum linf"),
        signa.method("signmuon").replace({"worker.momentum.beta": 0.9}),
        signa.method("signmuon").replace({"worker.spectral.schedule": "jordan5"}),
        signa.method("signmuon").replace({"replica.step.decay": "cautious"}),
        signa.method("signmuon", up={"sign": {"zeros": "positive"}}),
        signa.method("signmuon", aggregate={"majority_vote": {"ties": "zero"}}),
        signa.method("signmuon", up="ef14(scaled_sign)", aggregate="mean"),
    ):
        assert table(changed) not in text
