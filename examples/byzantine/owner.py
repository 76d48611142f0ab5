"""One rank of nine lies about what it aggregates: the accuracy that is left, under each exchange, five seeds.

    python examples/byzantine/owner.py

The task is that of byzantine.yaml. Ranks are threads of this process, each with a gloo process group of its own. In
`alltoall` the liar owns a ninth of every bucket; in `allgather` it deceives its own replica, and we look at another's.
"""

from __future__ import annotations

import copy
import json
import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

import signa
from signa.lab.models import Mlp
from signa.lab.tasks import seed_of, seeded
from signa.lab.tasks.images import ImageClassification
from signa.testing.liar import LyingOwner

RANKS, LIAR, STEPS, BATCH, LR, SEEDS = 9, 0, 60, 16, 0.1, 5
SPEC = {
    "groups": [
        {
            "match": "*",
            "worker": [{"momentum": {"beta": 0.9}}, "spectral"],
            "up": "sign",
            "aggregate": "majority_vote",
            "lr": LR,
        }
    ]
}


def accuracy(exchange: str, seed: int, *, lies: bool) -> float:
    """Of rank 8's model, after so many steps."""
    device = torch.device("cpu")
    config = ImageClassification(data="mnist", model=Mlp(widths=(32,)), holdout=5000)
    task = config.open(workers=RANKS, batch=BATCH, seed=seed, device=device)
    with seeded(seed_of(seed, "model"), device):
        first = task.model()
    models = [copy.deepcopy(first) for _ in range(RANKS)]
    store, failed = dist.HashStore(), []

    def run(rank: int, model: nn.Module) -> None:
        try:
            kind = LyingOwner if lies and rank == LIAR else signa.Group
            process_group = dist.ProcessGroupGloo(store, rank, RANKS, timedelta(seconds=900))
            own: dict[str, Any] = {"store": dist.PrefixStore("faults", store), "timeout": 600.0}
            group = kind(process_group, exchange=exchange, check_replicas_every=0, **own)
            opt = signa.build(SPEC, model, transport=group, seed=seed)
            for step in range(STEPS):
                opt.param_groups[0]["lr"] = LR * (1 - step / STEPS)
                task.loss(model, rank, step).backward()
                opt.step()
                opt.zero_grad()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return task.evaluate(models[-1], whole=False)["val_accuracy"]


def main(file: Path) -> None:
    """Every exchange, honest and not, into a file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, list[float]]] = {}
    for exchange in ("alltoall", "allgather"):
        for lies in (False, True):
            values = [accuracy(exchange, seed, lies=lies) for seed in range(SEEDS)]
            found.setdefault(exchange, {})["a lying owner" if lies else "all honest"] = values
            print(exchange, "one owner lies" if lies else "all honest", values)
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "owner.json")
