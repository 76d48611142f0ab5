"""Quality of every Newton-Schulz schedule on five spectra: `python -m benchmarks.schedules --help`.

quality = <G, O> / (||G||_nuclear max(1, sigma_max(O))); sign = share of entries whose sign is that of the exact polar
factor; sigma = range of the singular values of O. Spectra: Gaussian; i^-1; 1 to 1e-4, logarithmic; rank 8 + 1e-3 noise;
Gaussian with rows scaled by 1 to 1e-3.
"""

import argparse

import torch
from torch import Tensor

from signa.lmo.newton_schulz import exact_polar, orthogonalise
from signa.lmo.schedules import SCHEDULES


def spectra(m: int, n: int, seed: int) -> dict[str, Tensor]:
    """Five (m, n) matrices in float64, m <= n."""
    coin = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=coin, dtype=torch.float64)  # noqa: E731
    left, right = torch.linalg.qr(normal(m, m))[0], torch.linalg.qr(normal(n, m))[0]
    turned = lambda sigma: left * sigma @ right.mT  # noqa: E731
    return {
        "gaussian": normal(m, n),
        "power": turned(torch.arange(1, m + 1, dtype=torch.float64) ** -1),
        "log": turned(torch.logspace(0, -4, m, dtype=torch.float64)),
        "rank8": turned((torch.arange(m) < 8).double()) + 1e-3 * normal(m, n) / n**0.5,
        "rows": normal(m, n) * torch.logspace(0, -3, m, dtype=torch.float64).unsqueeze(-1),
    }


def measure(g: Tensor, name: str, dtype: torch.dtype) -> tuple[float, float, float, float]:
    """Quality, sign agreement, smallest and largest singular value of one schedule's output."""
    exact, schedule = exact_polar(g), SCHEDULES[name]
    out = orthogonalise(g, schedule.coefficients, normalisation=schedule.normalisation, dtype=dtype)
    sigma = torch.linalg.svdvals(out)
    quality = (g * out).sum() / (torch.linalg.svdvals(g).sum() * sigma.max().clamp(min=1))
    return quality.item(), (out.sign() == exact.sign()).double().mean().item(), sigma.min().item(), sigma.max().item()


def main() -> None:
    """Print one row a schedule and spectrum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=(256, 1024), metavar=("M", "N"))
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "float64"), default="bfloat16")
    parser.add_argument("--schedule", choices=tuple(SCHEDULES), nargs="+", default=tuple(SCHEDULES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{'schedule':10}{'spectrum':10}{'quality':>8}{'sign':>8}   sigma")
    for name in arguments.schedule:
        for spectrum, g in spectra(*arguments.shape, arguments.seed).items():
            quality, sign, low, high = measure(g, name, getattr(torch, arguments.dtype))
            print(f"{name:10}{spectrum:10}{quality:8.3f}{sign:8.3f}   {low:.3f}-{high:.3f}")


if __name__ == "__main__":
    main()
