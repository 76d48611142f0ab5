"""Clients that write letters and a server that answers them are signa.Loopback, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa import presets
from signa.errors import CorruptMessage, LayoutMismatch, SignaError, StateError
from signa.packing import words_for
from signa.transport.post import MODEL, SERVER, Box, Office, written
from tests.ranks.cases import (
    SHAPES,
    SMALL,
    SOURCE,
    Grad,
    Net,
    Run,
    awkward,
    build,
    fingerprint,
    loopback,
    outcome,
    parameters,
    plain,
    spec,
    step,
)
from tests.ranks.methods import METHODS, plugged

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
WORKERS, STEPS = 5, 8
NAMES = [*presets.names(), *METHODS]
SIGNS = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "signmuon", "lr": 0.02}]}


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


def drawn(t: int) -> list[int]:
    """Who takes part: worker 4 first at step 6, worker 1 never between 1 and 5, nobody at step 7."""
    return [[0, 1, 2, 3], [0, 2], [2, 3], [0, 2, 3], [3], [0, 1, 2], [0, 1, 4], []][t]


def sampled(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
    return awkward(name, p, t, j) if j in drawn(t) else None


class Post:
    """A server and its clients, each with a model of its own; ``mail`` asks those who take part."""

    def __init__(
        self, source: Any, *, keep: int = 20, grad: Grad = awkward, who: Callable[[int], list[int]] = drawn,
        dtype: torch.dtype = torch.float32, shapes: Mapping[str, Any] = SHAPES, workers: int = WORKERS, **options: Any,
    ) -> None:  # fmt: skip
        self.grad, self.who = grad, who
        self.brought: list[tuple[int, int, list[bytes]]] = []
        self.make = lambda transport: self._made(transport, source, dtype, shapes, options)
        self.office = Office(workers, self.mail, keep=keep)
        self.ps, self.opt = self.make(self.office)
        self.boxes = [Box(workers, j) for j in range(workers)]
        self.clients = [self.make(box) for box in self.boxes]

    def _made(self, transport: Any, source: Any, dtype: Any, shapes: Any, options: Any) -> tuple[dict[str, Any], Any]:
        ps = parameters(dtype, shapes)
        opt = build(source, ps, transport, **options)
        transport.attach(opt)
        return ps, opt

    def bring(self, j: int) -> None:
        letters = self.office.missed(self.boxes[j].position)
        self.brought.append((self.office.opt.steps, j, letters))
        self.boxes[j].deliver(letters)

    def mail(self, t: int) -> dict[int, bytes]:
        for j in self.who(t):
            self.bring(j)
            ps, opt = self.clients[j]
            opt.zero_grad()
            for name, p in ps.items():
                p.grad = self.grad(name, p, t, j)
            opt.step()
        return {j: self.boxes[j].letter for j in self.who(t)}

    def run(self, steps: int = STEPS) -> Run:
        digests = []
        for _ in range(steps):
            self.opt.step()
            digests.append(fingerprint(self.ps))
        for j in range(len(self.boxes)):
            self.bring(j)
        return outcome(self.opt, self.ps, digests)


@lru_cache(None)
def simulated(name: str, dtype: torch.dtype) -> Run:
    return loopback(spec(METHODS.get(name, name)), WORKERS, steps=STEPS, dtype=dtype, grad=sampled)


def equal(post: Post, found: Run, expected: Run) -> None:
    """The server after every step, every client in the end, and everybody's share of the state."""
    assert found.digests == expected.digests
    for j, (ps, opt) in enumerate(post.clients):
        assert fingerprint(ps) == expected.digests[-1], j
        state = outcome(opt, ps, []).states
        for key, value in expected.states.items():
            owner = key.split(" ")[1].partition(".")[0]
            if owner == "server":
                assert key.startswith("none ") or key not in state, key  # without entries there is no server
                assert torch.equal(found.states[key], value), key
            else:
                assert torch.equal(state[key], value[j : j + 1] if owner == "worker" else value), (j, key)


