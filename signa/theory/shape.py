"""A sentence as the theorems see it: what follows the gradient, and what is made of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..aggregators import MajorityVote, Median, WeightedMean
from ..channel import Channel
from ..compressors import Sign
from ..feedback import EF21
from ..lmo import LMO, lmos
from ..sentence import Method
from ..stage import Stage
from ..stages import Adam, Clip, Decay, Momentum, Normalise, Step

__all__ = ["Shape", "is_ball", "shape_of", "stages_of"]

_SCALES = ("frobenius", "row", "column")  # of a +-1 matrix they change the size alone
_IDEMPOTENT = ("sign", "spectral", "frobenius", "column", "row", "nuclear", "l1", "neuron")  # and clips


@dataclass(frozen=True)
class Shape:
    """A sentence as the theorems see it.

    Args:
        momenta: in front of everything else.
        before: what a worker makes of that, the wire's compression without memory included: words.
        after: the same of the server, the way down and the replica.
        odd: why no theorem can read it, if so.
    """

    method: Method
    momenta: tuple[Momentum, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()

    @property
    def up(self) -> Channel:
        """The way up."""
        return self.method.up

    @property
    def down(self) -> Channel:
        """The way down."""
        return self.method.down

    @property
    def linear(self) -> bool:
        """A mean, weighted or not."""
        return self.method.aggregate.linear

    @property
    def weights(self) -> tuple[float, ...]:
        """The workers' shares of a weighted mean, in all 1; none where every worker counts alike."""
        rule = self.method.aggregate
        given = rule.weights if isinstance(rule, WeightedMean) else ()
        return tuple(w / sum(given) for w in given) if len(set(given)) > 1 else ()

    @property
    def count(self) -> str:
        """What divides the variance of a mean: N, or N_eff = (sum w)^2 / sum w^2."""
        return "N_eff" if self.weights else "N"

    @property
    def averages(self) -> bool:
        """Whether a momentum averages the noise and lets none of the step's own through: nu is 1 or beta."""
        return bool(self.momenta) and all(m.nu in (1, "beta") for m in self.momenta)

    @property
    def plain_up(self) -> bool:
        """Without memory."""
        return self.up.feedback.kind == "none"

    @property
    def plain_down(self) -> bool:
        """Without memory."""
        return self.down.feedback.kind == "none"

    @property
    def model_travels(self) -> bool:
        """EF21-P: the server keeps X, the replicas follow it as W."""
        return self.method.step_address.startswith("server.") and isinstance(self.down.feedback, EF21)


def _word(stage: Stage) -> str:
    if isinstance(stage, Clip):
        return f"clip:{stage.norm}"
    if isinstance(stage, Normalise):
        return "frobenius" if stage.per == "rms" else "neuron"
    return "sign" if stage.kind == "linf" else stage.kind


def _channel_word(channel: Channel) -> list[str]:
    if channel.feedback.kind != "none" or channel.lossless:
        return []
    return ["sign"] if isinstance(channel.compressor, Sign) else [f"lossy:{channel.compressor.kind}"]


def is_ball(word: str) -> bool:
    """Whether a word is an LMO."""
    return word == "sign" or word in lmos.names()


def _keeps_signs(word: str) -> bool:
    return word == "neuron" or word.startswith("clip") or (word in lmos.names() and lmos.get(word).keeps_signs)


def _reduced(words: Sequence[str], *, signs: bool = False) -> tuple[str, ...]:
    """Without what changes nothing. ``signs``: what comes in is +-1.

    Of +-1 entries a scale or a sign changes the size at most; what keeps signs is lost behind a sign; our oracles and
    clips are idempotent (Adam is not, nor need somebody's own ball be); an oracle forgets a size that was clipped.
    """
    found: list[str] = []
    for word in words:
        last = found[-1] if found else "sign" if signs else ""
        again = last == word and (word in _IDEMPOTENT or word.startswith("clip"))
        if again or (last == "sign" and (word in _SCALES or _keeps_signs(word))):
            continue
        while found and word == "sign" and _keeps_signs(found[-1]):
            found.pop()
        if found and found[-1] in ("clip:rms", "clip:frobenius") and is_ball(word):
            found.pop()
        if not (word == "sign" and (found[-1:] == ["sign"] or (signs and not found))):
            found.append(word)
    return tuple(found)


def shape_of(method: Method) -> Shape:
    """The sentence, cut."""
    server = [stage for stage in method.server if not isinstance(stage, Step)]
    replica = [stage for stage in method.replica if not isinstance(stage, Step)]
    momenta, worker = _leading_momenta(method.worker)
    if not (momenta or worker) and method.aggregate.linear and method.up.lossless:
        momenta, server = _leading_momenta(server)  # the momentum of a mean is the mean of the momenta
    odd: list[str] = []
    for stage in (*worker, *server, *replica):
        if isinstance(stage, Decay):
            odd.append("a decay stands behind another part than a momentum: their sum is the gradient of no function")
        elif isinstance(stage, Momentum):
            odd.append("a momentum stands behind another part, and no result here follows two memories")
        elif not isinstance(stage, LMO | Clip | Normalise | Adam):
            odd.append(f"no result here reads the stage '{stage.kind}'")
    votes = isinstance(method.aggregate, MajorityVote)
    if not (votes or isinstance(method.aggregate, Median) or method.aggregate.linear):
        odd.append(f"no result here reads the aggregator '{method.aggregate.kind}'")
    before = [*map(_word, worker), *_channel_word(method.up)]
    after = [*map(_word, server), *_channel_word(method.down), *map(_word, replica)]
    return Shape(method, momenta, _reduced(before), _reduced(after, signs=votes), tuple(odd))


def _leading_momenta(path: Sequence[Stage]) -> tuple[tuple[Momentum, ...], list[Stage]]:
    """Those in front, and what is behind them; a decay among them makes f another f and is no part of the shape."""
    front = list(takewhile(lambda stage: isinstance(stage, Momentum | Decay), path))
    return tuple(stage for stage in front if isinstance(stage, Momentum)), list(path[len(front) :])


def stages_of(method: Method) -> Iterator[Stage]:
    """Every stage, wherever it stands."""
    return (stage for part in ("worker", "server", "replica") for _, stage in method.stages(part))
