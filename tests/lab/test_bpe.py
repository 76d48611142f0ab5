"""GPT-2's BPE: the cut into words and the merges, and, where the list of merges is here, nanoGPT's token counts."""

from __future__ import annotations

import hashlib
import itertools
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from signa.errors import SpecError
from signa.lab.datasets import bpe
from signa.lab.datasets.bpe import GPT2_FILES, PLACES, Bpe, byte_letters, gpt2, words
from signa.lab.datasets.encodings import Gpt2
from signa.lab.datasets.find import find
from signa.lab.tasks import read_shakespeare

ROOT = Path(__file__).parents[2]
MERGES = find(*PLACES)
here = pytest.mark.skipif(MERGES is None, reason="GPT-2's vocab.bpe is not here: examples/nanogpt/prepare.py gpt2")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("I'll say: it's 10,000'S!", ["I", "'ll", " say", ":", " it", "'s", " 10", ",", "000", "'", "S", "!"]),
        ("a  b\n\n c \n", ["a", " ", " b", "\n\n", " c", " \n"]),
        ("née Ångström", ["née", " Ångström"]),
        ("naïve\u0301 x", ["naïve", "\u0301", " x"]),  # a combining accent is no letter
        ("x²½Ⅷ٣ 五", ["x", "²½Ⅷ٣", " 五"]),  # N is more than decimal digits; 五 is a letter that has a number
        ("snake_case", ["snake", "_", "case"]),
        ("a\x1cb\x85\u3000c", ["a", "\x1c", "b", "\x85", "\u3000", "c"]),  # U+001C is no white space for Unicode
        ("we're they've I'm", ["we", "'re", " they", "'ve", " I", "'m"]),
        ("he'd don't 'x", ["he", "'d", " don", "'t", " '", "x"]),
    ],
)  # fmt: skip
def test_words_are_cut_as_gpt2_does(text: str, cut: list[str]) -> None:
    assert words().findall(text) == cut


def slow_merges(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The algorithm as the paper has it: merge every occurrence of the earliest pair, until none is left."""
    parts = list(word)
    while pairs := [pair for pair in merges if pair in itertools.pairwise(parts)]:
        left, right = pairs[0]
        at = 0
        while at + 1 < len(parts):
            if (parts[at], parts[at + 1]) == (left, right):
                parts[at : at + 2] = [left + right]
            at += 1
    return parts


def test_merges_are_made_in_order_of_rank_from_the_left() -> None:
    merges = [("a", "a"), ("b", "a"), ("aa", "b"), ("aa", "aa"), ("aab", "ba"), ("a", "b")]
    own = Bpe(merges)
    for size in range(1, 9):
        for letters in itertools.product("ab", repeat=size):
            word = "".join(letters)
            assert [own.bytes[t].decode() for t in own.encode(word)] == slow_merges(word, merges)


def test_every_text_comes_back() -> None:
    own = Bpe([("Ġ", "t"), ("Ã", "©")])
    text = "été\x00 the 🙂\r\n\t\u3000 end  "
    assert own.decode(own.encode(text)) == text and own.decode([97 - 33, len(own) - 1]) == "a\n\n"
    assert len(own) == 259 and own.encode(" té") == [256, 257]


def test_a_long_word_takes_no_quadratic_time() -> None:
    own = Bpe([("a", "a"), ("aa", "aa")])
    assert own.encode("a" * 40_001) == [257] * 10_000 + [64]


def test_the_list_of_merges_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGNA_DATA", str(tmp_path))
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(SpecError, match=r"merges.txt is not GPT-2's list of merges\n  because: its sha256 is "):
        gpt2()
    monkeypatch.setattr(bpe, "find", lambda *_: None)
    with pytest.raises(SpecError, match=r"(?s)list of merges is not here.*prepare.py gpt2"):
        gpt2()


def test_without_the_merges_a_sample_is_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signa.lab.datasets.encodings.find", lambda *_: None)
    assert Gpt2().decode([15496, 50256]) == "15496 50256"


@here
def test_tiny_shakespeare_has_nanogpts_token_counts() -> None:
    text, own = read_shakespeare(), gpt2()
    cut = len(text) * 9 // 10
    train, val = own.encode(text[:cut]), own.encode(text[cut:])
    assert (len(train), len(val)) == (301_966, 36_059)  # nanoGPT, data/shakespeare/prepare.py
    assert own.decode(train) + own.decode(val) == text
    assert own.encode("Hello world") == [15496, 995] and len(own) == 50_257 == Gpt2.known


@here
def test_the_encoder_follows_from_the_merges() -> None:
    assert MERGES is not None
    path = MERGES.with_name("encoder.json")
    if not path.is_file():
        pytest.skip("encoder.json is not beside the list of merges")
    letters = {byte: letter for letter, byte in byte_letters().items()}
    own = {"".join(letters[byte] for byte in token): i for i, token in enumerate(gpt2().bytes)}
    assert own | {"<|endoftext|>": Gpt2.start} == json.loads(path.read_text())


def prepare() -> ModuleType:
    """examples/nanogpt/prepare.py."""
    spec = spec_from_file_location("prepare", ROOT / "examples" / "nanogpt" / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepare_takes_only_openais_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, out = prepare(), tmp_path / "out"
    for name in GPT2_FILES:
        (tmp_path / name).write_text(name)
    command = ["gpt2", "--source", str(tmp_path), "--out", str(out)]
    assert module.main(command) == 1 and not out.exists()
    assert f"vocab.bpe of {tmp_path} is not OpenAI's: its sha256 is" in capsys.readouterr().err
    for name in GPT2_FILES:
        monkeypatch.setitem(module.GPT2_FILES, name, hashlib.sha256(name.encode()).hexdigest())
    assert module.main(command) == 0 and {path.name for path in out.iterdir()} == set(GPT2_FILES)
    assert module.main(["gpt2", "--source", tmp_path.as_uri(), "--out", str(tmp_path / "url")]) == 0
    assert (tmp_path / "url" / "vocab.bpe").read_text() == "vocab.bpe"


def test_prepare_writes_and_fetches_token_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = prepare()
    (tmp_path / "fineweb.txt").write_text("0123456789" * 10)
    shards, raw = tmp_path / "shards", tmp_path / "raw"
    text = ["text", str(tmp_path / "fineweb.txt"), "--encoding", "bytes", "--out"]
    assert module.main([*text, str(raw)]) == 0 and module.main([*text, str(shards), "--form", "shard"]) == 0
    assert {p.name: p.stat().st_size for p in raw.iterdir()} == {"train.bin": 180, "val.bin": 20}
    assert {p.name: p.stat().st_size for p in shards.iterdir()} == {
        "fineweb_train_000001.bin": 1024 + 180, "fineweb_val_000000.bin": 1024 + 20,
    }  # fmt: skip
    fetch = ["fineweb", "--source", shards.as_uri(), "--out", str(tmp_path / "got"), "--shards"]
    assert module.main([*fetch, "1"]) == 0
    assert "fineweb_train_000001.bin: 90 tokens" in capsys.readouterr().out
    assert module.main([*fetch, "2"]) == 1 and module.main([*fetch, "104"]) == 1
    data = (shards / "fineweb_train_000001.bin").read_bytes()
    (shards / "fineweb_train_000002.bin").write_bytes(data[:-2])
    assert module.main([*fetch, "2"]) == 1 and not (tmp_path / "got" / "fineweb_train_000002.bin").exists()
    assert "its header counts 90 tokens and 89 follow" in capsys.readouterr().err