QUICK = {"signmuon", "muonsign", "ef21muonsign", "muonusign", "adamw", "weighted vote", "weighted, ef21"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_letters_are_the_simulation(name: str) -> None:
    """Awkward gradients, clients drawn anew each step, and one that joins at step 6."""
    dtype = (torch.float32, torch.float64)[NAMES.index(name) % 2]
    post = Post(spec(METHODS.get(name, name)), dtype=dtype, keep=(20, 2, 1)[NAMES.index(name) % 3])
    equal(post, post.run(), simulated(name, dtype))


@pytest.mark.parametrize(("keep", "models"), [(20, 0), (3, 3), (1, 11)])
def test_who_was_away_gets_the_letters_or_the_model(keep: int, models: int) -> None:
    post = Post(SOURCE, keep=keep, shapes=SMALL)
    found = post.run()
    assert found.digests == loopback(SOURCE, WORKERS, steps=STEPS, grad=sampled, shapes=SMALL).digests
    assert {fingerprint(ps) for ps, _ in post.clients} == {found.digests[-1]}
    away = {(t, j): letters for t, j, letters in post.brought if letters}
    kinds = {key: [written(letter)[0] for letter in letters] for key, letters in away.items()}
    assert sum(kind == [MODEL] for kind in kinds.values()) == models
    assert kinds[6, 4] == ([SERVER] * 6 if keep == 20 else [MODEL])
    assert kinds[3, 0] == ([MODEL] if keep == 1 else [SERVER, SERVER]) and kinds[3, 2] == [SERVER]
    assert all(sum(map(len, own)) <= post.office.size(MODEL) for own in away.values())


def test_letters_that_are_longer_than_the_model_are_not_sent() -> None:
    """A dense downlink: two letters of it are more than the model."""
    post = Post({"groups": [{"method": "sgd", "lr": 0.1}]}, shapes=SMALL, who=lambda t: [0] if t < 3 else [0, 1])
    post.run(4)
    kinds = [(t, j, [written(letter)[0] for letter in letters]) for t, j, letters in post.brought if letters]
    assert kinds[:4] == [(1, 0, [SERVER]), (2, 0, [SERVER]), (3, 0, [SERVER]), (3, 1, [MODEL])]
    assert fingerprint(post.clients[1][0]) == fingerprint(post.ps)


def test_a_client_goes_on_from_what_it_saved() -> None:
    """Between writing a letter and the answer to it, in another process."""
    post = Post(SOURCE, shapes=SMALL)
    expected = loopback(SOURCE, WORKERS, steps=STEPS, grad=sampled, shapes=SMALL)
    for t in range(STEPS):
        post.opt.step()
        for j, (ps, opt) in enumerate(post.clients):
            saved, position = (opt.state_dict(), {n: p.detach().clone() for n, p in ps.items()}), post.boxes[j].position
            assert position <= opt.steps
            box = Box(WORKERS, j)
            fresh, again = post.make(box)
            with torch.no_grad():
                for name, p in fresh.items():
                    p.copy_(saved[1][name])
            again.load_state_dict(saved[0])
            box.position = position
            post.boxes[j], post.clients[j] = box, (fresh, again)
        assert fingerprint(post.ps) == expected.digests[t]


def test_a_letter_is_as_long_as_the_page_says() -> None:
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [0])
    post.run(1)
    words = 8 * (words_for(9 * 21) + words_for(24 * 16))  # one bit an entry, in words of 64
    status, floats = 8, 24  # three matrices; five floats
    assert len(post.boxes[0].letter) == 72 + status + words + floats == post.office.size(0) == 176
    assert len(post.office.letters[0]) == 72 + 2 * 16 + status + words + floats == post.office.size(SERVER) == 208
    model = 4 * (5 + 9 * 21 + 24 * 16) + 2 * 4 * 5  # Adam's moments are the replicas' alone
    assert len(post.office.whole()) == post.office.size(MODEL)
    assert 0 <= post.office.size(MODEL) - 72 - model < 8 * 6


# What is refused ---------------------------------------------------------------------------------------------------


