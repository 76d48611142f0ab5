"""What a machine has: torch, devices, backends, kernels, data and the optional packages, and whether a step works."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import __version__
from ..building import build
from ..errors import SignaError
from ..kernels import VARIABLE, name_for
from ..linalg import product_dtype
from ..transport import Loopback
from ..transport.launch import backends
from .datasets import bpe, cifar, mnist
from .datasets.find import find, roots

__all__ = ["Finding", "examined"]

#: The optional packages, and what each is for.
EXTRAS = {
    "rich": "tables and progress on a terminal", "matplotlib": "plots", "PIL": "CIFAR-10 in pictures",
    "triton": "kernels on a GPU", "tensorboard": "--sink tensorboard", "wandb": "--sink wandb",
    "mlflow": "--sink mlflow", "trackio": "--sink trackio", "flwr": "signa federated",
    "optuna": "signa ablate --optuna",
}  # fmt: skip
_KERNELS = {"triton": "Triton, one pass", "native": "compiled C, one pass"}
_OPERATORS = {"cuda": "torch's operators", "cpu": "numpy and torch"}
_DATA: dict[str, Callable[[], list[str]]] = {
    "mnist": lambda: mnist.places(mnist.MNIST_FOLDERS),
    "fashion_mnist": lambda: mnist.places(mnist.FASHION_FOLDERS),
    "cifar10": cifar.places,
    "gpt2's merges": lambda: list(bpe.PLACES),
}


class Finding(NamedTuple):
    """One thing that was looked at: fine (True), not there but not needed (None), or broken (False)."""

    about: str
    name: str
    fine: bool | None
    said: str


def examined(*, wire: bool = False) -> list[Finding]:
    """Everything, in the order in which it is printed; with ``wire`` two processes talk too, which takes seconds."""
    found = [*_versions(), *_devices(), *_backends(), *_kernels(), *_data(), *_extras(), *_plugins()]
    found.append(_tried("a step", "3 workers vote on a 64x32 matrix", _step))
    if wire:
        found.append(_tried("two processes", "they talk over gloo and hold equal bits", _pair))
    return found


def _versions() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} threads on {cores} cores"
    return [
        Finding("versions", "signa", True, __version__),
        Finding("versions", "python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("versions", "torch", True, f"{torch.__version__}, {threads}"),
        *(Finding("versions", name, True, version(name)) for name in ("numpy", "pydantic", "einops")),
    ]


def _devices() -> list[Finding]:
    held = str(product_dtype(torch.bfloat16, torch.device("cpu"))).removeprefix("torch.")
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, multiplies bfloat16 in {held}"
    found = [Finding("devices", "cpu", True, cpu)]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(Finding("devices", f"cuda:{index}", True, f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        found.append(Finding("devices", "cuda", None, "torch finds none"))
    if torch.backends.mps.is_available():
        found.append(Finding("devices", "mps", True, "there"))
    return found


def _backends() -> list[Finding]:
    needs = {"gloo": "ranks on CPUs", "nccl": "ranks on GPUs", "mpi": "not used"}
    return [
        Finding("backends", name, True if there else False if name == "gloo" else None, needs[name])
        for name, there in backends().items()
    ]


def _kernels() -> list[Finding]:
    choice = os.environ.get(VARIABLE, "auto")
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    found = []
    for device in devices:
        try:
            name = name_for(device)
            said = _KERNELS[name] if name != "eager" else _OPERATORS[device.type]
            found.append(Finding("kernels", str(device), True, f"{said} ({VARIABLE} is {choice})"))
        except ValueError as error:
            found.append(Finding("kernels", str(device), False, str(error)))
    return found


def _data() -> list[Finding]:
    try:
        searched = ", ".join(map(str, roots()))
    except SignaError as error:
        return [Finding("data", "SIGNA_DATA", False, str(error).splitlines()[0])]
    found = [Finding("data", "tiny-shakespeare", True, "comes with signa")]
    for name, places in _DATA.items():
        path = find(*places())
        said = str(path) if path else "not found; it is downloaded when it is used, or see docs/experiments.md"
        found.append(Finding("data", name, True if path else None, said))
    return [*found, Finding("data", "searched", True, searched)]


def _extras() -> list[Finding]:
    return [
        Finding(
            "optional", name, True if find_spec(name) else None, use if find_spec(name) else f"not installed: {use}"
        )
        for name, use in EXTRAS.items()
    ]


def _plugins() -> list[Finding]:
    return [Finding("plug-ins", entry.name, True, entry.value) for entry in entry_points(group="signa")]


def _tried(name: str, said: str, act: Callable[[], None]) -> Finding:
    start = time.monotonic()
    try:
        act()
    except Exception as error:  # whatever it is, it is what the doctor was asked for
        return Finding("tried", name, False, f"{type(error).__name__}: {error}")
    return Finding("tried", name, True, f"{said}: {time.monotonic() - start:.1f} s")


def _step() -> None:
    weight = nn.Parameter(torch.zeros(64, 32))
    optimizer: Any = build({"groups": [{"method": "signmuon", "lr": 0.1}]}, [("w", weight)], transport=Loopback(3))
    for worker in range(3):
        with optimizer.worker(worker):
            weight.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(worker))
    optimizer.step()
    size = weight.detach().abs()
    if not (size.min() > 0 and torch.allclose(size, size.max())):
        raise ArithmeticError("the step of a vote is not of one size in every entry")


def _pair() -> None:
    from ..compressors import Sign
    from ..testing import check_component

    check_component(Sign(), only=["two ranks"])
