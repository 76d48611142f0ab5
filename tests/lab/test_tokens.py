"""Token files, streams over them, and the tasks that train a GPT on them, on files of a few hundred tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import signa
from signa.errors import SpecError
from signa.lab.compare import with_method
from signa.lab.datasets.tokens import TokenStream, read_tokens, split_files, write_tokens
from signa.lab.models import GPT
from signa.lab.runner import train
from signa.lab.settings import load_experiment, read_settings
from signa.lab.tasks import Shakespeare, Task, Tokens
from signa.lab.tasks.tokens import LanguageTask, Positions
from signa.plugin import load_plugins

ROOT = Path(__file__).parents[2]
EXAMPLES = [p for p in sorted((ROOT / "examples" / "nanogpt").glob("*.yaml")) if p.stem != "compare"]
CPU = torch.device("cpu")
SMALL = {"layers": 1, "heads": 2, "width": 16, "context": 8}
TEXT = "To be, or not to be: that is the question.\n" * 20


def opened(config: Tokens | Shakespeare, *, workers: int = 2, batch: int = 2, seed: int = 0) -> LanguageTask:
    task = config.open(workers=workers, batch=batch, seed=seed, device=CPU)
    assert isinstance(task, LanguageTask)
    return task


def loss(task: Task, model: nn.Module, worker: int = 0, draw: int = 0) -> float:
    return float(task.loss(model, worker, draw).detach())


def drawn(task: LanguageTask) -> nn.Module:
    """A model whose head is not zero, so that its loss depends on what it reads."""
    torch.manual_seed(0)
    model = task.model()
    nn.init.normal_(model.get_submodule("head").weight)  # type: ignore[arg-type]
    return model


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    """Bytes 0 .. 199 in two training shards and 50 .. 99 to validate, beside the same in nanoGPT's form."""
    for name, tokens in {
        "a_train_000001": range(120),
        "a_train_000002": range(120, 200),
        "a_val_000000": range(50, 100),
    }.items():
        write_tokens(tmp_path / "shards" / f"{name}.bin", list(tokens), form="shard")
    write_tokens(tmp_path / "raw" / "train.bin", np.arange(200), form="raw")
    write_tokens(tmp_path / "raw" / "val.bin", np.arange(50, 100), form="raw")
    return tmp_path  # fmt: skip


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [[0, 50_256, 65_535], list(range(2000)), [55_432, 309, *[0] * 600]])
@pytest.mark.parametrize("form", ["raw", "shard"])
def test_what_is_written_is_read_whatever_the_form(tmp_path: Path, form: Any, tokens: list[int]) -> None:
    path = tmp_path / "x" / "train.bin"
    write_tokens(path, tokens, form=form)
    found = read_tokens(path)
    assert isinstance(found, np.memmap) and found.dtype == np.uint16 and found.tolist() == tokens
    assert path.stat().st_size == 2 * len(tokens) + (1024 if form == "shard" else 0)
    assert [p.name for p in path.parent.iterdir()] == ["train.bin"]


def test_a_shard_has_modded_nanogpts_header(tmp_path: Path) -> None:
    write_tokens(tmp_path / "a.bin", [7, 8], form="shard")
    assert np.fromfile(tmp_path / "a.bin", dtype="<i4", count=4).tolist() == [20240520, 1, 2, 0]
    assert (tmp_path / "a.bin").read_bytes()[1024:] == b"\7\0\x08\0"


@pytest.mark.parametrize("tokens", [[-1], [65_536]])
def test_a_token_that_does_not_fit_is_not_written(tmp_path: Path, tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit into 16 bits"):
        write_tokens(tmp_path / "a.bin", tokens, form="raw")
    assert not list(tmp_path.iterdir())


def header(magic: int, version: int, count: int) -> bytes:
    ints = np.zeros(256, dtype="<i4")
    ints[:3] = magic, version, count
    return ints.tobytes()


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"", "it is empty"),
        (b"abc", "it has 3 bytes, and a token takes two"),
        (header(20240520, 1, 5) + bytes(8), "its header counts 5 tokens and 4 follow"),
        (header(20240520, 1, 5) + bytes(12), "its header counts 5 tokens and 6 follow"),
        (header(20240520, 2, 5) + bytes(10), "its header is of version 2, not 1"),
        (header(20240801, 1, 5) + bytes(10), "its header begins with 20240801, not 20240520"),
        (
            header(20240801, 7, 5) + bytes(20),
            "its header begins with 20240801, not 20240520",
        ),  # llm.c's Llama 3: uint32
        (header(20240520, 1, 0), "it holds no token"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, data: bytes, because: str) -> None:
    (tmp_path / "train.bin").write_bytes(data)
    with pytest.raises(SpecError, match=f"train.bin is no token file\n  because: {because}\n  instead: "):
        read_tokens(tmp_path / "train.bin")


