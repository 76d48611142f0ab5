"""A page for everything that has a name, from what it declares about itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import signa
from signa.errors import Fault
from signa.lmo.schedules import SCHEDULES
from signa.presets import Preset
from signa.scaling import Scaling
from signa.show import Entry, catalogue, describe, dump_yaml
from signa.signal import SQRT_MIN, SQRT_MN, Signal

from . import spectra
from .words import code, markdown, prose, table

ROOT = Path(__file__).parents[2]
#: What each sort is called in the singular, and what it is.
SORTS = {
    "presets": ("preset", "A preset is a sentence with a name, a formula, a source and a learning rate to start from."),
    "lmos": ("LMO", "A linear minimisation oracle gives the best direction in a norm ball; it is a stage."),
    "stages": ("stage", "A stage maps one matrix signal to the next, on a worker, on the server or on a replica."),
    "compressors": ("compressor", "A compressor is what a channel, `up` or `down`, does to a message."),
    "feedbacks": ("feedback", "A feedback is what the two ends of a channel remember of what compression lost."),
    "aggregators": ("aggregator", "An aggregator makes one message of the workers' messages."),
    "scalings": ("scaling", "A scaling is the rule for a layer's learning-rate multiplier lam(m, n)."),
    "iterations": ("schedule", "A schedule is the Newton-Schulz coefficients of `spectral(schedule=...)`."),
}  # fmt: skip
_SENTENCES = {
    "lmos": "worker: [momentum, {}]",
    "compressors": "up: {}",
    "feedbacks": "up: {}(scaled_sign)",
    "aggregators": "aggregate: {}",
    "scalings": "scaling: {}",
    "iterations": "worker: [momentum, {{spectral: {{schedule: {}}}}}]",
}
INPUTS = {
    "a gradient": Signal(),
    "a polar factor": Signal("direction", "dense", SQRT_MIN),
    "signs": Signal("direction", "sign", SQRT_MN),
    "a model": Signal("model"),
}
SHAPES = ((64, 64), (768, 768), (3072, 768), (768, 3072))


def entries() -> dict[str, Entry]:
    """Everything that has a name, by the path of its page."""
    return {f"{entry.sort}/{entry.name}.md": entry for entry in catalogue()}


def pages() -> dict[str, str]:
    """Every page of the registries by its path: one for each sort, and one for each of its members."""
    known = entries()
    found = {path: page(entry) for path, entry in known.items()}
    for sort, (_, about) in SORTS.items():
        own = [entry for entry in known.values() if entry.sort == sort]
        rows = [(f"[`{entry.name}`]({entry.name}.md)", prose(_summary(entry))) for entry in own]
        found[f"{sort}/index.md"] = f"# {sort.capitalize()}\n\n{about}\n\n{table(('name', 'what it is'), rows)}\n"
    return found


def _summary(entry: Entry) -> str:
    """The entry's line; a preset says its formula."""
    return f"{entry.summary}: ``{entry.item.formula}``" if isinstance(entry.item, Preset) else entry.summary


def page(entry: Entry) -> str:
    """One page."""
    body = _preset if entry.sort == "presets" else _schedule if entry.sort == "iterations" else _part
    return "\n\n".join(filter(None, [f"# {entry.name}", *body(entry)])) + "\n"


def _spectrum(entry: Entry) -> list[str]:
    shown = spectra.view(entry.item, entry.sort)
    if shown is None:
        return []
    drawing = spectra.svg(shown, f"singular values in and out of {entry.name}")
    caption = f"Singular values relative to the largest: {prose(shown.text)}. The matrix is 48 × 32."
    return ["## What it does to a spectrum", f'<figure markdown="0">\n{drawing}\n</figure>', caption]


def _yaml(text: str) -> str:
    return f"```yaml\n{text.rstrip()}\n```"


def _part(entry: Entry) -> list[str]:
    """A component: its docstring, its fields, its Signal, its spectrum, its source."""
    cls, about = entry.item, describe(entry)
    fields = [(code(f["name"]), prose(f["values"]), code(f["default"])) for f in about["fields"]]
    return [
        f"*{SORTS[entry.sort][0]}*{{ .sort }}",
        markdown(cls.__doc__),
        "## In a spec",
        _yaml(_sentence(entry)),
        table(("field", "values", "default"), fields) if fields else "It has no fields.",
        *_signal(cls),
        *_spectrum(entry),
        "## Source",
        f"{_place(cls)}, class `{cls.__name__}`.",
    ]


def _sentence(entry: Entry) -> str:
    """A line of a spec with this part in it, where it may stand."""
    if entry.sort != "stages":
        return _SENTENCES[entry.sort].format(entry.name)
    before = "step, " if entry.item.takes == ("model",) else ""
    return f"{entry.item.places[-1 if before else 0]}: [{before}{entry.name}]"


