"""The image classifiers: parameter counts of the sources, shapes, and what each of their numbers does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from signa.errors import SpecError
from signa.lab.models import Airbench, Cnn2, Mlp, Network, ResNet18, ResNet50, networks
from signa.lab.models.airbench import whitening

CIFAR, MNIST = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 28, 28)


def sizes(net: nn.Module) -> tuple[int, int, int]:
    """Matrices, entries in them, and entries in all else that is trained."""
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    matrices = [p.numel() for name, p in trained if p.ndim > 1 and not name.startswith("head")]
    return len(matrices), sum(matrices), sum(p.numel() for _, p in trained) - sum(matrices)


@pytest.mark.parametrize(
    ("network", "channels", "expected"),
    [
        (Cnn2(), 3, (3, 762_560, 2_146)),  # github intsystems/SignMuon, federated
        (Cnn2(), 1, (3, 64 * 25 + 128 * 1600 + 120 * 3200, 2_146)),
        (Cnn2(kernels=16, hidden=64), 3, (3, 16 * 75 + 32 * 400 + 64 * 1152, 16 * 3 + 32 * 3 + 64 * 3 + 650)),
        (ResNet18(), 3, (20, 11_159_232, 14_730)),  # the same, centralized
        (ResNet50(), 3, (53, 23_447_232, 53_120 + 20_490)),
        (Mlp(), 1, (1, 784 * 64, 64 + 650)),
        (Mlp(widths=(32, 16)), 1, (2, 784 * 32 + 32 * 16, 48 + 170)),
        (Mlp(widths=()), 1, (0, 0, 7850)),
    ],
    ids=str,
)
def test_parameter_counts(network: Network, channels: int, expected: tuple[int, int, int]) -> None:
    assert sizes(network.build(CIFAR if channels == 3 else MNIST, 10)) == expected


@pytest.mark.parametrize("images", [torch.randn(4, 3, 32, 32), torch.randn(4, 1, 28, 28)], ids=["cifar", "mnist"])
@pytest.mark.parametrize(
    "network", [Cnn2(kernels=4, hidden=8), ResNet18(width=4), ResNet50(width=2), Mlp(widths=(8,)), Airbench(width=4)],
    ids=str,
)  # fmt: skip
def test_a_network_has_a_head_and_a_gradient_everywhere(network: Network, images: torch.Tensor) -> None:
    if images.shape[-1] == 28 and network.kind == "airbench":
        images = nn.functional.pad(images, (2, 2, 2, 2))  # three poolings by 2, and one by 3
    net = network.build(images, 7)
    logits = net(images)
    assert logits.shape == (4, 7)
    assert next(name for name, _ in net.named_parameters() if name.startswith("head")) == "head.weight"
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert networks.parse({"kind": network.kind}).kind == network.kind


def test_dropout_and_width_are_what_they_say() -> None:
    dropped = ResNet18(width=4, dropout=0.5).build(CIFAR, 10)
    assert isinstance(dropped.dropout, nn.Dropout) and dropped.dropout.p == 0.5
    assert ResNet18().dropout == 0.1 and ResNet50(dropout=0.2, width=2).build(CIFAR, 10).dropout.p == 0.2  # type: ignore[union-attr]
    assert sizes(ResNet18(width=8).build(CIFAR, 10)) < sizes(ResNet18(width=16).build(CIFAR, 10))


def test_a_model_is_a_function_of_the_seed() -> None:
    for network in Cnn2(kernels=4), Airbench(width=4):
        nets = []
        for seed in 3, 3, 4:
            torch.manual_seed(seed)
            nets.append(network.build(torch.linspace(-1, 1, 2 * 3072).sin().view(2, 3, 32, 32), 10).state_dict())
        first, second, other = nets
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["head.weight"], other["head.weight"])


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(100, 3, 16, 12, generator=generator).cumsum(-1)[..., 4:]  # neighbours are alike
    filters = whitening(images)
    assert filters.shape == (24, 3, 2, 2) and torch.equal(filters[:12], -filters[12:])
    y = nn.functional.conv2d(images, filters[:12]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(y @ y.T / y.shape[1], torch.eye(12), atol=5e-3, rtol=0)


def test_airbench_is_frozen_and_starts_as_said() -> None:
    images = torch.randn(20, 3, 32, 32)
    net = Airbench(width=32).build(images, 10)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"whiten.weight"} | {f"groups.{g}.norm{i}.weight" for g in range(3) for i in (1, 2)}
    conv = dict(net.named_parameters())["groups.0.conv1.weight"]
    torch.testing.assert_close(nn.functional.conv2d(images[:, :1].expand(-1, 24, -1, -1), conv, padding=1)[:, :24],
                               images[:, :1].expand(-1, 24, -1, -1))  # fmt: skip
    assert sizes(Airbench(width=64).build(images, 10)) == (6, 1_967_616, 3_736)
    assert net.head.weight.std().item() == pytest.approx(1.0, abs=1e-5)  # type: ignore[union-attr, operator]
    before = net.eval()(images)
    net.head.weight.data.fill_(1.0)  # type: ignore[union-attr, operator]
    features = nn.functional.max_pool2d(net.groups(nn.functional.gelu(net.whiten(images))), 3)  # type: ignore[operator]
    torch.testing.assert_close(net(images), features.mean((1, 2, 3))[:, None].expand(-1, 10))
    assert before.std() > 0


def test_numbers_are_checked() -> None:
    for wrong in {"kind": "cnn2", "kernels": 0}, {"kind": "resnet18", "dropout": 1.0}, {"kind": "mlp", "widths": [0]}:
        with pytest.raises(Exception, match=r"kernels|dropout|widths"):
            networks.parse(wrong)
    with pytest.raises(SpecError, match="did you mean 'width'"):
        ResNet18(widht=3)  # type: ignore[call-arg]