def test_names_say_what_validates(tmp_path: Path) -> None:
    names = ["fw_train_000002.bin", "val.bin", "fw_train_000001.bin", "train.bin", "fw_val_000000.bin"]
    first, second = split_files([tmp_path / name for name in names])
    assert [p.name for p in first] == ["fw_train_000001.bin", "fw_train_000002.bin", "train.bin"]
    assert [p.name for p in second] == ["fw_val_000000.bin", "val.bin"]
    with pytest.raises(SpecError, match=r"(?s)training.bin may be for training.*neither the word train nor val"):
        split_files([tmp_path / "training.bin"])
    with pytest.raises(SpecError, match=r"has no val tokens\n  instead: add val\.bin"):
        split_files([tmp_path / "train.bin"])


def test_windows_cross_from_file_to_file() -> None:
    parts = [np.arange(a, b, dtype=np.uint16) for a, b in ((0, 3), (3, 4), (4, 10))]
    stream, start = TokenStream(parts, vocabulary=10), torch.arange(6)
    windows = stream.windows(start, 5)
    assert len(stream) == 10 and windows.dtype == torch.long
    assert torch.equal(windows, start[:, None] + torch.arange(5))
    with pytest.raises(SpecError, match="token 9 is not in a vocabulary of 9"):
        TokenStream(parts, vocabulary=9).windows(torch.tensor([5]), 5)


# Positions -----------------------------------------------------------------------------------------------------------


def test_sequential_workers_read_side_by_side_and_an_epoch_sees_each_row_once() -> None:
    def at(seed: int) -> list[list[int]]:
        own = Positions("sequential", size=12 * 5 + 1, context=5, batch=2, workers=3, seed=seed)
        return [[p for worker in range(3) for p in own(worker, draw).tolist()] for draw in range(6)]

    draws = at(0)
    epochs = draws[0] + draws[1], draws[2] + draws[3], draws[4] + draws[5]
    assert all(Counter(epoch) == Counter(range(0, 60, 5)) for epoch in epochs)
    assert all((b - a) % 60 == 5 for epoch in epochs for a, b in pairwise(epoch))  # in order, but for the turn
    assert len({epoch[0] for epoch in epochs} | {at(1)[0][0]}) > 1 and at(0) == draws


def test_random_positions_depend_on_seed_worker_and_draw_and_reach_both_ends() -> None:
    def at(worker: int, draw: int, seed: int = 0) -> list[int]:
        return Positions("random", size=20, context=5, batch=400, workers=9, seed=seed)(worker, draw).tolist()

    assert at(0, 0) == at(0, 0) and len({str(p) for p in (at(0, 0), at(1, 0), at(0, 1), at(0, 0, 1))}) == 4
    assert set(at(0, 0)) == set(range(15))


# The task ------------------------------------------------------------------------------------------------------------


def test_both_forms_and_a_glob_are_the_same_data(bins: Path) -> None:
    places = ("shards", "raw", "shards/a_*.bin")
    tasks = [opened(Tokens(data=str(bins / place), encoding="bytes", **SMALL)) for place in places]
    losses = [(loss(t, drawn(t)), t.evaluate(drawn(t), whole=True)["val_loss"]) for t in tasks]
    assert losses[0] == losses[1] == losses[2] and tasks[0].examples == 16
    assert (
        opened(Tokens(data=str(bins / "raw"), **SMALL)).model()(torch.zeros(1, 8, dtype=torch.long)).shape[-1] == 50_304
    )


def test_the_order_of_reading_is_the_settings(bins: Path) -> None:
    config = Tokens(data=str(bins / "raw"), encoding="bytes", order="sequential", **SMALL)
    tasks = [opened(config, workers=n) for n in (2, 3)] + [opened(config.model_copy(update={"order": "random"}))]
    assert [len(set(t.positions(0, 1).tolist()) & set(range(0, 200, 8))) for t in tasks[:2]] == [2, 2]
    assert len({loss(t, drawn(t), draw=1) for t in tasks}) == 3
    with pytest.raises(SpecError, match=r"(?s)has 24 rows of 8.*a draw of 5 workers takes 25.*order: random"):
        opened(config, workers=5, batch=5)


