"""Five simulated workers train a small convolutional network by SignMuon, one bit per matrix entry each way.

    python examples/quickstart.py

Every worker sees its own batches; nothing here is downloaded. The classes are planted patterns in noise.
"""

import torch
from torch import nn

import signa

WORKERS, STEPS, CLASSES = 5, 60, 10


def main() -> None:
    torch.manual_seed(0)
    patterns = torch.randn(CLASSES, 1, 12, 12)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(CLASSES, (count,))
        return patterns[labels] + 2 * torch.randn(count, 1, 12, 12), labels

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )
    opt = signa.build("signmuon", model, lr=0.02, transport=signa.Loopback(WORKERS))
    print(opt.routing, "\n")  # which parameter goes where, and as which matrices

    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    for step in range(STEPS):
        for j in range(WORKERS):
            with opt.worker(j):  # backward passes in here belong to worker j
                images, labels = batch(32)
                nn.functional.cross_entropy(model(images), labels).backward()
        opt.step()
        opt.zero_grad()
        schedule.step()
        if step % 10 == 9:
            images, labels = batch(1000)
            with torch.no_grad():
                right = (model(images).argmax(1) == labels).float().mean()
            print(f"step {step + 1:3}: {right:.1%} of 1000 fresh images right")

    bits = opt.bits()
    print(f"\nbits a parameter: {bits.up:.2f} up, {bits.down:.2f} down, {bits.round_trip:.1f} times less than float32")


if __name__ == "__main__":
    main()
