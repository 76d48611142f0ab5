"""Lightning runs a SignA as it runs any optimizer, by itself and by hand, and resumes it bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import signa
from tests.integrations.common import SPEC, batches, needs, network, same, same_state, simulated, two_ranks

lightning = needs("lightning")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*num_workers.*")


class Net(lightning.LightningModule):
    def __init__(self, manual: bool = False, workers: int = 1) -> None:
        super().__init__()
        self.net, self.workers = network(), workers
        self.automatic_optimization = not manual

    def configure_optimizers(self) -> Any:
        opt = signa.build(SPEC, self.net, transport=signa.Loopback(self.workers))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch: Any, index: int) -> torch.Tensor | None:
        if self.automatic_optimization:
            return self.loss(batch)
        opt = self.optimizers()
        opt.zero_grad()
        for worker in range(self.workers):
            with opt.worker(worker):
                self.manual_backward(self.loss(batch))
        opt.step()
        self.lr_schedulers().step()
        return None


class Stepped(Net):
    """Its data is a function of the step: Lightning's loaders begin anew in the middle of an epoch."""

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batches(8)[self.global_step % 8])


def fit(model: Net, folder: Path, steps: int, resume: Path | None = None, **options: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, default_root_dir=folder, **{"enable_checkpointing": False, **quiet, **options}
    )
    trainer.fit(model, DataLoader(batches(8), batch_size=None), ckpt_path=resume)
    return trainer


def by_hand(steps: int, every: int = 1, clip: float = 0.0, workers: int = 1, **autocast: Any) -> Any:
    """The same loop without Lightning."""
    model, data = network(), batches(8)
    opt = signa.build(SPEC, model, transport=signa.Loopback(workers))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    for step in range(steps):
        opt.zero_grad()
        for x, y in (data[(step * every + i) % 8] for i in range(every)):
            for worker in range(workers):
                with opt.worker(worker), torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
                    loss = nn.functional.mse_loss(model(x), y) / every
                    loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
        scheduler.step()
    return model, opt


@pytest.mark.parametrize("manual", [False, True])
def test_it_is_the_loop_by_hand(tmp_path: Path, manual: bool) -> None:
    model = Net(manual)
    trainer = fit(model, tmp_path, 10)
    net, opt = by_hand(10)
    assert same(model.net, net) and same_state(trainer.optimizers[0], opt)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.02 * 0.5**10)


@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({"accumulate_grad_batches": 2}, {"every": 2}),
        ({"gradient_clip_val": 0.01}, {"clip": 0.01}),
        ({"precision": "bf16-mixed"}, {"bf16": True}),
    ],
    ids=["accumulation", "clipping", "bf16"],
)
def test_the_trainers_options(tmp_path: Path, options: dict, hand: dict) -> None:
    model = Net()
    trainer = fit(model, tmp_path, 4, **options)
    net, opt = by_hand(4, **hand)
    assert same(model.net, net) and same_state(trainer.optimizers[0], opt)
    assert not same(net, by_hand(4)[0])  # the option counted


def test_simulated_workers_by_hand(tmp_path: Path) -> None:
    model = Net(manual=True, workers=3)
    trainer = fit(model, tmp_path, 3)
    net, opt = by_hand(3, workers=3)
    assert same(model.net, net) and same_state(trainer.optimizers[0], opt)


@pytest.mark.parametrize("manual", [False, True])
def test_resumed_is_uninterrupted(tmp_path: Path, manual: bool) -> None:
    whole, half, rest = Stepped(manual), Stepped(manual), Stepped(manual)
    one = fit(whole, tmp_path, 12)
    fit(half, tmp_path, 5).save_checkpoint(tmp_path / "half.ckpt")
    nn.init.zeros_(rest.net[0].weight)  # everything is to come from the checkpoint
    two = fit(rest, tmp_path, 12, tmp_path / "half.ckpt")
    assert not same(whole.net, half.net)
    assert same(whole.net, rest.net) and same_state(one.optimizers[0], two.optimizers[0])


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    fit(Net(), tmp_path, 2).save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["signa"]["step"] == 2


RANK = """
import sys
import lightning
import signa.transport
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def configure_optimizers(self):
        return signa.build(SPEC, self.net, transport=signa.Group())

    def on_train_start(self):
        if sys.argv[1] == "own":
            signa.transport.silence(self.trainer.strategy.model)

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.net(batch[0] + self.global_rank), batch[1])

strategy = DDPStrategy(process_group_backend="gloo")
trainer = lightning.Trainer(
    max_steps=4, accelerator="cpu", devices=2, strategy=strategy, use_distributed_sampler=False, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
try:
    trainer.fit(Net(), DataLoader(batches(4), batch_size=None))
    tell(trainer.optimizers[0])
except signa.SignaError as error:
    tell(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["own", "averaged"])
def test_ranks_under_its_strategy(tmp_path: Path, wire: str) -> None:
    """The strategy's wrapper stays out of the way where it is told to; else it is noticed."""
    told = simulated(4) if wire == "own" else "AveragedGradients"
    assert two_ranks(tmp_path, RANK, wire) == [told] * 2