def test_the_same_validation_tokens_are_measured_always(bins: Path) -> None:
    def value(val_tokens: int, whole: bool) -> float:
        task = opened(Tokens(data=str(bins / "raw"), encoding="bytes", val_tokens=val_tokens, **SMALL))
        return task.evaluate(drawn(task), whole=whole)["val_loss"]

    assert value(16, True) == value(16, False) == value(23, True) != value(24, True)
    assert value(48, True) == value(10_000, True)
    task = opened(Tokens(data=str(bins / "raw"), encoding="bytes", val_tokens=16, **SMALL))
    model = drawn(task)
    windows = torch.tensor([[*range(50, 59)], [*range(58, 67)]])
    logits = model(windows[:, :-1]).double().log_softmax(-1)
    nats = -logits.gather(-1, windows[:, 1:, None]).mean()
    assert task.evaluate(model, whole=True)["val_loss"] == pytest.approx(float(nats.detach()), rel=1e-5)


@pytest.mark.parametrize(("encoding", "vocabulary"), [("chars", len(set(TEXT))), ("bytes", 256)])
def test_a_text_is_cut_at_nine_tenths_and_comes_back(tmp_path: Path, encoding: Any, vocabulary: int) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    task = opened(Tokens(data=str(tmp_path / "a.txt"), encoding=encoding, **SMALL))
    own, cut = task.corpus, len(TEXT) * 9 // 10
    assert own.encoding.vocabulary == vocabulary and (len(own.train), len(own.val)) == (cut, len(TEXT) - cut)
    everything = own.train.windows(torch.tensor([0]), cut)[0].tolist()
    assert own.encoding.decode(everything) == TEXT[:cut]
    sample = task.sample(drawn(task))
    assert sample == task.sample(drawn(task)) and len(sample) > 100


def test_data_is_found_in_the_named_folder_and_among_the_shipped(monkeypatch: pytest.MonkeyPatch, bins: Path) -> None:
    monkeypatch.setenv("SIGNA_DATA", str(bins))
    monkeypatch.chdir(bins)
    assert len(opened(Tokens(data="raw", encoding="bytes", **SMALL)).corpus.train) == 200
    monkeypatch.chdir("/")
    assert len(opened(Tokens(data="raw", encoding="bytes", **SMALL)).corpus.train) == 200
    shipped = opened(Tokens(data="tinyshakespeare.txt", encoding="chars", **SMALL))
    mine = opened(Shakespeare(**SMALL))
    assert loss(shipped, drawn(shipped)) == loss(mine, drawn(mine))


def test_wrong_data_is_refused_with_a_remedy(bins: Path) -> None:
    (bins / "a.txt").write_text("short")
    (bins / "b.txt").write_bytes(b"\xff\xfe" * 40)
    (bins / "empty").mkdir()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"data": str(bins / "none")}, "there is no file .*none, and no .bin in a folder of that name"),
        ({"data": str(bins / "empty")}, "no .bin in a folder"),
        ({"data": str(bins / "*.txt")}, "names 2 files that are no .bin"),
        ({"data": str(bins / "a.txt"), "encoding": "bytes"}, "the train part has 4 tokens.*context \\+ 1 = 9"),
        ({"data": str(bins / "b.txt"), "encoding": "bytes"}, "is no text in UTF-8"),
        ({"data": str(bins / "raw"), "encoding": "chars"}, "does not say which characters"),
        ({"data": str(bins / "raw" / "train.bin")}, "has no val tokens"),
    ]
    for fields, text in wrong:
        with pytest.raises(SpecError, match=f"(?s){text}"):
            opened(Tokens(**fields, **SMALL))
    with pytest.raises(
        SpecError, match=r"(?s)train.task.val_tokens: val_tokens 8 is less than one window.*64, or more"
    ):
        read_settings({"task": {"kind": "tokens", "data": "x", "val_tokens": 8}})