def _place(cls: type[Any]) -> str:
    path = Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()
    first = inspect.getsourcelines(cls)[1]
    return f"[{path}, line {first}](repo:{path}#L{first})"


def _signal(cls: type[Any]) -> list[str]:
    """What it does to each kind of input, by its own word; a refusal is an answer too."""
    if issubclass(cls, Scaling):
        steps = [name for name, signal in INPUTS.items() if signal.role != "model"]
        rows = [(f"{m}×{n}", *(f"{spectra.example(cls)(INPUTS[s], m, n):.4g}" for s in steps)) for m, n in SHAPES]
        said = "Every singular value is multiplied by this one number, so there is no spectrum to draw."
        return ["## The multiplier", said, table(("fan out × fan in", *steps), rows)]
    if issubclass(cls, signa.Feedback):
        part = spectra.example(cls)
        rows = [
            (name, _said(s), _said(part.signal(s, signa.compressors.get("sign")().signal(s))))
            for name, s in INPUTS.items()
        ]
        return ["## Signal", table(("what is meant", "its Signal", "what the receiver delivers, through `sign`"), rows)]
    rows = []
    for name, signal in INPUTS.items():
        rows.append((name, _said(signal), *_answer(cls, signal)))
    head = ("put in", "its Signal", "put out")
    priced = issubclass(cls, signa.Compressor)
    return ["## Signal", table((*head, "bits per entry, 768×768") if priced else head, rows)]


def _answer(cls: type[Any], signal: Signal) -> tuple[str, ...]:
    part = spectra.example(cls)
    try:
        if signal.role not in getattr(cls, "takes", (signal.role,)):
            raise Fault(f"it takes a {' or a '.join(cls.takes)} alone")
        out = part.signal(signal)
    except Fault as fault:
        return (f"refused: {prose(fault.what)}",) + (("",) if issubclass(cls, signa.Compressor) else ())
    bits = (f"{part.bits(signal, 768, 768):.4g}",) if issubclass(cls, signa.Compressor) else ()
    return (_said(out), *bits)


def _said(signal: Signal) -> str:
    return code(repr(signal))


def _schedule(entry: Entry) -> list[str]:
    schedule = SCHEDULES[entry.name]
    rows = [(str(step), *(f"{value:.6g}" for value in row)) for step, row in enumerate(schedule.coefficients, start=1)]
    return [
        "*schedule*{ .sort }",
        f"`X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X`, {len(rows)} times, behind a normalisation: "
        f"{prose(schedule.normalisation)}.",
        "## In a spec",
        _yaml(_SENTENCES["iterations"].format(entry.name)),
        "## Coefficients",
        table(("step", "a", "b", "c"), rows),
        *_spectrum(entry),
        "## Source",
        f"{prose(schedule.source)}. In the code: [signa/lmo/schedules.py](repo:signa/lmo/schedules.py).",
    ]


def _preset(entry: Entry) -> list[str]:
    """A method: formula, sentence, trace, bits, spectrum, theory, the spec that it equals, source."""
    preset, about = entry.item, describe(entry, proofs=True)
    hops = [(code(h["hop"]), h["role"], h["alphabet"], code(h["norm"]), f"{h['bits']:.4g}") for h in about["trace"]]
    up, down = about["bits"]["up"], about["bits"]["down"]
    return [
        "*preset*{ .sort }",
        f"{prose(preset.summary)}.",
        f"```text\n{preset.formula}\n```",
        f"As a sentence (worker | up | aggregate | server | down | replica):\n\n```text\n{preset.method}\n```",
        "## Signal",
        table(("hop", "role", "alphabet", "norm", "bits per entry"), hops),
        f"For a 768×768 matrix, **bits per entry: {up:.4g} up, {down:.4g} down** (float32: 32 and 32). The step is "
        f"lr times lam = {about['lam']:.4g} (`{about['scaling']}`) times what stands before `step`. A learning rate "
        f"to start from: {preset.lr:g}.",
        "\n".join(f"- Advice: {prose(line)}" for line in about["advice"]),
        *_spectrum(entry),
        "## What is proven",
        *[_claim(claim) for claim in about["theory"]],
        "## As a spec",
        _yaml(dump_yaml(about["spec"])),
        "## Source",
        f"{prose(preset.source)}. The file: [signa/presets/{entry.name}.yaml](repo:signa/presets/{entry.name}.yaml).",
    ]


def _claim(claim: dict[str, Any]) -> str:
    """What the theory says, word by word; empty words are left out."""
    rows = [
        (key, prose(value if isinstance(value, str) else "; ".join(map(str, value))))
        for key, value in claim.items()
        if value
    ]
    return table(rows[0], rows[1:])


__all__ = ["SORTS", "pages"]
