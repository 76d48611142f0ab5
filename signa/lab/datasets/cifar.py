"""CIFAR-10 (Krizhevsky, 2009): the official binary and python archives, and lossless mosaics of the same pixels.

The pixels' sha256 is checked, whatever they came from, so results do not depend on the format.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickletools
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ..refusal import refusal
from .find import AGAIN, fetch, find, reading
from .images import Dataset, Images

__all__ = ["parse_binary", "parse_python", "read_cifar10", "read_jpegs", "tiles"]

IMAGE = 3 * 32 * 32
#: sha256 over the uint8 pixels (n, 3, 32, 32) and then the uint8 labels, in the official order.
TRAIN_SHA256 = "1e91790dbaf241617ca1f29a9aba08eb9a62df84cc90676b47edd05ad2ab3c94"
TEST1K_SHA256 = "2c7f1e2769a741f695dfd5f74aa4a4ef08a7d20b9ec8576214dabab76c75c784"
#: Of the archive of JPEG files, whose pixels another decoder may round otherwise.
LOSSY_SHA256 = "b188a2a07cda3f9e72ad01968e3ecc59427e7f63b660a017a2dcba6daac838b0"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # as in github intsystems/SignMuon, centralized/
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
#: The archive on https://www.cs.toronto.edu/~kriz/cifar.html and the md5 given there.
URL, MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
FORMS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}
MOSAIC = "cifar10/train_1.webp"
ARCHIVES = {"cifar-10-binary.tar.gz": "cifar-10-batches-bin", "cifar-10-python.tar.gz": "cifar-10-batches-py"}


@functools.cache
def read_cifar10() -> Dataset:
    """CIFAR-10: 50,000 + 10,000 pictures of 32x32 in colour.

    Test sets: `test`, the official one, where an official archive is found. Beside the lossless mosaics there are
    `test1k`, its first 1,000 images, and `test10k_lossy`, all of it after JPEG compression.

    Raises:
        SpecError: it is nowhere and cannot be downloaded, or its pixels are not CIFAR-10's.
    """
    official = find(*_inside(FORMS), *_inside(ARCHIVES))
    if official is None and (mosaic := find(MOSAIC)) is not None:
        with reading(mosaic.parent):
            return _mosaics(mosaic.parent)
    also = ["cifar10/cifar-10-python.tar.gz", "cifar10/train_1.webp and the other mosaics"]
    path = official or fetch("cifar10/cifar-10-binary.tar.gz", [URL], MD5, also=also)
    with reading(path):
        return _official(path)


def parse_binary(data: bytes) -> Images:
    """A batch of the binary version: records of a label and 3,072 bytes, red, green and blue planes.

    >>> len(parse_binary(bytes([3]) + bytes(3072)))
    1
    """
    if not data or len(data) % (IMAGE + 1):
        raise ValueError(f"{len(data)} bytes are no records of {IMAGE + 1}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, IMAGE + 1)
    return Images.of(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0])


def parse_python(data: bytes) -> Images:
    """A batch of the python version, read without running it: its opcodes are listed, not carried out.

    The pixels are its one long constant, and the labels the numbers that follow the word `labels`.
    """
    pixels, labels, counting = b"", bytearray(), False
    try:
        for opcode, value, _ in pickletools.genops(data):
            if isinstance(value, str | bytes | bytearray):
                counting = value in ("labels", b"labels")
                if len(value) > len(pixels):
                    pixels = value.encode("latin-1") if isinstance(value, str) else bytes(value)
            elif counting and opcode.name in ("BININT1", "BININT", "INT"):
                labels.append(int(value or 0))
    except (ValueError, IndexError) as error:
        raise ValueError(f"no batch of CIFAR-10: {error}") from None
    if not labels or len(pixels) != IMAGE * len(labels):
        raise ValueError(f"no batch of CIFAR-10: {len(labels)} labels and {len(pixels)} bytes of pixels")
    return Images.of(np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32), np.frombuffer(labels, np.uint8))


def tiles(mosaic: np.ndarray) -> np.ndarray:
    """The 32x32 tiles of a picture (height, width, 3), row by row, as (n, 3, 32, 32).

    >>> tiles(np.zeros((64, 96, 3), np.uint8)).shape
    (6, 3, 32, 32)
    """
    rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
    return mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)


def read_jpegs(path: Path) -> Images:
    """A tar archive of `FOLDER/CLASS/NAME.jpg`, in the archive's order."""
    pixels, labels = [], []
    with reading(path), tarfile.open(path) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                pixels.append(_picture(io.BytesIO(file.read())))
                labels.append(CLASSES.index(Path(member.name).parent.name))
    return Images.of(np.stack(pixels).transpose(0, 3, 1, 2), np.array(labels))