def test_shakespeare_measures_an_eighth_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    task = opened(Shakespeare(**SMALL))
    windows = torch.arange(100)
    assert task.measured(windows, whole=False).tolist() == list(range(0, 100, 8))
    assert torch.equal(task.measured(windows, whole=True), windows)
    monkeypatch.setattr("signa.lab.datasets.encodings.Gpt2.encode", lambda _, text: [50_256] * (len(text) // 1000))
    tokens = opened(Shakespeare(encoding="gpt2", **SMALL)).corpus
    assert len(tokens.train) == 1003 and tokens.encoding.vocabulary == 50_304


# The model -----------------------------------------------------------------------------------------------------------


def test_merged_queries_keys_and_values_are_the_separate_ones_and_step_as_they_do() -> None:
    """The einops pattern takes the merged matrix apart: each third moves as a matrix of its own would."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocabulary": 11, "layers": 1, "heads": 2, "width": 16, "context": 8}
    separate, merged = GPT(**shape), GPT(**shape, qkv="merged")
    for model in separate, merged:
        assert all(p.std() < 2 / p.shape[1] ** 0.5 for name, p in model.named_parameters() if name != "embed.weight")
    nn.init.normal_(separate.head.weight)
    nn.init.normal_(separate.get_parameter("blocks.0.attention.proj.weight"))
    state = separate.state_dict()
    qkv = [f"blocks.0.attention.{name}.weight" for name in "qkv"]
    both = {name: value for name, value in state.items() if name not in qkv}
    before = torch.cat([state[name] for name in qkv])
    merged.load_state_dict(both | {"blocks.0.attention.qkv.weight": before})

    tokens = torch.randint(11, (2, 9))
    apart = {"matrix": "(three h d) i -> three (h d) i", "sizes": {"three": 3, "h": 2}}
    groups: list[dict[str, Any]] = [{"match": "*.qkv.weight", "optional": True, **apart}, {"match": "*"}]
    rest = {"method": "ef21muonusign", "lr": 0.1}
    for model in separate, merged:
        optimizer = signa.build({"groups": [group | rest for group in groups]}, model)
        for _ in range(3):
            nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    after = torch.cat([separate.state_dict()[name] for name in qkv])
    assert torch.allclose(after, merged.state_dict()["blocks.0.attention.qkv.weight"], atol=1e-4)
    assert (after - before).abs().mean() > 0.01


def test_qkv_is_a_setting_of_both_tasks(bins: Path) -> None:
    for config in Tokens(data=str(bins / "raw"), qkv="merged", **SMALL), Shakespeare(qkv="merged", **SMALL):
        names = dict(opened(config).model().named_parameters())
        assert names["blocks.0.attention.qkv.weight"].shape == (48, 16) and "blocks.0.attention.q.weight" not in names


# The examples --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nesterov(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in of the GPU specs; its presets are taken out again, and it is forgotten."""
    monkeypatch.setattr("signa.plugin._loaded", {})
    before = signa.presets.names()
    load_plugins([ROOT / "examples" / "nanogpt" / "nesterov.py"])
    yield
    for name in set(signa.presets.names()) - set(before):
        signa.presets.unregister(name)


@pytest.mark.usefixtures("nesterov")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_names_a_rate_for_each_method_and_each_stands_in_its_place(path: Path) -> None:
    spec = load_experiment(path)
    rates = read_settings(spec.train).compare
    assert {name.removeprefix("nesterov_") for name in rates} == {
        "muon", "ef21signmuon", "signmuon", "muonusign", "ef21muonusign", "ef21muonsign", "muonsign", "signsgd",
    }  # fmt: skip
    for name, lr in rates.items():
        group = next(g for g in with_method(spec, name, lr).groups if g.name == "matrices")
        assert group.method == signa.method(name) and group.lr == lr
        if name.startswith("nesterov"):
            stages = [*group.method.worker, *group.method.server]
            assert [s.nu for s in stages if s.kind == "momentum"] == ["beta"]
            assert all(s.schedule == "polar5" for s in stages if s.kind == "spectral")
            assert signa.presets.get(name).lr == lr


def test_the_published_step_has_262144_tokens() -> None:
    s = read_settings(load_experiment(ROOT / "examples" / "nanogpt" / "gpu8.yaml").train)
    assert isinstance(s.task, Tokens) and s.workers * s.accumulate * s.batch * s.task.context == 262_144


def test_the_cpu_example_runs(tmp_path: Path) -> None:
    small = {"layers": 1, "heads": 2, "width": 16, "context": 16, "val_tokens": 64}
    changes: dict[str, Any] = {f"train.task.{name}": value for name, value in small.items()}
    spec = load_experiment(ROOT / "examples" / "nanogpt" / "cpu.yaml", changes=changes | {"train.steps": 20})
    result = train(spec, name="cpu", out=tmp_path)
    summary = json.loads((tmp_path / "cpu" / "summary.json").read_text())
    assert [r["step"] for r in result.records if "val_loss" in r] == [10, 20]
    assert summary["val_loss"] == result.value < np.log(65) - 0.2 and summary["goal"]["metric"] == "val_loss"
