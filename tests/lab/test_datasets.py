"""Reading image sets: formats on small generated files, the places that are searched, downloads, and the splits."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from signa.errors import Fault, SpecError
from signa.lab import datasets
from signa.lab.datasets import Dirichlet, Iid, Images, Pathological, Shared, cifar, find, mnist

Patch = pytest.MonkeyPatch
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
LABELS = (np.arange(60) % 10).astype(np.uint8)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: Patch, tmp_path: Path) -> Iterator[None]:
    """Only what a test puts there is found, nothing is downloaded, and nothing read is remembered."""
    monkeypatch.setenv("SIGNA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SIGNA_OFFLINE", "1")
    monkeypatch.setattr(find, "roots", lambda: [tmp_path / "data", find.cache()])
    readers: list[Callable[[], object]] = [datasets.read_mnist, datasets.read_fashion_mnist, datasets.read_cifar10]
    for reader in readers:
        reader.cache_clear()  # type: ignore[attr-defined]
    yield
    for reader in readers:
        reader.cache_clear()  # type: ignore[attr-defined]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def sha256(pixels: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()


def binary(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate((labels[:, None], pixels.reshape(len(pixels), -1)), axis=1).tobytes()


def python(pixels: np.ndarray, labels: np.ndarray, protocol: int) -> bytes:
    names = [f"{i}.png" for i in range(len(labels))]
    data = pixels.reshape(len(pixels), -1)
    batch = {"batch_label": "one", "labels": labels.tolist(), "data": data, "filenames": names, "more": [7, 8]}
    return pickle.dumps(batch, protocol=protocol)


@pytest.fixture
def small_cifar(monkeypatch: Patch) -> None:
    """The reader takes PIXELS for CIFAR-10: 50 to train on, 10 to test on."""
    monkeypatch.setattr(cifar, "TRAIN_SHA256", sha256(PIXELS[:50], LABELS[:50]))
    monkeypatch.setattr(cifar, "TEST1K_SHA256", sha256(PIXELS[50:], LABELS[50:]))


def write_batches(folder: Path, pack: Callable[[np.ndarray, np.ndarray], bytes], ending: str) -> None:
    folder.mkdir(parents=True)
    for i in range(6):
        name = "test_batch" if i == 5 else f"data_batch_{i + 1}"
        rows = slice(10 * i, 10 * i + 10)
        (folder / (name + ending)).write_bytes(pack(PIXELS[rows], LABELS[rows]))


def is_small_cifar(data: datasets.Dataset) -> None:
    test = data.tests["test"]()
    assert torch.equal(data.train.pixels, torch.from_numpy(PIXELS[:50]))
    assert torch.equal(test.pixels, torch.from_numpy(PIXELS[50:]))
    assert data.train.labels.tolist() == LABELS[:50].tolist() and test.labels.tolist() == LABELS[50:].tolist()
    assert data.train.labels.dtype == torch.int64


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("folder", ["mnist/MNIST/raw", "mnist"])
def test_mnist_is_read_from_idx_files(monkeypatch: Patch, tmp_path: Path, pack: type[bytes], folder: str) -> None:
    parts = [RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (7, 3)]
    files = [idx(a) for part in parts for a in (part, np.arange(len(part), dtype=np.uint8))]
    monkeypatch.setattr(mnist, "MNIST_MD5", tuple(find.md5_of(file) for file in files))
    home = tmp_path / "data" / folder
    home.mkdir(parents=True)
    for name, file in zip(mnist.FILES, files):
        (home / (name if pack is bytes else f"{name}.gz")).write_bytes(pack(file))
    data = datasets.read_mnist()
    assert torch.equal(data.train.pixels, torch.from_numpy(parts[0])[:, None])
    assert data.tests["test"]().labels.tolist() == [0, 1, 2] and len(data.mean) == len(data.std) == 1


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "data" / "fashion-mnist"
    home.mkdir(parents=True)
    for name in mnist.FILES:
        (home / name).write_bytes(idx(np.zeros((2, 2), np.uint8)))
    with pytest.raises(SpecError, match=r"train-images-idx3-ubyte is damaged.*(\n.*)*md5 of its content is"):
        datasets.read_fashion_mnist()


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    home = tmp_path / "data" / "mnist"
    home.mkdir(parents=True)
    (home / f"{mnist.FILES[0]}.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    with pytest.raises(SpecError, match=r"train-images-idx3-ubyte.gz cannot be read(.|\n)*EOFError"):
        datasets.read_mnist()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\x08", bytes([0, 0, 9, 1, 0, 0, 0, 1, 5]), idx(np.zeros(4, np.uint8))[:-1], bytes([0, 0, 8, 3, 0])],
)
def test_what_is_no_idx_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="IDX file"):
        mnist.parse_idx(data)


@pytest.mark.parametrize("place", ["cifar10", ""])
def test_cifar_is_read_from_a_folder_of_either_version(tmp_path: Path, small_cifar: None, place: str) -> None:
    home = tmp_path / "data" / place
    write_batches(home / "cifar-10-batches-py", lambda x, y: python(x, y, 2), "")
    is_small_cifar(datasets.read_cifar10())
    datasets.read_cifar10.cache_clear()
    write_batches(home / "cifar-10-batches-bin", binary, ".bin")
    for path in (home / "cifar-10-batches-py").iterdir():
        path.unlink()  # the binary version is taken where both are
    is_small_cifar(datasets.read_cifar10())


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar_is_read_from_an_archive(tmp_path: Path, small_cifar: None, version: str) -> None:
    form = "cifar-10-batches-" + {"binary": "bin", "python": "py"}[version]
    pack = binary if version == "binary" else lambda x, y: python(x, y, 2)
    write_batches(tmp_path / form, pack, cifar.FORMS[form])
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / f"cifar-10-{version}.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / form, arcname=form)
    is_small_cifar(datasets.read_cifar10())


def test_a_batch_that_is_missing_and_pixels_that_differ_are_refused(tmp_path: Path, small_cifar: None) -> None:
    home = tmp_path / "data" / "cifar-10-batches-bin"
    write_batches(home, binary, ".bin")
    batch = (home / "data_batch_3.bin").read_bytes()
    (home / "data_batch_3.bin").unlink()
    with pytest.raises(SpecError, match="holds 5 of CIFAR-10's 6 batches"):
        datasets.read_cifar10()
    for name in "data_batch_3.bin", "test_batch.bin":
        whole = batch if name[0] == "d" else (home / name).read_bytes()
        (home / "data_batch_3.bin").write_bytes(batch)
        (home / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(SpecError, match="does not hold CIFAR-10"):
            datasets.read_cifar10()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_python_batch_is_read_without_running_it(protocol: int) -> None:
    if protocol in (0, 1):
        with pytest.raises(ValueError, match="no batch of CIFAR-10"):
            cifar.parse_python(pickle.dumps({"labels": [1]}, protocol=protocol))
        return
    images = cifar.parse_python(python(PIXELS, LABELS, protocol))
    assert torch.equal(images.pixels, torch.from_numpy(PIXELS)) and images.labels.tolist() == LABELS.tolist()


def test_a_python_batch_that_would_run_something_does_not(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "sprung"),)  # type: ignore[return-value]

    with pytest.raises(ValueError, match="no batch of CIFAR-10"):
        cifar.parse_python(pickle.dumps({"labels": [1], "data": Trap()}))
    assert not (tmp_path / "sprung").exists()
    for data in b"", b"not a pickle", pickle.dumps({"labels": [300]}):
        with pytest.raises(ValueError, match="no batch of CIFAR-10"):
            cifar.parse_python(data)
    with pytest.raises(ValueError, match="no records"):
        cifar.parse_binary(bytes(3074))


def test_mosaics_and_the_lossy_test_set(monkeypatch: Patch, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    home = tmp_path / "data" / "cifar10"
    home.mkdir(parents=True)

    def mosaic(name: str, pixels: np.ndarray) -> None:
        grid = pixels.reshape(2, -1, 3, 32, 32).transpose(0, 3, 1, 4, 2)
        image.fromarray(grid.reshape(64, -1, 3)).save(home / name, lossless=True)

    for i in range(5):
        mosaic(f"train_{i + 1}.webp", PIXELS[10 * i : 10 * i + 10])
    mosaic("test_first1000.webp", PIXELS[50:])
    (home / "train_labels.u8").write_bytes(LABELS[:50].tobytes())
    (home / "test_first1000_labels.u8").write_bytes(LABELS[50:].tobytes())
    with tarfile.open(home / "test_10k_jpegq75.tar.xz", "w:xz") as archive:
        for name, grey in ("test/cat/0000.jpg", 64), ("test/truck/0000.jpg", 192):
            file = io.BytesIO()
            image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(file, "jpeg")
            entry = tarfile.TarInfo(name)
            entry.size = file.tell()
            file.seek(0)
            archive.addfile(entry, file)
    monkeypatch.setattr(cifar, "TRAIN_SHA256", sha256(PIXELS[:50], LABELS[:50]))
    monkeypatch.setattr(cifar, "TEST1K_SHA256", sha256(PIXELS[50:], LABELS[50:]))
    jpegs = home / "test_10k_jpegq75.tar.xz"
    monkeypatch.setattr(cifar, "LOSSY_SHA256", hashlib.sha256(jpegs.read_bytes()).hexdigest())

    data = datasets.read_cifar10()
    assert torch.equal(data.train.pixels, torch.from_numpy(PIXELS[:50])) and list(data.tests) == [
        "test1k",
        "test10k_lossy",
    ]
    assert torch.equal(data.tests["test1k"]().pixels, torch.from_numpy(PIXELS[50:]))
    lossy = data.tests["test10k_lossy"]()
    assert lossy.labels.tolist() == [3, 9] and lossy.pixels.float().mean((1, 2, 3)).tolist() == [64.0, 192.0]
    for name, what in (  # a damaged test set is told before a run begins, not at its end
        ("test_first1000_labels.u8", "does not hold CIFAR-10"),
        ("test_first1000.webp", "cannot be read"),
        ("test_10k_jpegq75.tar.xz", "is damaged, or another file"),
    ):
        whole = (home / name).read_bytes()
        (home / name).write_bytes(whole[::-1] if name.endswith("u8") else whole[: len(whole) // 2])
        datasets.read_cifar10.cache_clear()
        with pytest.raises(SpecError, match=what):
            datasets.read_cifar10()
        (home / name).write_bytes(whole)
    (home / "train_4.webp").unlink()
    datasets.read_cifar10.cache_clear()
    with pytest.raises(SpecError, match=r"cifar10 cannot be read(.|\n)*FileNotFoundError(.|\n)*train_4"):
        datasets.read_cifar10()


def test_where_data_is_nowhere_the_refusal_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        datasets.read_mnist()
    text = str(caught.value)
    assert "train-images-idx3-ubyte.gz is not there" in text and "SIGNA_OFFLINE forbids downloads" in text
    assert str(tmp_path / "data") in text and str(tmp_path / "cache" / "signa") in text and "SIGNA_DATA=FOLDER" in text


def test_roots_and_their_order(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SIGNA_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    with pytest.raises(SpecError, match="own, and that is no folder"):
        find.roots()
    (tmp_path / "own").mkdir()
    assert find.roots() == [tmp_path / "own", shared, tmp_path / "cache" / "signa"]
    monkeypatch.setenv("SIGNA_DATA", str(shared.parent / "data"))
    assert not shared.is_dir() or len(find.roots()) == 2  # named once
    monkeypatch.delenv("SIGNA_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find.roots() == [shared, tmp_path / ".cache" / "signa"]
    monkeypatch.setattr(find, "roots", lambda: [tmp_path / "one", tmp_path / "two"])
    for place in "one/b", "two/a":
        (tmp_path / place).mkdir(parents=True)
    assert find.find("a", "b") == tmp_path / "one" / "b" and find.find("c") is None  # root by root


def test_a_download_is_checked_and_appears_whole(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGNA_OFFLINE", "0")
    (tmp_path / "mirror").write_bytes(gzip.compress(b"data"))
    dead, good = (tmp_path / "dead").as_uri(), (tmp_path / "mirror").as_uri()
    md5 = find.md5_of(b"data")
    path = find.fetch("set/file.gz", [dead, good], md5, of=find.unpacked)
    assert path == tmp_path / "cache" / "signa" / "set" / "file.gz"
    assert gzip.decompress(path.read_bytes()) == b"data" and find.find("set/file.gz") == path
    with pytest.raises(SpecError, match=f"its md5 is {find.md5_of(b'data')}, not {'0' * 32}"):
        find.fetch("set/other.gz", [good], "0" * 32, of=find.unpacked)
    monkeypatch.setattr(find.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(SpecError, match="the disk is full"):
        find.fetch("set/third.gz", [good], md5, of=find.unpacked)
    assert [p.name for p in path.parent.iterdir()] == ["file.gz"]


@pytest.mark.parametrize("split", [Iid(), Dirichlet(alpha=0.5), Pathological(), Pathological(shards=3)], ids=str)
def test_a_split_hands_out_every_image_once(split: datasets.Split) -> None:
    labels = np.random.default_rng(1).integers(0, 10, 1003)
    parts = split(labels, 7, 5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1003)) and len(parts) == 7
    assert all((np.diff(part) > 0).all() for part in parts)
    again, other = split(labels, 7, 5), split(labels, 7, 6)
    assert all(map(np.array_equal, parts, again)) and not all(map(np.array_equal, parts, other))


def classes(labels: np.ndarray, parts: list[np.ndarray]) -> float:
    return float(np.mean([len(np.unique(labels[part])) for part in parts]))


def test_splits_differ_as_they_say() -> None:
    labels = np.random.default_rng(1).integers(0, 10, 2000)
    skew = {alpha: classes(labels, Dirichlet(alpha=alpha, minimum=1)(labels, 10, 0)) for alpha in (0.05, 0.5, 100.0)}
    assert skew[0.05] < skew[0.5] < skew[100.0] == 10.0
    assert min(map(len, Dirichlet(alpha=0.1, minimum=60)(labels, 10, 0))) >= 60
    assert classes(labels, Pathological(shards=1)(labels, 10, 0)) < classes(
        labels, Pathological(shards=4)(labels, 10, 0)
    )
    sizes = [len(part) for part in Iid()(labels, 7, 0)]
    assert max(sizes) - min(sizes) == 1 and classes(labels, Iid()(labels, 7, 0)) == 10.0
    assert all(np.array_equal(part, np.arange(2000)) for part in Shared()(labels, 3, 0))


def test_a_split_of_too_few_images_is_refused() -> None:
    for split in Iid(), Dirichlet(minimum=1), Pathological(shards=1):
        with pytest.raises(Fault, match="3 images are too few for this split"):
            split(np.zeros(3), 4, 0)
    with pytest.raises(Fault, match="no split of 100 images over 5 workers gave everyone 20"):
        Dirichlet(alpha=0.01, minimum=20)(np.arange(100) % 3, 5, 0)  # a class goes to one worker


def test_images_are_checked() -> None:
    with pytest.raises(ValueError, match="no labelled images"):
        Images(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="no labelled images"):
        Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_real_data(monkeypatch: Patch, name: str) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SIGNA_OFFLINE", "1")
    try:
        data = datasets.READERS[name]()
    except SpecError as error:
        pytest.skip(f"the data is not here: {error.problems[0].what}")
    assert len(data.train) == {"mnist": 60_000, "cifar10": 50_000}[name]
    assert data.train.labels[:5].tolist() == {"mnist": [5, 0, 4, 1, 9], "cifar10": [6, 9, 9, 4, 1]}[name]
    mean = data.train.pixels.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(data.mean, dtype=torch.float64), atol=1e-4, rtol=0)