def test_every_byte_of_a_letter_counts() -> None:
    """Whatever byte is wrong, both ends say so; the model does not move."""
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [2])
    post.run(1)
    post.opt.step()
    before = fingerprint(post.clients[0][0])
    for at in range(len(post.office.letters[1])):
        wrong = bytearray(post.office.letters[1])
        wrong[at] ^= 16
        with pytest.raises((CorruptMessage, LayoutMismatch)):
            post.boxes[0].deliver([bytes(wrong)])
    assert fingerprint(post.clients[0][0]) == before
    letter = post.boxes[2].letter
    for at in range(len(letter)):
        wrong = bytearray(letter)
        wrong[at] ^= 16
        with pytest.raises((CorruptMessage, LayoutMismatch)):
            post.office.open(bytes(wrong), "worker 2")


def test_what_is_no_letter_of_this_run_is_refused() -> None:
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [0])
    post.run(1)
    letter, box = post.office.letters[0], post.boxes[0]
    with pytest.raises(CorruptMessage, match="what the server sent is no letter of SignA"):
        box.deliver([b"GIF89a" + letter])
    with pytest.raises(CorruptMessage, match="what the server sent is no letter of SignA"):
        box.deliver([letter[:40]])
    with pytest.raises(CorruptMessage, match="checksum"):
        box.deliver([letter[:-8]])
    for other in (Post(SOURCE, shapes=SMALL), Post(SIGNS, shapes=SMALL, seed=1), Post(SIGNS, shapes=SMALL, workers=3)):
        with pytest.raises(LayoutMismatch, match=r"layout [0-9a-f]{16}.*same spec, seed, model, versions and number"):
            other.boxes[0].deliver([letter])
    with pytest.raises(LayoutMismatch, match="a letter of worker 0 was delivered to worker 1"):
        post.boxes[1].deliver([post.boxes[0].letter])
    post.opt.step()
    post.opt.step()
    with pytest.raises(LayoutMismatch, match="worker 1 is at step 1, and the server's letter is of step 2"):
        post.boxes[1].deliver([post.office.letters[2]])
    with pytest.raises(LayoutMismatch, match="a client is at step 9, and the server at step 3"):
        post.office.missed(9)
    box.deliver([letter, post.office.letters[1]])  # known already


def test_letters_of_another_step_or_worker_are_refused() -> None:
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [0])
    post.opt.step()
    stale, mine = post.boxes[0].letter, fingerprint(post.ps)
    for came in ({0: stale}, {1: stale}, {0: post.office.whole()}, {0: post.office.letters[0]}):
        post.office.mail = lambda t, came=came: came  # type: ignore[misc]
        with pytest.raises(
            LayoutMismatch, match=r"what worker \d sent is of step \d and .*, and not of step 1 and worker"
        ):
            post.opt.step()
    assert fingerprint(post.ps) == mine and post.opt.steps == 1 and len(post.office.letters) == 1


def test_a_step_needs_the_answer_to_the_last_one() -> None:
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [0])
    post.opt.step()
    with pytest.raises(LayoutMismatch, match=r"worker 0 has written its letter of step 0, and its model is at step 0"):
        post.clients[0][1].step()
    post.bring(0)
    post.clients[0][1].step()


def test_nobody_can_be_asked_before_a_letter() -> None:
    post = Post(SIGNS, shapes=SMALL, who=lambda t: [0], nonfinite="raise")
    with pytest.raises(SignaError, match=r"Office\(workers=5, keep=20\) cannot ask others.*nonfinite='abstain'"):
        post.opt.step()
    with pytest.raises(SignaError, match=r"Box\(workers=5, worker=0\) cannot ask others"):
        post.clients[0][1].step()


def test_the_clients_have_no_exact_model_and_the_server_has() -> None:
    post = Post(SOURCE, shapes=SMALL)
    found = post.run()
    with post.opt.exact():
        assert fingerprint(post.ps) != found.digests[-1]
    with pytest.raises(StateError, match="the server's exact model is at the server"), post.clients[0][1].exact():
        pass


