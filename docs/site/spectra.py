"""What a part does to a spectrum: singular values in, singular values out, as an SVG for the middle of a page."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import torch
from torch import Tensor, nn

import signa
from signa.errors import Fault
from signa.lmo import Spectral

#: The matrix that every part is shown: 48 x 32, singular values from 1 to 0.001, evenly spaced as logarithms.
M, N, FLOOR = 48, 32, 1e-4
WORKERS, DRAWS, NOISE = 5, 20, 0.02
#: Fields of the examples: what has no default, and balls small enough to show what happens outside of them.
EXAMPLES = {
    "weighted_mean": {"weights": (1.0, 1.0, 1.0, 1.0, 4.0)},
    "clip": {"norm": "linf", "most": 0.05},
    "project": {"radius": 0.1},
}
# Wong, Nature Methods 8, 441 (2011): told apart by colour-blind readers, on light and on dark.
COLOURS = ("#56B4E9", "#D55E00", "#009E73")


@dataclass(frozen=True)
class View:
    """Spectra by what they are of, and a sentence that says how they came about."""

    curves: dict[str, Tensor]
    text: str


def gradient() -> Tensor:
    """The matrix: random bases, known singular values."""
    tosses = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(M, N, generator=tosses, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(N, N, generator=tosses, dtype=torch.float64))[0]
    return (left * torch.logspace(0, -3, N, dtype=torch.float64) @ right.mT).float()


def draws(count: int) -> list[Tensor]:
    """The matrix with other noise each time, whose largest singular value is about a quarter of the matrix' own."""
    tosses = torch.Generator().manual_seed(1)
    return [gradient() + NOISE * torch.randn(M, N, generator=tosses) for _ in range(count)]


def view(item: object, sort: str) -> View | None:
    """The spectra of a part, or None for what is no map of matrices."""
    make = {"lmos": _stage, "stages": _stage, "compressors": _compressor, "aggregators": _aggregator}
    make |= {"feedbacks": _feedback, "presets": _preset, "iterations": _iteration}
    return make[sort](item) if sort in make else None


def example(cls: type[signa.Rule]) -> signa.Rule:
    """The part, with defaults but where they show nothing."""
    return cls(**EXAMPLES.get(cls.model_fields["kind"].default, {}))


def _stage(cls: type[signa.Stage]) -> View:
    stage = example(cls)
    ctx = signa.Context(lr=1.0, weight_decay=0.5, parameter=draws(1)[0] * 0.1)
    state = stage.init(torch.zeros(M, N))
    inputs = draws(DRAWS) if state else [gradient()]
    for x in inputs:
        out = stage(x.clone(), state, ctx)
    what = f"the last of {DRAWS} noisy gradients" if state else "a gradient"
    return View({"in": inputs[-1], "out": out}, f"{what}, and what ``{stage}`` puts out")


def _compressor(cls: type[signa.Compressor]) -> View:
    x, rule = gradient(), example(cls)
    out = rule(x.clone(), signa.Context())
    return View({"x": x, "C(x)": out}, f"a gradient x and its image under ``{rule}``; {_nearness(x, out)}")


def _nearness(x: Tensor, out: Tensor) -> str:
    lost = float((out - x).square().sum() / x.square().sum())
    angle = float((x * out).sum() / (x.norm() * out.norm()))
    return f"the cosine of their angle is {angle:.2f}, and |C(x) - x|² / |x|² = {lost:.3g}"


def _aggregator(cls: type[signa.Aggregator]) -> View:
    rule, messages, what = example(cls), torch.stack(draws(WORKERS)), "noisy gradients"
    try:
        rule.signal(signa.Signal())
    except Fault:
        messages, what = messages.sign(), "signs of noisy gradients"
    out = rule(messages, torch.ones(WORKERS, dtype=torch.bool), signa.Context())
    return View(
        {"one message": messages[0], "aggregate": out},
        f"{WORKERS} workers send {what}, and ``{rule}`` makes one matrix of them",
    )


def _feedback(cls: type[signa.Feedback]) -> View:
    memory, x, compress = example(cls), gradient(), signa.compressors.get("scaled_sign")()
    sender, receiver = memory.sender(torch.zeros(M, N)), memory.receiver(torch.zeros(M, N))
    total = torch.zeros(M, N)
    for _ in range(DRAWS):
        total += memory.decode(memory.encode(x, compress, sender, signa.Context()), receiver)
    text = f"a gradient sent {DRAWS} times through ``{memory.kind}(scaled_sign)``, and the mean of what arrives"
    return View({"sent": x, "arrived, mean": total / DRAWS}, text)


def _preset(preset: signa.presets.Preset) -> View:
    layer = nn.Linear(N, M, bias=False)
    nn.init.zeros_(layer.weight)
    spec = {"groups": [{"match": "*", "method": preset.method, "lr": preset.lr}]}
    opt = signa.build(spec, layer, transport=signa.Loopback(WORKERS))
    noisy = draws(DRAWS * WORKERS)
    for step in range(DRAWS):
        before, now = layer.weight.detach().clone(), noisy[step * WORKERS : (step + 1) * WORKERS]
        for j, g in enumerate(now):
            with opt.worker(j):
                (layer.weight * g).sum().backward()
        opt.step()
        opt.zero_grad()
    text = f"{WORKERS} workers with noise of their own, step {DRAWS} of {DRAWS}"
    return View({"mean gradient": torch.stack(now).mean(0), "step": before - layer.weight.detach()}, text)


def _iteration(schedule: object) -> View:
    from signa.lmo.schedules import SCHEDULES

    name = next(name for name, known in SCHEDULES.items() if known is schedule)
    x = gradient()
    return View(
        {"in": x, "out": Spectral(schedule=name).direction(x)},
        f"a gradient, and what ``spectral(schedule={name})`` makes of it",
    )


def svg(shown: View, title: str) -> str:
    """The curves over their index, each relative to its largest value, on a logarithmic axis."""
    width, height, left, top, bottom = 640, 300, 52, 14, 40
    across, down = width - left - 14, height - top - bottom
    low = log10(FLOOR)
    lines = [
        f'<svg class="spectrum" viewBox="0 0 {width} {height}" role="img" aria-label="{title}" font-size="13" '
        'font-family="inherit" fill="currentColor" xmlns="http://www.w3.org/2000/svg">'
    ]
    for power in range(0, int(low) - 1, -1):
        y = top + down * power / low
        lines.append(
            f'<line x1="{left}" x2="{left + across}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity="0.2"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    lines.append(
        f'<text x="{left + across / 2}" y="{height - 6}" text-anchor="middle">index of the singular value</text>'
    )
    for place, (label, matrix) in enumerate(shown.curves.items()):
        values = torch.linalg.svdvals(matrix.double())
        relative = (values / values[0].clamp_min(1e-300)).clamp_min(FLOOR)
        points = " ".join(
            f"{left + across * i / (N - 1):.1f},{top + down * log10(float(v)) / low:.1f}"
            for i, v in enumerate(relative)
        )
        colour, y = COLOURS[place], height - bottom - 14 - 20 * (len(shown.curves) - 1 - place)
        dash = "" if place else ' stroke-dasharray="6 4"'
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>'
            f'<line x1="{left + 12}" x2="{left + 40}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="2.5"{dash}/>'
            f'<text x="{left + 48}" y="{y}">{label} (largest {float(values[0]):.3g})</text>'
        )
    return "\n".join([*lines, "</svg>"])
