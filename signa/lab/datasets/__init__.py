"""Image sets, read from a folder or downloaded with a checksum: uint8 tensors in the official order."""

from .cifar import read_cifar10
from .images import Dataset, Images
from .mnist import read_fashion_mnist, read_mnist
from .splits import Dirichlet, Iid, Pathological, Shared, Split, splits

#: What `data:` of the task `images` may name, and its reader.
READERS = {"mnist": read_mnist, "fashion_mnist": read_fashion_mnist, "cifar10": read_cifar10}

__all__ = [
    "READERS",
    "Dataset",
    "Dirichlet",
    "Iid",
    "Images",
    "Pathological",
    "Shared",
    "Split",
    "read_cifar10",
    "read_fashion_mnist",
    "read_mnist",
    "splits",
]
