"""Laws of what travels: a message's bytes, and its aggregation in pieces and as words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..aggregators import Aggregator, in_order
from ..codec import Block, Codec, Dense
from ..compressors import Compressor
from ..packing import WORD, signs, words, words_for
from ..signal import SQRT_MN, Signal
from ..stage import Context
from .message_laws import _everyone, _messages
from .tools import _require, _same, _stack, _untouched, context

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _inputs(x: Tensor) -> Iterator[tuple[Signal, Tensor]]:
    """What a compressor may meet (R, m, n), with its description; zero matrices, -0.0 and subnormals among it."""
    stack, ctx = _stack(x), context(range(5))
    tiny = torch.finfo(x.dtype).smallest_normal
    edges = torch.stack([x * tiny / 4, -x.exp2(), x * (x > 0), torch.full_like(x, -0.0), x.sign() * tiny])
    edges[1, -1] = 0
    yield Signal(), stack
    yield Signal(), edges
    yield Signal("direction", "sign", SQRT_MN), ctx.fair_sign(stack)
    yield Signal("direction", "ternary", SQRT_MN), stack.sign()


def _sent(rule: Compressor, x: Tensor) -> Iterator[tuple[Codec, Signal, Tensor]]:
    """Messages (5, m n), their description, and how they travel."""
    m, n = x.shape
    for s, given in _inputs(x):
        y = rule(given, context(range(5))).flatten(-2)
        yield rule.codec(s, m, n, x.dtype), rule.signal(s), y


def _identical(a: Tensor, b: Tensor, what: str) -> None:
    """The same bits, so -0.0 is not 0.0."""
    _same(a, b, what)
    if a.is_floating_point():
        one, two = (t.contiguous().view(_INTEGERS[t.element_size()]) for t in (a, b))
        _require(torch.equal(one, two), f"{what}: 0.0 and -0.0")


def _pieces(entries: int) -> Iterator[tuple[int, int]]:
    """Every word by itself, every rest, and beginnings that end inside a word."""
    for start in range(0, entries, WORD):
        yield start, min(start + WORD, entries)
        yield start, entries
        yield start, start + (entries - start + 1) // 2


def _compressor_travels(rule: Compressor, x: Tensor) -> None:
    """unpack(pack(C(x))) is C(x) bit for bit, whole and in pieces that begin with a word.

    A silent message is delivered as 0.0, whatever the bytes say and whichever zeros it is made of.
    """
    for codec, _, y in _sent(rule, x):
        entries, parts = x.numel(), codec.pack(y)
        _require(len(parts) == len(codec.fields), f"{len(parts)} tensors for {len(codec.fields)} fields")
        for part, field in zip(parts, codec.fields, strict=True):
            fits = part.shape == (len(y), field.columns) and part.dtype == field.dtype
            _require(fits, f"{tuple(part.shape)} {part.dtype} for {field}")
        _untouched([y], lambda y=y, c=codec: c.pack(y))  # type: ignore[misc]
        for i in range(len(y)):
            for part, alone in zip(parts, codec.pack(y[i : i + 1]), strict=True):
                _identical(part[i : i + 1], alone, f"message {i} packs otherwise among others")
        speaks = ~codec.silent(y)
        for start, stop in ((0, entries), *_pieces(entries)):
            cut = [part[:, f.part(start, stop)] for part, f in zip(parts, codec.fields, strict=True)]
            _untouched(cut, lambda a=start, b=stop, p=cut, c=codec: c.unpack(p, a, b))  # type: ignore[misc]
            came = codec.unpack(cut, start, stop)
            _identical(came[speaks], y[speaks, start:stop], f"entries {start} to {stop} arrive as others")
            size = sum(part[1:4].numel() * part.element_size() for part in cut)
            _require(codec.nbytes(Block(1, 4, start, stop)) == size, f"entries {start} to {stop} are {size} bytes")


def _compressor_silence(rule: Compressor, x: Tensor) -> None:
    """``silent`` is True for zero matrices alone, and for all of them where a vote may have to know."""
    for codec, s, y in _sent(rule, x):
        silent, zero = codec.silent(y), ~y.any(-1)
        _require(not (silent & ~zero).any(), "a message that is not zero throughout is called silent")
        if s.alphabet in ("sign", "ternary"):
            _require(silent.equal(zero), "a message that is zero throughout, and so no vote, is not called silent")


def _compressor_bytes(rule: Compressor, x: Tensor) -> None:
    """A message is as long as ``bits`` says, and each field of words up to 63 bits longer; a float counts 32 bits.

    Without a codec of its own, what fits no other alphabet travels as floats: then ``bits`` is only what it could cost.
    """
    m, n = x.shape
    for s, _ in _inputs(x):
        codec, declared = rule.codec(s, m, n, x.dtype), rule.bits(s, m, n) * m * n
        sent = sum(f.columns * (32 if f.dtype == x.dtype else 8 * f.dtype.itemsize) for f in codec.fields)
        spare = (WORD - 1) * sum(f.dtype == torch.int64 for f in codec.fields)
        said = f"{type(codec).__name__} sends {sent} bits, bits() says {declared:.10g}"
        _require(sent > declared - 1e-6, said)
        borrowed = type(rule).codec is Compressor.codec and isinstance(codec, Dense)
        _require(borrowed or sent <= declared + spare + 1e-6, f"{said}, and {spare} may be padding")


def _at(ctx: Context, start: int) -> Context:
    """The same for pieces that begin at an entry, a multiple of 64."""
    return replace(ctx, coin=replace(ctx.coin, offsets=[o + start // WORD for o in ctx.coin.offsets]))


def _aggregator_pieces(rule: Aggregator, x: Tensor) -> None:
    """A coordinate-wise aggregate of pieces (N, R, 1, length) is that piece of the aggregate, bit for bit."""
    if not rule.coordinatewise:
        return
    for workers in (4, 5):
        for messages in _messages(rule, x, workers):
            active, ctx = _everyone(messages), context(range(2))
            messages[1, 1], active[1, 1] = 0, False
            whole, flat = rule(messages, active, ctx).flatten(-2), messages.flatten(-2).unsqueeze(-2)
            for start, stop in _pieces(x.numel()):
                if start < stop:
                    piece = rule(flat[..., start:stop], active, _at(ctx, start)).squeeze(-2)
                    _identical(piece, whole[:, start:stop], f"entries {start} to {stop} alone aggregate otherwise")


def _elections() -> Iterator[Tensor]:
    """Votes (V, 2, 1, L) of +-1: all that up to nine can cast, and every count of many; backwards in the second row."""
    for voters in range(1, 10):
        at = torch.arange((1 << voters) + 37)  # more than once round, so that coins differ where votes do not
        minus = (at >> torch.arange(voters)[:, None]) & 1
        yield torch.stack([1 - 2 * minus, 1 - 2 * minus.flip(-1)], 1).unsqueeze(-2)
    for voters in (127, 128, 255, 256):
        minus = (torch.arange(voters)[:, None] < torch.arange(voters + 1)).long()
        yield torch.stack([1 - 2 * minus, 1 - 2 * minus.flip(-1)], 1).unsqueeze(-2)


def _aggregator_words(rule: Aggregator, x: Tensor) -> None:
    """``of_words`` is the aggregate of the +-1 messages that the words stand for, coins included."""
    for votes in _elections():
        voters, rows, _, length = votes.shape
        flat = votes.to(x.dtype).flatten(0, 1).squeeze(-2)
        planes, ctx = words(flat).view(voters, rows, -1), context(range(2))

        def coins(ctx: Context = ctx, length: int = length) -> Tensor:
            return ctx.coin.words(2, words_for(length))

        _untouched([planes], lambda p=planes, c=coins: rule.of_words(p, c))  # type: ignore[misc]
        found = rule.of_words(planes, coins)
        if found is None:
            return
        for part in found:
            fits = part.shape == planes.shape[1:] and part.dtype == torch.int64
            _require(fits, f"words {tuple(planes.shape)} became {tuple(part.shape)} {part.dtype}")
        sign, there = (signs(part, length, x.dtype) for part in found)
        twin = rule(votes.to(x.dtype), _everyone(votes), ctx).squeeze(-2)
        _same(torch.where(there > 0, sign, 0), twin, f"{voters} workers' words and floats aggregate differently")


def _aggregator_sums(rule: Aggregator, x: Tensor) -> None:
    """``of_sum`` is the aggregate bit for bit, coins included, from a sum that was added in worker order."""
    for messages in _messages(rule, x, 4):
        active = _everyone(messages)
        messages[1, 1], active[1, 1] = 0, False
        total, present, ctx = in_order(messages), active.sum(0), context(range(2))
        _untouched([total, present], lambda t=total, p=present, c=ctx: rule.of_sum(t, p, c))  # type: ignore[misc]
        found = rule.of_sum(total, present, ctx)
        if found is not None:
            _identical(found, rule(messages, active, ctx), "the sum and the messages aggregate otherwise")