def places() -> list[str]:
    """Where the images may lie, in one form or another."""
    return [*_inside(FORMS), *_inside(ARCHIVES), MOSAIC]


def _inside(names: Sequence[str] | dict[str, str]) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in ("cifar10/", "")]


def _official(path: Path) -> Dataset:
    """From an official archive, or the folder that it unpacks to."""
    form = ARCHIVES.get(path.name, path.name)
    parse = parse_binary if FORMS[form] else parse_python
    names = [f"{name}{FORMS[form]}" for name in (*BATCHES, "test_batch")]
    if path.is_dir():
        parts = [parse((path / name).read_bytes()) for name in names if (path / name).is_file()]
    else:
        with tarfile.open(path) as archive:
            found = {m.name: archive.extractfile(m) for m in archive if Path(m.name).name in names}
            files = [found.get(f"{form}/{name}") for name in names]
            parts = [parse(file.read()) for file in files if file is not None]
    if len(parts) != len(names):
        what = f"{path} holds {len(parts)} of CIFAR-10's {len(names)} batches"
        raise refusal(what, instead=AGAIN)
    *train, test = parts
    _checked(path, test.take(torch.arange(min(1000, len(test)))), TEST1K_SHA256)
    return _dataset(path, _joined(train), {"test": lambda: test})


def _mosaics(folder: Path) -> Dataset:
    """From the lossless mosaics."""
    with ThreadPoolExecutor(2) as pool:  # decoding leaves Python's lock alone
        pictures = list(pool.map(_picture, [folder / f"train_{i}.webp" for i in range(1, 6)]))
    pixels = np.concatenate([tiles(picture) for picture in pictures])
    train = Images.of(pixels, np.fromfile(folder / "train_labels.u8", np.uint8))

    with reading(folder / "test_first1000.webp"):
        pixels = tiles(_picture(folder / "test_first1000.webp"))
    labels = np.fromfile(folder / "test_first1000_labels.u8", np.uint8)
    first = _checked(folder, Images.of(pixels, labels), TEST1K_SHA256)
    jpegs = folder / "test_10k_jpegq75.tar.xz"
    if (found := hashlib.sha256(jpegs.read_bytes()).hexdigest()) != LOSSY_SHA256:  # decoding it takes 5 s: not yet
        because = f"its sha256 is {found}, not {LOSSY_SHA256}"
        raise refusal(f"{jpegs} is damaged, or another file", because=because, instead=AGAIN)
    lossy = functools.cache(lambda: read_jpegs(jpegs))
    return _dataset(folder, train, {"test1k": lambda: first, "test10k_lossy": lossy})


def _dataset(path: Path, train: Images, tests: dict[str, Callable[[], Images]]) -> Dataset:
    return Dataset(_checked(path, train, TRAIN_SHA256), tests, MEAN, STD)


def _joined(parts: Sequence[Images]) -> Images:
    pixels, labels = ([getattr(part, name).numpy() for part in parts] for name in ("pixels", "labels"))
    return Images.of(np.concatenate(pixels), np.concatenate(labels))


def _checked(path: Path, images: Images, sha256: str) -> Images:
    digest = hashlib.sha256(images.pixels.numpy().data)
    digest.update(images.labels.numpy().astype(np.uint8).data)
    if digest.hexdigest() != sha256:
        because = f"the sha256 of {len(images)} images and labels is {digest.hexdigest()}, not {sha256}"
        raise refusal(f"{path} does not hold CIFAR-10", because=because, instead=AGAIN)
    return images


def _picture(file: Path | io.BytesIO) -> np.ndarray:
    """A picture as (height, width, 3)."""
    with _pillow().open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise refusal(
            "reading CIFAR-10's mosaics needs Pillow, which is not installed",
            instead="pip install 'signa-optim[train]', or put cifar-10-binary.tar.gz into $SIGNA_DATA",
        ) from None
    return Image
