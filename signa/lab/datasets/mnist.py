"""MNIST and Fashion-MNIST: IDX files, plain or gzipped (http://yann.lecun.com/exdb/mnist, the IDX format)."""

from __future__ import annotations

import functools
import math
import struct

import numpy as np

from ..refusal import refusal
from .find import AGAIN, fetch, find, md5_of, reading, unpacked
from .images import Dataset, Images

__all__ = ["parse_idx", "read_fashion_mnist", "read_mnist"]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST_FOLDERS = ("mnist/MNIST/raw", "mnist/raw", "mnist", "MNIST/raw")
FASHION_FOLDERS = ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw")
#: md5 of the four unpacked files. The gzip files differ between mirrors, their content does not.
MNIST_MD5 = (
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)
#: Of Debian's dataset-fashion-mnist 0.0~git20200523.55506a9 (github.com/zalandoresearch/fashion-mnist).
FASHION_MD5 = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a",
    "15d484375f8d13e6eb1aabb0c3f46965",
)
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
UINT8 = 0x08  # the IDX format's code of the only type these files have


def parse_idx(data: bytes) -> np.ndarray:
    """An IDX file of bytes as an array: two zeros, the type, the number of axes, big-endian lengths, the entries.

    Raises:
        ValueError: it is no such file, or has not as many bytes as it says.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    array([7, 9], dtype=uint8)
    """
    if len(data) < 4 or data[:3] != bytes([0, 0, UINT8]):
        raise ValueError("no IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:start]) if len(data) >= start else (-1,)
    if len(data) - start != math.prod(shape):
        raise ValueError(f"an IDX file of {len(data)} bytes that says its shape is {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@functools.cache
def read_mnist() -> Dataset:
    """MNIST: 60,000 + 10,000 digits of 28x28.

    Raises:
        SpecError: it is nowhere and cannot be downloaded, or a file is another one.
    """
    parts = [_part(n, md5, MNIST_FOLDERS, MNIST_MIRRORS) for n, md5 in zip(FILES, MNIST_MD5, strict=True)]
    return _dataset(parts, mean=0.1307, std=0.3081)


@functools.cache
def read_fashion_mnist() -> Dataset:
    """Fashion-MNIST (arXiv 1708.07747): MNIST's shapes and formats, articles of clothing.

    Raises:
        SpecError: as `read_mnist`.
    """
    parts = [_part(n, md5, FASHION_FOLDERS, FASHION_MIRRORS) for n, md5 in zip(FILES, FASHION_MD5, strict=True)]
    return _dataset(parts, mean=0.2860, std=0.3530)


def places(folders: tuple[str, ...], name: str = FILES[0]) -> list[str]:
    """Where one of the four files may lie."""
    return [f"{folder}/{name}{gz}" for folder in folders for gz in ("", ".gz")]


def _part(name: str, md5: str, folders: tuple[str, ...], mirrors: tuple[str, ...]) -> np.ndarray:
    path = find(*places(folders, name))
    if path is None:
        urls, also = [f"{url}{name}.gz" for url in mirrors], [f"{folder}/{name}.gz" for folder in folders[1:]]
        path = fetch(f"{folders[0]}/{name}.gz", urls, md5, of=unpacked, also=also)
    with reading(path):
        data = unpacked(path.read_bytes())
    if (found := md5_of(data)) != md5:
        because = f"the md5 of its content is {found}, not {md5}"
        raise refusal(f"{path} is damaged, or another file", because=because, instead=AGAIN)
    return parse_idx(data)


def _dataset(parts: list[np.ndarray], mean: float, std: float) -> Dataset:
    train, test = (Images.of(pixels[:, None], labels) for pixels, labels in (parts[:2], parts[2:]))
    return Dataset(train, {"test": lambda: test}, (mean,), (std,))
