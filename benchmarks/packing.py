"""Pack, vote, unpack and apply, beside one clone-and-add pass over the same entries, on one core (or one GPU).

    python benchmarks/packing.py                        # 124 M entries, N = 8 -> results/packing.json
    python benchmarks/packing.py --device cuda

What one rank does in one step of a sign method: pack its own signs, vote on the 1/N that it owns (with the ties that
random votes have, 27 % at N = 8, decided by coins), unpack everybody's result and add it to the parameters. All in one
process, in turns, the best of several rounds: the ratios are what counts. On a GPU every pass that has a Triton kernel
is timed with torch's operators and with the kernel, and so is the compressor's sign with coins for zeros.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from signa import kernels, packing  # noqa: E402
from signa.aggregators import MajorityVote  # noqa: E402
from signa.coins import Coins  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=124_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="where the figures go; with no argument at all, results/packing.json")
    options = parser.parse_args()
    out = options.out or (HERE / "results" / "packing.json" if len(sys.argv) == 1 else None)
    torch.set_num_threads(1)
    device, n = torch.device(options.device), options.entries // 512 * 512
    generator = torch.Generator(device).manual_seed(0)
    direction = torch.randn(1, n, generator=generator, device=device)
    parameter, other = torch.zeros(n, device=device), torch.ones(n, device=device)
    words = n // 64
    owned = words // options.workers
    most = 2**62
    planes = torch.randint(-most, most, (options.workers, 1, owned), generator=generator, device=device) * 2
    planes += torch.randint(0, 2, planes.shape, generator=generator, device=device)
    result = torch.randint(-most, most, (1, words), generator=generator, device=device)
    coin = Coins(0, 0, [1], [0], [-1])
    vote = MajorityVote()

    def pack() -> None:
        packing.words(direction)

    def count() -> None:
        vote.of_words(planes, lambda: coin.words(1, owned, device))

    def apply() -> None:
        for at, part in packing.unpacked(result, torch.float32):
            parameter[at : at + len(part)].add_(part, alpha=-1e-3)

    def sign() -> None:
        packing.fair(direction, lambda: coin.words(1, words, device))

    def clone_and_add() -> None:
        parameter.clone().add_(other)

    def copy() -> None:
        other.copy_(parameter)

    works: dict[str, Callable[[], None]] = {
        "pack": pack, "vote": count, "unpack and apply": apply, "clone and add": clone_and_add, "copy": copy,
    }  # fmt: skip
    if device.type == "cuda":  # on a CPU the coins are tossed only where there is a zero, so it is not one number
        works["sign with coins"] = sign
    kerneled = {"pack", "unpack and apply", "sign with coins"}
    names = {name: (work, "eager") for name, work in works.items()}
    if kernels.one_pass_for(device):
        names |= {f"{name}, triton": (work, "triton") for name, work in works.items() if name in kerneled}
        for work, way in names.values():  # what a first call compiles
            with kernels.use(way):
                work()
    best = dict.fromkeys(names, float("inf"))
    for _ in range(options.rounds):
        for name, (work, way) in names.items():
            with kernels.use(way):
                best[name] = min(best[name], timed(work, device))
    more, tie = packing.majority(planes)
    del more
    ties = float((packing.signs(tie.view(1, -1)[:, :10_000], 640_000, torch.float32) > 0).double().mean())

    def ratio_to_clone_and_add(way: str) -> float:
        return (best[f"pack{way}"] + best["vote"] + best[f"unpack and apply{way}"]) / best["clone and add"]

    ways = [way for way in ("", ", triton") if f"pack{way}" in best]
    ratios = {f"ratio_to_clone_and_add{way}": round(ratio_to_clone_and_add(way), 3) for way in ways}
    for name, seconds in best.items():
        entries = owned * 64 * options.workers if name == "vote" else n
        print(f"{name:24} {seconds * 1e3:8.1f} ms   {entries / seconds / 1e9:7.2f} G entries/s")
    for way, ratio in zip(ways, ratios.values()):
        print(f"pack{way} + vote + unpack and apply{way} = {ratio:.2f} of clone and add; {ties:.1%} ties")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one core of the CPU"
    record = {
        "entries": n,
        "workers": options.workers,
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ties": round(ties, 4),
        "milliseconds": {key: round(1e3 * value, 2) for key, value in best.items()},
        **ratios,
    }
    if out:
        out.write_text(json.dumps(record, indent=1) + "\n")


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