def test_arguments_and_what_was_forgotten() -> None:
    with pytest.raises(ValueError, match="the worker must be one of 0 to 4, got 5"):
        Box(5, 5)
    with pytest.raises(ValueError, match="keep must be a whole number from 1 on, got 0"):
        Office(5, lambda t: {}, keep=0)
    box = Box(2, 1)
    ps = parameters(shapes=SMALL)
    opt = build(SIGNS, ps, box)
    with pytest.raises(StateError, match=r"Box\(workers=2, worker=1\) knows no optimizer: call its attach\(opt\)"):
        opt.step()


# What travels besides ----------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_is_named_at_the_server() -> None:
    def grad(name: str, p: Tensor, t: int, j: int) -> Tensor:
        return plain(name, p, t, j) / (0 if (t, j, name) == (1, 3, "b") else 1)

    post = Post(SIGNS, shapes=SMALL, grad=grad, who=lambda t: [0, 1, 2, 3, 4])
    expected = loopback(SIGNS, WORKERS, steps=3, grad=grad, shapes=SMALL)
    assert post.run(3).digests == expected.digests
    assert dict(post.opt.nonfinite_counts) == dict(expected.opt.nonfinite_counts) == {(3, "b"): 1}


def test_buffers_follow_worker_0() -> None:
    def train(model: Net, opt: signa.SignA, t: int, j: int) -> None:
        with opt.worker(j), torch.enable_grad():
            model(plain("x", torch.zeros(8, 6), t, j)).square().sum().backward()

    def saved(model: Net) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    who = [[0, 1, 2], [1, 2], [0, 2], [0, 1]]
    whole = Net()
    opt = signa.build("signmuon", whole, lr=0.02, transport=signa.Loopback(3))
    boxes, nets = [Box(3, j) for j in range(3)], [Net() for _ in range(4)]

    def mail(t: int) -> dict[int, bytes]:
        for j in who[t]:
            boxes[j].deliver(office.missed(boxes[j].position))
            train(nets[j], clients[j], t, j)
            clients[j].step()
            clients[j].zero_grad()
        return {j: boxes[j].letter for j in who[t]}

    office = Office(3, mail, keep=1)
    clients = [signa.build("signmuon", net, lr=0.02, transport=box) for net, box in zip(nets, boxes)]
    server = signa.build("signmuon", nets[3], lr=0.02, transport=office)
    for end, own in zip((*boxes, office), (*clients, server), strict=True):
        end.attach(own)
    for t in range(4):
        for j in who[t]:
            train(whole, opt, t, j)
        opt.step()
        opt.zero_grad()
        server.step()
        assert all(torch.equal(value, saved(nets[3])[name]) for name, value in saved(whole).items()), t
    for j in range(3):
        boxes[j].deliver(office.missed(boxes[j].position))
        assert all(torch.equal(value, saved(nets[j])[name]) for name, value in saved(whole).items()), j
    assert len(boxes[0].letter) > len(boxes[1].letter)


def test_parameters_that_join_later() -> None:
    """The layout is another one from then on: no letter from before is sent any more, and the model is."""

    def more(opt: signa.SignA, ps: dict[str, Any]) -> None:
        ps["late"] = nn.Parameter(plain("late", torch.zeros(4, 6), 0, 0))
        opt.add_param_group({"params": [("late", ps["late"])], "method": "signmuon", "lr": 0.02})

    def grad(name: str, p: Tensor, t: int, j: int) -> Tensor:
        return plain(name, p, t, j)

    ps = parameters(shapes=SMALL)
    opt = build(SIGNS, ps, signa.Loopback(2))
    post = Post(SIGNS, shapes=SMALL, grad=grad, who=lambda t: [0, 1], workers=2)
    for t in range(4):
        if t == 2:
            for own, named in ((opt, ps), (post.opt, post.ps), *((c, q) for q, c in post.clients)):
                more(own, named)
            assert [written(letter)[0] for letter in post.office.missed(1)] == [MODEL]
        step(opt, ps, t, grad)
        post.opt.step()
        assert fingerprint(ps) == fingerprint(post.ps), t
