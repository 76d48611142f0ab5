"""The models that tasks train."""

from .airbench import Airbench
from .cnn2 import Cnn2
from .gpt import GPT
from .mlp import Mlp
from .network import Network, networks
from .resnet import ResNet18, ResNet50

__all__ = ["GPT", "Airbench", "Cnn2", "Mlp", "Network", "ResNet18", "ResNet50", "networks"]
