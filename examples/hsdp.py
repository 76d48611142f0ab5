"""A sharded model: full precision inside a node (FSDP2), one bit between nodes, on 2 nodes of 2 ranks.

    torchrun --standalone --nproc-per-node=4 examples/hsdp.py       # CPUs (gloo), or one GPU per rank (NCCL)

A worker is a node. FSDP's reduce-scatter averages the gradients inside it; each matrix is then whole on one rank of the
node, which orthogonalises it and votes with the ranks that have the same matrix on the other nodes. For real nodes of 8
GPUs, ``init_device_mesh("cuda", (nodes, 8), ...)``.
"""

import os

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import signa
from signa.transport.digest import digest

STEPS, WORDS, LENGTH, WIDTH, NODES = 30, 32, 16, 64, 2


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to the same."""
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """A small decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """The loss of every next word, of words (batch, length)."""
        x = self.embed(words[:, :-1])
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x).flatten(0, 1), words[:, 1:].flatten())


def batch(step: int, rank: int, size: int) -> torch.Tensor:
    """Counting sequences, from a start and with a stride that every rank draws for itself."""
    drawn = torch.Generator().manual_seed(size * step + rank)
    start, stride = torch.randint(WORDS, (2, 16, 1), generator=drawn)
    return (start + (1 + stride % 3) * torch.arange(LENGTH)) % WORDS


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh(device.type, (NODES, size // NODES), mesh_dim_names=("replicate", "shard"))

    torch.manual_seed(0)
    model = Model().to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh["shard"])  # not over both axes: that would average between the nodes
    fully_shard(model, mesh=mesh["shard"])

    group = signa.Group(mesh["replicate"], shard=mesh["shard"])
    signa.replicate(model, group)
    opt = signa.build("signmuon", model, lr=0.02, transport=group)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)

    for step in range(STEPS):
        loss = model(batch(step, rank, size).to(device))
        loss.backward()
        opt.step()
        opt.zero_grad()
        schedule.step()
        mean = loss.detach().cpu()
        dist.all_reduce(mean)
        if step % 10 == 9 and rank == 0:
            print(f"step {step + 1:3}: loss {mean / size:.3f}")

    whole = torch.stack([digest(p.detach().full_tensor()).cpu() for p in model.parameters()])
    mine = sum(p.numel() for p in model.parameters() if opt.state[p])
    every = sum(p.numel() for p in model.parameters())
    sent = 8 * group.traffic[0] / STEPS / mine
    said = f"rank {rank}: digest {int(digest(whole)) & (1 << 64) - 1:016x}, whole matrices {mine / every:.0%}"
    for turn in range(size):  # one line after the other
        if rank == turn:
            print(f"{said}, between nodes {sent:.2f} bits per parameter of them and step", flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
