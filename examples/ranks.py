"""The quickstart on real ranks: every rank is one worker, and one bit per matrix entry travels each way.

    torchrun --standalone --nproc-per-node=4 examples/ranks.py       # CPUs (gloo), or one GPU per rank (NCCL)
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 examples/ranks.py

The result is that of ``Loopback(4)``, bit for bit. With a folder as argument it saves a checkpoint there every 20 steps
and goes on from the newest one.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

import signa

STEPS, CLASSES = 60, 10


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = signa.Group()  # joins torchrun's world
    patterns = torch.randn(CLASSES, 1, 12, 12, generator=torch.Generator().manual_seed(0)).to(device)
    mine = torch.Generator()

    def batch(count: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        mine.manual_seed(group.size * step + group.rank)  # every rank its own data, the same after a resume
        labels = torch.randint(CLASSES, (count,), generator=mine).to(device)
        return patterns[labels] + 2 * torch.randn(count, 1, 12, 12, generator=mine).to(device), labels

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    ).to(device)
    signa.replicate(model, group)  # rank 0's weights everywhere
    opt = signa.build("signmuon", model, lr=0.02, transport=group)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder and folder.exists():
        signa.load_checkpoint(folder, model, opt, schedule=schedule)
    if group.rank == 0:
        print(group)  # which exchange every bucket takes, and why

    for step in range(opt.steps, STEPS):
        images, labels = batch(32, step)
        nn.functional.cross_entropy(model(images), labels).backward()
        opt.step()
        opt.zero_grad()
        schedule.step()
        if folder and step % 20 == 19:
            signa.save_checkpoint(folder, model, opt, schedule=schedule, keep=2)
        if step % 20 == 19 and group.rank == 0:
            images, labels = batch(1000, STEPS + step)
            with torch.no_grad():
                right = (model(images).argmax(1) == labels).float().mean()
            print(f"step {step + 1:3}: {right:.1%} of 1000 fresh images right")

    if group.rank == 0:
        sent = 8 * group.traffic[0] / STEPS / sum(p.numel() for p in model.parameters())
        print(f"sent {sent:.2f} bits per parameter and step; the dense parameters and headers are most of it")
    group.close()


if __name__ == "__main__":
    main()
