"""Agreement with torch's own optimizers and with textbook loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa

SHAPES = ((24, 24), (16, 40), (40, 16), (9, 21), (65, 33), (1, 7), (7, 1))


def gradients(shape: Sequence[int], steps: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype) for _ in range(steps)]


def start(shape: Sequence[int], dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(gradients(shape, 1, seed=99, dtype=dtype)[0])


def ours(
    method: Any, X: nn.Parameter, *, lr: float, workers: int = 1, decay: float = 0.0, scaling: str = "none"
) -> signa.SignA:
    group = {"method": method, "lr": lr, "weight_decay": decay, "scaling": scaling}
    return signa.build({"groups": [group]}, [("X", X)], transport=signa.Loopback(workers))


def feed(opt: signa.SignA, X: nn.Parameter, rows: Sequence[Tensor]) -> None:
    """One step with a gradient for each worker."""
    for j, g in enumerate(rows):
        with opt.worker(j):
            X.grad = g.clone()
    opt.step()
    opt.zero_grad()


def follow(X: nn.Parameter, opt: Any, grads: Sequence[Tensor]) -> Tensor:
    """All iterates of an ordinary optimizer."""
    path = []
    for g in grads:
        X.grad = g.clone()
        opt.step()
        path.append(X.detach().clone())
    return torch.stack(path)


def apart(a: Tensor, b: Tensor, origin: Tensor | float = 0.0) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b - origin))


# torch.optim ---------------------------------------------------------------------------------------------------------

JORDAN = {"kind": "spectral", "schedule": "jordan5", "dtype": "bfloat16"}
MUON = {"worker": [{"kind": "momentum", "beta": 0.95, "nu": "beta"}], "server": [JORDAN]}


def jordan(g: Tensor) -> Tensor:
    """Five steps of Jordan's polynomial in float64."""
    x = g.double().T if g.shape[0] > g.shape[1] else g.double()
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        A = x @ x.T
        x = 3.4445 * x + (-4.7750 * A + 2.0315 * A @ A) @ x
    return (x.T if g.shape[0] > g.shape[1] else x).to(g.dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_jordan_is_jordans_polynomial(shape: tuple[int, int]) -> None:
    """To rounding: 1e-12 in float64, 5e-6 in float32, 3e-2 in bfloat16."""
    g = gradients(shape, 1)[0]
    for dtype, within in (("parameter", 1e-12), ("float32", 5e-6), ("bfloat16", 3e-2)):
        mine = signa.lmos.get("spectral")(schedule="jordan5", dtype=dtype).direction(g)
        assert apart(mine, jordan(g)) < within, dtype


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("shape", [*SHAPES[:5], (64, 256), (96, 512)], ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_torch_muon(shape: tuple[int, int], decay: float) -> None:
    """jordan5 in bfloat16, EMA with Nesterov; adjust_lr_fn "original" is unit gain.

    Both round alike up to an inner length of 320, beyond which X X^T is added in blocks so that its bits do not depend
    on the threads; each is then 1 to 2 % from the polynomial in float64, and they differ by as much.
    """
    within = 1e-2 if max(shape) <= 320 else 3e-2
    X, Y = start(shape, torch.float32), start(shape, torch.float32)
    lr = 0.02
    a = ours(MUON, X, lr=lr, decay=decay, scaling="unit_gain")
    b = torch.optim.Muon(
        [Y], lr=lr, momentum=0.95, nesterov=True, weight_decay=decay, adjust_lr_fn="original", eps=1e-7
    )
    grads, origin = gradients(shape, 20, dtype=torch.float32), X.detach().clone()
    mine, theirs = follow(X, a, grads), follow(Y, b, grads)
    assert apart(mine[0], theirs[0], origin * (1 - lr * decay)) < within
    assert apart(mine[-1], theirs[-1], origin) < 1e-2
    assert apart(mine[-1], mine[0]) > 5e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_torch_muon_without_nesterov() -> None:
    X, Y = start((16, 40), torch.float32), start((16, 40), torch.float32)
    origin, grads = X.detach().clone(), gradients((16, 40), 20, dtype=torch.float32)
    a = ours({**MUON, "worker": ["momentum"]}, X, lr=0.02, scaling="unit_gain")
    b = torch.optim.Muon([Y], lr=0.02, nesterov=False, weight_decay=0.0, adjust_lr_fn="original")
    nesterov = start((16, 40), torch.float32)
    other = follow(nesterov, ours(MUON, nesterov, lr=0.02, scaling="unit_gain"), grads)
    mine, theirs = follow(X, a, grads), follow(Y, b, grads)
    assert apart(mine[-1], theirs[-1], origin) < 2e-2 < apart(other[-1], theirs[-1], origin)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_torch_sgd(momentum: float, nesterov: bool, decay: float) -> None:
    if nesterov and not momentum:
        pytest.skip("torch refuses Nesterov without momentum")
    X, Y, grads = start((9, 21)), start((9, 21)), gradients((9, 21), 25)
    stage = {"kind": "momentum", "beta": momentum, "heavy_ball": True, "nu": "beta" if nesterov else 1.0}
    a = ours({"worker": ["decay", stage] if decay else [stage]}, X, lr=0.1, decay=decay)
    b = torch.optim.SGD([Y], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    assert torch.allclose(follow(X, a, grads), follow(Y, b, grads), rtol=1e-12, atol=1e-12)


def test_the_sgd_preset_is_torchs() -> None:
    X, Y, grads = start((9, 21)), start((9, 21)), gradients((9, 21), 25)
    a, b = ours("sgd", X, lr=0.1, scaling="unit_gain"), torch.optim.SGD([Y], lr=0.1, momentum=0.9)
    assert torch.allclose(follow(X, a, grads), follow(Y, b, grads), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(9, 21), (5,), (), (3, 4, 2, 2)], ids=str)
def test_torch_adamw(decay: float, shape: tuple[int, ...]) -> None:
    X, Y, grads = start(shape), start(shape), gradients(shape, 40)
    a, b = (
        ours("adamw", X, lr=0.03, decay=decay, scaling="unit_gain"),
        torch.optim.AdamW([Y], lr=0.03, weight_decay=decay),
    )
    assert torch.allclose(follow(X, a, grads), follow(Y, b, grads), rtol=1e-12, atol=1e-12)


def test_torch_adam_with_other_betas() -> None:
    X, Y, grads = start((9, 21)), start((9, 21)), gradients((9, 21), 40)
    adam = {"kind": "adam", "b1": 0.8, "b2": 0.95, "eps": 1e-3}
    a = ours({"replica": [adam, "step"]}, X, lr=0.03)
    b = torch.optim.Adam([Y], lr=0.03, betas=(0.8, 0.95), eps=1e-3)
    assert torch.allclose(follow(X, a, grads), follow(Y, b, grads), rtol=1e-12, atol=1e-12)


# Textbook loops ------------------------------------------------------------------------------------------------------


def compare(
    opt: signa.SignA, X: nn.Parameter, loop: Callable[[Tensor, list[Tensor], int], Tensor], workers: int
) -> None:
    """20 steps of ours beside ``Y = loop(Y, gradients, t)``."""
    Y, shape = X.detach().clone(), tuple(X.shape)
    rows = [gradients(shape, 20, seed=j) for j in range(workers)]
    for t in range(20):
        step = [row[t] for row in rows]
        feed(opt, X, step)
        Y = loop(Y, step, t)
        assert torch.allclose(X.detach(), Y, rtol=1e-12, atol=1e-12), t
    assert not torch.allclose(X.detach(), start(shape).detach(), atol=1e-3)


@pytest.mark.parametrize("workers", [1, 4])
def test_lion(workers: int) -> None:
    """arXiv 2302.06675, Algorithm 2, on the mean gradient."""
    X, lr, wd, b1, b2 = start((9, 21)), 0.01, 0.1, 0.9, 0.99
    m = torch.zeros(9, 21, dtype=torch.float64)

    def loop(Y: Tensor, g: list[Tensor], t: int) -> Tensor:
        nonlocal m
        mean = sum(g) / workers
        Y = Y - lr * ((b1 * m + (1 - b1) * mean).sign() + wd * Y)
        m = b2 * m + (1 - b2) * mean
        return Y

    compare(ours("lion", X, lr=lr, decay=wd, workers=workers), X, loop, workers)


@pytest.mark.parametrize("workers", [1, 3, 5])
@pytest.mark.parametrize("vote", [True, False])
def test_distributed_lion(workers: int, vote: bool) -> None:
    """arXiv 2404.00438, Algorithm 1, majority vote and averaging."""
    X, lr, wd, b1, b2 = start((9, 21)), 0.01, 0.1, 0.9, 0.99
    m = [torch.zeros(9, 21, dtype=torch.float64) for _ in range(workers)]

    def loop(Y: Tensor, g: list[Tensor], t: int) -> Tensor:
        total = sum((b1 * m[j] + (1 - b1) * g[j]).sign() for j in range(workers))
        for j in range(workers):
            m[j] = b2 * m[j] + (1 - b2) * g[j]
        return Y - lr * ((total.sign() if vote else total / workers) + wd * Y)

    compare(ours("dlion_vote" if vote else "dlion_mean", X, lr=lr, decay=wd, workers=workers), X, loop, workers)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("both", [False, True])
def test_ef_signsgd(workers: int, both: bool) -> None:
    """arXiv 1901.09847, Algorithm 1 (the step size outside C); with both directions compressed arXiv 1905.05957."""
    X, lr = start((9, 21)), 0.05
    e = [torch.zeros(9, 21, dtype=torch.float64) for _ in range(workers + 1)]

    def squeeze(j: int, u: Tensor) -> Tensor:
        p = e[j] + u
        y = p.abs().mean() * p.sign()
        e[j] = p - y
        return y

    def loop(Y: Tensor, g: list[Tensor], t: int) -> Tensor:
        y = sum(squeeze(j, g[j]) for j in range(workers)) / workers
        return Y - lr * (squeeze(workers, y) if both else y)

    compare(ours("doublesqueeze" if both else "ef_signsgd", X, lr=lr, workers=workers), X, loop, workers)


def exact_polar(g: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(g, full_matrices=False)
    return U @ Vh


#: Scion's oracles with their radii on a 9 x 21 matrix: arXiv 2502.07529, table 2.
SCION = {
    "spectral": ({"kind": "spectral", "schedule": "exact"}, exact_polar, (9 / 21) ** 0.5),
    "sign": ({"kind": "linf"}, torch.sign, 1 / 21),
    "column": ({"kind": "column"}, lambda g: g / torch.linalg.vector_norm(g, dim=0), 9**0.5),
    "row": ({"kind": "row"}, lambda g: g / torch.linalg.vector_norm(g, dim=1, keepdim=True), 1 / 21**0.5),
}


@pytest.mark.parametrize("oracle", SCION)
@pytest.mark.parametrize("constrained", [False, True])
def test_scion(oracle: str, constrained: bool) -> None:
    """arXiv 2502.07529, Algorithms 1 and 2: x <- (1 - gamma) x + gamma lmo(d), or x <- x + gamma lmo(d).

    d <- (1 - alpha) d + alpha g, and lmo's ball has radius rho times the table's: decoupled decay 1 is the constraint.
    """
    spelled, direction, radius = SCION[oracle]
    X, gamma, alpha, rho = start((9, 21)), 0.05, 0.1, 5.0
    d = torch.zeros(9, 21, dtype=torch.float64)

    def loop(Y: Tensor, g: list[Tensor], t: int) -> Tensor:
        nonlocal d
        d = (1 - alpha) * d + alpha * g[0]
        return (1 - gamma if constrained else 1) * Y - gamma * rho * radius * direction(d)

    lmo = spelled | {"radius": rho * radius}
    method = {"worker": [{"kind": "momentum", "beta": 1 - alpha}], "server": [lmo]}
    compare(ours(method, X, lr=gamma, decay=1.0 if constrained else 0.0), X, loop, 1)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("coupled", [False, True])
def test_signmuon(workers: int, coupled: bool) -> None:
    """The reference's federated loop with an exact oracle and an odd number of workers."""
    X, lr, wd, beta = start((9, 21)), 0.02, 0.1, 0.9
    m = [torch.zeros(9, 21, dtype=torch.float64) for _ in range(workers)]

    def loop(Y: Tensor, g: list[Tensor], t: int) -> Tensor:
        for j in range(workers):
            m[j] = beta * m[j] + (1 - beta) * (g[j] + wd * Y if coupled else g[j])
        vote = sum(exact_polar(m_j).sign() for m_j in m).sign()
        return (Y if coupled else (1 - lr * wd) * Y) - lr / 21**0.5 * vote

    worker = [{"kind": "momentum", "beta": beta}, {"kind": "spectral", "schedule": "exact"}]
    method = {"method": "signmuon", "worker": ["decay", *worker] if coupled else worker}
    compare(ours(method, X, lr=lr, decay=wd, workers=workers, scaling="unit_gain"), X, loop, workers)


@pytest.mark.parametrize("workers", [1, 4])
def test_ef21_muonsign(workers: int) -> None:
    """The reference's EF21-MuonSign: the gradient is taken at W, X steps, W follows."""
    X, lr, wd, beta = start((9, 21)), 0.02, 0.1, 0.9
    exact = X.detach().clone()
    zero = torch.zeros(9, 21, dtype=torch.float64)
    m, h = [zero] * workers, [zero] * workers

    def C(u: Tensor) -> Tensor:
        return u.abs().mean() * u.sign()

    def loop(W: Tensor, g: list[Tensor], t: int) -> Tensor:
        nonlocal exact
        for j in range(workers):
            m[j] = beta * m[j] + (1 - beta) * g[j]
            h[j] = h[j] + C(m[j] - h[j])
        exact = (1 - lr * wd) * exact - lr * exact_polar(sum(h) / workers)
        return W + C(exact - W)

    spectral = {"kind": "spectral", "schedule": "exact"}
    method = {"method": "ef21muonsign", "worker": [{"kind": "momentum", "beta": beta}], "server": [spectral, "step"]}
    opt = ours(method, X, lr=lr, decay=wd, workers=workers)
    compare(opt, X, loop, workers)
    with opt.exact():
        assert torch.allclose(X.detach(), exact, rtol=1e-12, atol=1e-12)
