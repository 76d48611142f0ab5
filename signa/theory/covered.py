"""The guarantees: which theorem of docs/theory.md, or which paper, has the shape of a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..aggregators import MajorityVote, Mean, Median, WeightedMean
from ..compressors import Sign
from ..feedback import EF14, EF21
from ..stages import Adam
from .claim import PAGE, Claim
from .shape import Shape, is_ball, stages_of

__all__ = ["covering", "why_nothing"]

_LMO_MEASURE = {
    "sign": "||grad f||_1 (entrywise)",
    "spectral": "nuclear norm of grad f",
    "frobenius": "||grad f||_F",
    "column": "sum of the columns' l2 norms of grad f",
    "row": "sum of the rows' l2 norms of grad f",
    "nuclear": "largest singular value of grad f",
    "l1": "largest |entry| of grad f",
}
_BELOW = ("sign", "spectral", "frobenius", "column", "row")  # ||X|| <= ||X||_F
_VARIANCE = "unbiased gradients of bounded variance: E||noise||_F^2 <= sigma^2"
_ALIKE = "all workers have the same f; else mean_j ||grad f_j - grad f||_* is a floor"
_NEAR = "Newton-Schulz within a share a of the polar factor: Delta, L and the floor over 1 - a (Lemma 1)"
_AOL = (
    "aol: near the polar factor of G with its rows rescaled, whose share of ||G||_* depends on G and is at least "
    "1 / sqrt(min(m, n)): Delta, L and the floor over it (Lemma 1)"
)


def _measure(word: str) -> str:
    return _LMO_MEASURE.get(word, f"dual norm of '{word}' at grad f")


def _rate(shape: Shape, floor: str, quiet: str = "sqrt(2 Delta L / T)") -> dict[str, str]:
    """T^(-1/4) with a momentum that can average the noise, else a floor (see Theorem A's three terms)."""
    still = f"{quiet} without noise and momentum"
    if not shape.momenta:
        return {"rate": still, "floor": f"{floor}: without momentum nothing averages the noise over steps"}
    rate = f"T^(-1/4) with 1 - beta ~ T^(-1/2), lr ~ T^(-3/4); {still}"
    if not shape.averages:
        return {"rate": rate, "floor": f"|1 - nu| {floor}, unless 1 - nu falls with 1 - beta"}
    return {"rate": rate}


def _extra(shape: Shape) -> tuple[str, ...]:
    found = []
    iterations = [s for s in stages_of(shape.method) if s.kind == "spectral" and getattr(s, "schedule", "") != "exact"]
    kinds = {getattr(s, "normalisation", "") == "aol" for s in iterations}
    found += [_AOL if rescaled else _NEAR for rescaled in sorted(kinds)]
    if shape.method.coupled:
        found.append("f includes weight_decay / 2 ||X||_F^2 (coupled decay)")
    return tuple(found)


def _oracle_of_the_mean(shape: Shape) -> Iterator[Claim]:
    """mean, EF21 or EF21-P around one oracle."""
    up21 = isinstance(shape.up.feedback, EF21)
    if shape.before or len(shape.after) != 1 or not is_ball(shape.after[0]) or not (shape.plain_up or up21):
        return
    if isinstance(shape.method.aggregate, MajorityVote) or len(shape.momenta) > 1:
        return
    if not (shape.plain_down or shape.model_travels):
        return
    needs = [_VARIANCE]
    floor, quiet = f"2 kappa sigma / sqrt({shape.count})", "sqrt(2 Delta L / T)"
    result, said = "Theorem A", "the step is one LMO of an estimate that follows the gradient"
    source = "arXiv 2503.12645 (any norm, momentum); arXiv 2502.07529 (Scion); arXiv 2002.03305 (frobenius)"
    if isinstance(shape.method.aggregate, Median):
        needs += ["one worker's noise counts, times sqrt(2) (Lemma 3)", _ALIKE]
        source, floor = PAGE, "2 sqrt(2) kappa sigma"
    if up21 or shape.model_travels:
        parts = ["EF21 up"] * up21 + ["EF21-P down"] * shape.model_travels
        result = "Theorem E" if shape.model_travels else "Theorem D"
        said = f"{' and '.join(parts)} around one LMO on the server"
        needs += ["every f_j is smooth", "contractive compressors; 1 / delta enters (scaled_sign: delta >= 1 / d)"]
        if shape.after[0] not in _BELOW:
            needs.append("max ||X|| / ||X||_F is not 1 for this ball: it multiplies L (Lemma 4)")
        if up21:
            own = f"2 kappa sigma (1 / sqrt({shape.count}) + 2 r / (1 - r))"
            floor = f"{own}, r = sqrt(1 - delta), the second for each worker's own noise"
        source, quiet = f"arXiv 2510.00643 (EF21-Muon); short proof with constants in {PAGE}", "~ T^(-1/2)"
    yield Claim("converges", result, said, _measure(shape.after[0]), **_rate(shape, floor, quiet),
                assumptions=(*needs, *_extra(shape)), source=source)  # fmt: skip


def _oracles_of_the_workers(shape: Shape) -> Iterator[Claim]:
    """A mean of LMOs, or a vote of signs."""
    memoryless = shape.plain_up and shape.plain_down and len(shape.momenta) <= 1
    if not memoryless or len(shape.before) != 1 or not is_ball(shape.before[0]):
        return
    votes = isinstance(shape.method.aggregate, MajorityVote)
    signs = shape.before[0] == "sign"
    if signs and ((votes and not shape.after) or (shape.linear and shape.after == ("sign",))):
        said = f"a {'weighted ' if shape.weights else ''}vote over the signs of estimates that follow the gradient"
        said += "" if votes else " (the sign of a mean of signs is their vote)"
        yield Claim("converges", "Theorem B", said, _measure("sign"),
                    **_rate(shape, "4 sqrt(m n) sigma (no 1 / sqrt(N): any noise)"),
                    assumptions=(_VARIANCE, _ALIKE, *_extra(shape)), source=PAGE)  # fmt: skip
        if not shape.momenta and _counts_fairly(shape):
            yield Claim("converges", "Theorem C", "a vote over the signs of gradients, no momentum",
                        "sum |g| h_N(q(|g| / sigma)): |g| where it is above the noise, ~ sqrt(N) g^2 / sigma below",
                        "sqrt(2 Delta L / T), no floor; of ||grad f||_1 with a floor 2 sum sigma_ij / sqrt(N)",
                        assumptions=("each entry's noise is unimodal and symmetric", "independent workers", _ALIKE),
                        source=f"arXiv 1802.04434, Theorem 2; arXiv 1810.05291; this form in {PAGE}")  # fmt: skip
    elif shape.linear and not shape.after:
        said = "every worker takes its own LMO; their mean stays in the ball"
        yield Claim("converges", "Theorem B", said, _measure(shape.before[0]),
                    **_rate(shape, "2 kappa sigma (no 1 / sqrt(N))"),
                    assumptions=(_VARIANCE, _ALIKE, *_extra(shape)), source=PAGE)  # fmt: skip


def _counts_fairly(shape: Shape) -> bool:
    """One vote each, and no tie goes one way: what Theorem C's count of independent votes needs."""
    rule, last = shape.method.aggregate, shape.down.compressor
    settled = isinstance(rule, MajorityVote) and rule.ties == "coin"
    one_way = isinstance(last, Sign) and last.zeros == "positive"
    return isinstance(rule, MajorityVote | Mean | WeightedMean) and not shape.weights and (settled or not one_way)


def _gradient_methods(shape: Shape) -> Iterator[Claim]:
    """Methods that integrate the gradient itself: SGD, EF14, EF21, Adam."""
    adam = sum(isinstance(stage, Adam) for stage in stages_of(shape.method))
    lossless = shape.plain_up and shape.plain_down
    if adam:
        alone = adam == 1 and shape.after == ("adam",) and not (shape.before or shape.momenta)
        if alone and shape.linear and lossless:
            yield Claim("converges", "Adam", "Adam of the mean gradient", "E||grad f||_F^2", "log(T) / sqrt(T)",
                        assumptions=("bounded stochastic gradients", "no decoupled decay", "b1 < b2, 1 - b2 ~ 1 / T"),
                        source="arXiv 2003.02395")  # fmt: skip
        return
    if shape.before or shape.after or not shape.linear or len(shape.momenta) > 1:
        return
    if lossless:
        yield Claim("converges", "SGD", "gradient descent on the mean", "E||grad f||_F^2",
                    f"1 / sqrt({shape.count} T) for the noise, 1 / T without it", assumptions=(_VARIANCE,),
                    source="arXiv 1309.5549 (SGD); arXiv 1808.10396 (with momentum)")  # fmt: skip
    elif any(isinstance(c.feedback, EF14) for c in (shape.up, shape.down)):
        yield from _ef14(shape)
    elif isinstance(shape.up.feedback, EF21) or shape.model_travels:
        yield _ef21(shape)


def _ef21(shape: Shape) -> Claim:
    """EF21 up, EF21-P down, or EF21 both ways, around a step along the estimate."""
    source = "arXiv 2305.15155 (momentum)" if shape.averages else "arXiv 2106.05203, Theorem 1"
    if shape.momenta and not shape.averages:
        source = "arXiv 2106.05203, Theorem 1 (nu = 0); arXiv 2305.15155 (nu = 1)"
    if shape.model_travels:
        source = "arXiv 2209.15218 (EF21-P); arXiv 2110.03294 (both directions)"
    elif not shape.plain_down:
        source = "arXiv 2110.03294 (EF21-BC)"
    rate, floor = "1 / T without noise", ""
    if not shape.averages:
        lets = "whose momentum lets (1 - nu) of the noise through" if shape.momenta else "without momentum"
        floor = f"~ sigma^2 / delta: EF21 {lets} needs growing batches"
    elif shape.plain_down:
        rate += f"; 1 / sqrt({shape.count} T) asymptotically with it"
    else:
        rate += "; with it none is known to us"
    return Claim("converges", "EF21", "error feedback on the gradient", "E||grad f||_F^2", rate, floor,
                 assumptions=("contractive compressors", _VARIANCE, *_extra(shape)), source=source)  # fmt: skip


def _ef14(shape: Shape) -> Iterator[Claim]:
    for channel in (shape.up, shape.down):
        memory = channel.feedback
        if channel.compressor.contraction(64, 64) is None:
            return
        if isinstance(memory, EF14) and (memory.decay != 1 or memory.drain != 1):
            return
        if not isinstance(memory, EF14) and not channel.lossless:
            return
    if shape.momenta:
        yield Claim("converges", "EF-SGD with momentum", "error feedback behind a momentum", "E||grad f||_F^2",
                    f"1 / sqrt({shape.count} T)", source="arXiv 1905.10936",
                    assumptions=("contractive compressors", "bounded gradients", _VARIANCE))  # fmt: skip
        return
    both = isinstance(shape.up.feedback, EF14) and isinstance(shape.down.feedback, EF14)
    source = "arXiv 1905.05957 (DoubleSqueeze)" if both else "arXiv 1901.09847, Theorem II"
    yield Claim("converges", "Theorem F", f"error feedback {'on both ways' if both else 'on the gradient'}",
                "E||grad f||_F^2", f"1 / sqrt({shape.count} T) for the noise, T^(-2/3) without it",
                assumptions=("contractive compressors", "bounded second moment: E||g||_F^2 <= G^2"),
                source=f"{source}; with N workers in {PAGE}")  # fmt: skip


def covering(shape: Shape) -> list[Claim]:
    """Every guarantee that has this shape; of a weighted mean f is one as well."""
    rules = (_oracle_of_the_mean, _oracles_of_the_workers, _gradient_methods)
    found = [] if shape.odd else [claim for rule in rules for claim in rule(shape)]
    if not shape.weights:
        return found
    effective = 1 / sum(share**2 for share in shape.weights)
    also = f"f = sum_j w_j f_j / sum_j w_j, as every mean_j; N_eff = (sum w)^2 / sum w^2 = {effective:.4g}"
    return [replace(claim, assumptions=(*claim.assumptions, also)) for claim in found]


def why_nothing(shape: Shape, *, ascends: bool) -> str:
    """The first thing that keeps every theorem away."""
    lossy = [word for word in (*shape.before, *shape.after) if word.startswith("lossy")]
    words = " then ".join((*shape.before, *shape.after))
    if shape.odd:
        return shape.odd[0]
    if isinstance(shape.up.feedback, EF21) and shape.before:
        return "ef21 follows an LMO's output, which does not settle where the gradient does: put the LMO on the server"
    if any(isinstance(c.feedback, EF14) and c.compressor.contraction(64, 64) is None for c in (shape.up, shape.down)):
        return "ef14 needs a compressor with a contraction: the error of this one does not shrink with the signal"
    if any(isinstance(c.feedback, EF14) and (c.feedback.decay != 1 or c.feedback.drain != 1)
           for c in (shape.up, shape.down)):  # fmt: skip
        return "ef14 with another decay or drain than 1 forgets a part of the error, and no proof known to us allows it"
    if not (shape.plain_up and shape.plain_down):
        memory = shape.up if not shape.plain_up else shape.down
        return f"{memory} stands beside an LMO in a way that no proof known to us covers"
    if lossy:
        kind = lossy[0].partition(":")[2]
        channel = shape.up if lossy[0] in shape.before else shape.down
        if channel.compressor.contraction(64, 64) is None:
            return f"no result here reads the compressor '{kind}'"
        return (
            f"'{kind}' is biased and nothing remembers what it loses; with several workers such methods can diverge "
            "(arXiv 2002.12410): write ef21(...) around it"
        )
    clips = [word for word in shape.before if word.startswith("clip")]
    if clips and not isinstance(shape.method.aggregate, MajorityVote):
        return "a clipped gradient is biased, and nothing remembers what is lost: clip behind the mean"
    if len(shape.before) + len(shape.after) >= 2:
        said = f"{words}: two non-linear maps in a row, and the second need not keep <g, d> positive"
        if shape.before == ("spectral", "sign") and not shape.after:
            said += "; arXiv 2605.16311 states a rate in an l1-based measure under conditions of its own"
        return said + ("; a guarantee needs a condition that excludes the witness" if ascends else "")
    return "no proof known to us has this shape"
