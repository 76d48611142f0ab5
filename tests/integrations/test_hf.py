"""The Hugging Face Trainer trains a tiny GPT-2 of its own library, of random weights, and resumes it bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa.integrations.hf import optimizer_cls_and_kwargs
from tests.integrations.common import needs, same, same_state, two_ranks

transformers = needs("transformers")
needs("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
LENGTH, VOCABULARY = 8, 32


def gpt(seed: int = 0) -> Any:
    """Two layers of width 16, with the tied embedding that GPT-2 has."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": LENGTH, "vocab_size": VOCABULARY}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    with torch.random.fork_rng():  # the Trainer's data come in the order of the global generator
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


def tokens() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, VOCABULARY, (LENGTH,), generator=generator) for _ in range(64)]
    return [{"input_ids": one, "labels": one} for one in ids]


def trainer(folder: Path, model: Any, optimizers: Any = (None, None), **options: Any) -> Any:
    keep = {key: options.pop(key) for key in ("optimizer_cls_and_kwargs", "model_init") if key in options}
    settings = {
        "per_device_train_batch_size": 4, "max_steps": 8, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "no", "max_grad_norm": 0.0, "lr_scheduler_type": "linear",
    }  # fmt: skip
    args = transformers.TrainingArguments(output_dir=str(folder), **{**settings, **options})
    return transformers.Trainer(model=model, args=args, train_dataset=tokens(), optimizers=optimizers, **keep)


def ours(model: Any) -> signa.SignA:
    return signa.build("ef21muonsign", model, lr=0.02)


def inner(run: Any) -> signa.SignA:
    """The optimizer inside Accelerate's wrapper."""
    return run.optimizer.optimizer


def by_hand(folder: Path, steps: int = 8, every: int = 1, clip: float = 0.0, bf16: bool = False) -> Any:
    """The Trainer's data in its order, its schedule, and a plain loop."""
    model = gpt()
    opt = ours(model)
    schedule = transformers.get_linear_schedule_with_warmup(opt, 0, steps)
    loader = iter(trainer(folder, gpt(), max_steps=steps).get_train_dataloader())
    for _ in range(steps):
        micro = [next(loader) for _ in range(every)]
        count = sum(batch["labels"].numel() for batch in micro)  # the Trainer's mean is over all labels of a step
        for batch in micro:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(**batch, num_items_in_batch=count).loss
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
        schedule.step()
        opt.zero_grad()
    return model, opt


@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({}, {}),
        ({"gradient_accumulation_steps": 2}, {"every": 2}),
        ({"max_grad_norm": 0.1}, {"clip": 0.1}),
        ({"bf16": True}, {"bf16": True}),
    ],
    ids=["plain", "accumulation", "max_grad_norm", "bf16"],
)
def test_it_is_the_loop_by_hand(tmp_path: Path, options: dict, hand: dict) -> None:
    model = gpt()
    run = trainer(tmp_path, model, (ours(model), None), **options)
    run.train()
    net, opt = by_hand(tmp_path, **hand)
    assert same(model, net) and same_state(inner(run), opt)
    assert not hand or not same(model, by_hand(tmp_path)[0])  # the option counted


def test_the_schedule_is_followed_by_every_group(tmp_path: Path) -> None:
    """Not its learning_rate, which the spec has: its shape."""
    model, seen = gpt(), []
    run = trainer(tmp_path, model, (ours(model), None), learning_rate=123.0)

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            seen.append([group["lr"] for group in more["optimizer"].param_groups])

    run.add_callback(Watch())
    run.train()
    first = [group["lr"] for group in ours(gpt()).param_groups]
    assert len(first) > 1 and seen == [[pytest.approx(lr * (1 - step / 8)) for lr in first] for step in range(8)]


def test_it_makes_the_optimizer_itself(tmp_path: Path) -> None:
    """Of the model that model_init gives, at each train() anew."""
    model = gpt()
    plain = trainer(tmp_path, model, (ours(model), None))
    plain.train()
    made = optimizer_cls_and_kwargs("ef21muonsign", lr=0.02)
    run = trainer(tmp_path, gpt(), optimizer_cls_and_kwargs=made)
    run.train()
    assert same(run.model, plain.model) and same_state(inner(run), inner(plain))
    again = trainer(tmp_path, None, model_init=lambda: gpt(), optimizer_cls_and_kwargs=made)
    again.train()
    again.train()
    assert same(again.model, plain.model) and inner(again).steps == 8


def test_the_routing_knows_gpt2(tmp_path: Path) -> None:
    """The tied embedding is no matrix of the method's; the blocks' are."""
    opt = ours(gpt())
    groups = {group["name"]: group["signa_names"] for group in opt.param_groups}
    assert "transformer.wte.weight" in groups["embeddings"]
    assert len(groups["ef21muonsign"]) == 8 and all(".h." in name for name in groups["ef21muonsign"])


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    model = gpt()
    whole = trainer(tmp_path / "whole", model, (ours(model), None), max_grad_norm=1.0)
    whole.train()
    kept = {"save_strategy": "steps", "save_steps": 3, "max_grad_norm": 1.0}
    model = gpt()
    trainer(tmp_path / "half", model, (ours(model), None), **kept).train()
    model = gpt(seed=5)
    rest = trainer(tmp_path / "half", model, (ours(model), None), **kept)
    rest.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-3"))
    assert rest.state.global_step == 8
    assert same(rest.model, whole.model) and same_state(inner(rest), inner(whole))


def test_its_checkpoint_is_plain_data(tmp_path: Path) -> None:
    model = gpt()
    run = trainer(tmp_path, model, (ours(model), None), save_strategy="steps", save_steps=8)
    run.train()
    saved = torch.load(tmp_path / "checkpoint-8" / "optimizer.pt", weights_only=True)
    assert saved["signa"]["step"] == 8


RANK = """
import sys
from pathlib import Path
from signa.integrations.accelerate import own_wire
from tests.integrations.test_hf import gpt, inner, optimizer_cls_and_kwargs, trainer, transformers

args = {"max_steps": 4, "ddp_backend": "gloo"}
run = trainer(Path(sys.argv[2]), gpt(), **args)
run.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs("ef21muonsign", lr=0.02, transport=signa.Group())
if sys.argv[1] == "own":
    run.accelerator.ddp_handler = own_wire()
try:
    run.train()
    assert isinstance(run.model_wrapped, nn.parallel.DistributedDataParallel)
    tell(inner(run))
except signa.SignaError as error:
    tell(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["own", "averaged"])
def test_ranks_under_its_wrapper(tmp_path: Path, wire: str) -> None:
    told = two_ranks(tmp_path, RANK, wire, str(tmp_path))
    assert told[0] == told[1] and (told[0].startswith("4 ") if wire == "own" else told[0] == "AveragedGradients")
