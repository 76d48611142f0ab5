"""The laws that every component obeys, as functions: for the tests here, and for the author of a component.

``check_component(MyLMO)`` in a test of your own is all it takes; the names of the laws are ``laws(MyLMO())``, and
``TRIALS`` are what is tried besides, once, inside an optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch

from ..aggregators import Aggregator
from ..compressors import Compressor
from ..errors import a_or_an
from ..feedback import Feedback
from ..lmo import LMO, Frobenius, Spectral
from ..plugin import innermost
from ..rule import Rule
from ..scaling import Scaling
from ..stage import Stage
from .inside import TRIALS
from .memory_laws import (
    _feedback_batch,
    _feedback_borrows,
    _feedback_identity,
    _feedback_state,
    _feedback_zero,
    _scaling_free,
    _scaling_positive,
)
from .message_laws import (
    _aggregator_absent,
    _aggregator_abstain,
    _aggregator_alone,
    _aggregator_anonymous,
    _aggregator_batch,
    _aggregator_borrows,
    _aggregator_memory,
    _aggregator_monotone,
    _aggregator_odd,
    _aggregator_signal,
    _aggregator_unanimous,
    _compressor_batch,
    _compressor_bits,
    _compressor_borrows,
    _compressor_contracts,
    _compressor_signal,
    _compressor_threads,
    _compressor_zero,
)
from .stage_laws import (
    _invariant,
    _lmo_alias,
    _lmo_dual,
    _lmo_feasible,
    _lmo_odd,
    _lmo_optimal,
    _lmo_scale,
    _stage_batch,
    _stage_borrows,
    _stage_lean,
    _stage_signal,
    _stage_signed,
    _stage_state,
    _stage_threads,
    _stage_zero,
    _transposed,
)
from .tools import BANDS, SHAPES, Law, context, sample, threads
from .wire_laws import (
    _aggregator_pieces,
    _aggregator_sums,
    _aggregator_words,
    _compressor_bytes,
    _compressor_silence,
    _compressor_travels,
)

__all__ = ["BANDS", "SHAPES", "TRIALS", "check_component", "context", "laws", "sample", "threads"]


def check_component(
    component: Rule | type[Rule],
    *,
    shapes: Iterable[Sequence[int]] = SHAPES,
    seeds: Iterable[int] = (0,),
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.float64),
    only: Iterable[str] = (),
) -> None:
    """Put a component, or its class, to every law and trial of its sort (or those named in ``only``).

    A law is a statement about one matrix: it is put to Gaussian matrices of some shapes, dtypes and seeds. A trial is
    made once, with the component inside an optimizer: the ``golden step`` compares three steps of several workers with
    the sentence taken literally, matrix by matrix, and ``two ranks`` with two processes that talk over gloo; both
    compare bits. The second takes some seconds, and needs the class at the top of a file, where processes find it.

    An LMO may declare two class variables: ``band = (low, high)``, between which ``<g, d> / dual(g)`` and ``||d||`` lie
    (else both are 1), and ``rounds = True`` where LAPACK decides its last bits, which then need not be odd, nor the
    same under any number of threads.

    Raises:
        AssertionError: with the component, the law or trial, the matrix (shape, dtype and seed), and what went wrong;
            where the component itself raised, at which of its lines.

    >>> from signa.compressors import Sign
    >>> check_component(Sign, only=["borrows", "golden step"]), list(laws(Sign()))[:3], list(TRIALS)
    (None, ['borrows', 'same alone and stacked', 'same on two threads'], ['golden step', 'two ranks'])
    """
    made: Callable[[], Rule] = component if isinstance(component, type) else lambda: component
    rule = made()
    chosen, known = set(only), {**laws(rule), **TRIALS}
    if missing := chosen - set(known):
        raise ValueError(f"{rule.kind} has no law {sorted(missing)}; its laws are {list(known)}")
    every = {name: law for name, law in laws(rule).items() if not chosen or name in chosen}
    seeds, dtypes = list(seeds), list(dtypes)
    for m, n in shapes:
        for dtype in dtypes:
            for seed in seeds:
                for name, law in every.items():
                    where = f"a {m}x{n} matrix of {str(dtype).removeprefix('torch.')}, seed {seed}"
                    x = sample(m, n, seed=seed, dtype=dtype)
                    _hold(rule, f"breaks the law '{name}' on {where}", lambda law=law, x=x: law(rule, x))  # type: ignore[misc]
    for name, trial in TRIALS.items():
        if not chosen or name in chosen:
            _hold(rule, f"fails the trial '{name}'", lambda trial=trial: trial(rule))  # type: ignore[misc]


def _hold(rule: Rule, what: str, act: Callable[[], None]) -> None:
    try:
        act()
    except AssertionError as error:
        raise AssertionError(f"{rule} {what}: {error}") from error
    except Exception as error:
        file = inspect.getsourcefile(type(rule))
        frame = innermost(error, file) if file else None
        where = f", at {frame.filename}:{frame.lineno}: {frame.line}" if frame else ""
        raise AssertionError(f"{rule} {what}: {type(error).__name__}: {error}{where}") from error


def laws(rule: Rule) -> dict[str, Law]:
    """Every law of a component's sort, by name. A law raises AssertionError for ``law(rule, x)``, x (m, n).

    Raises:
        TypeError: the component is of no sort that has laws."""
    for sort, found in _LAWS.items():
        if isinstance(rule, sort):
            return found | (_INVARIANT if isinstance(rule, Spectral | Frobenius) else {})
    raise TypeError(f"there are no laws for {a_or_an(type(rule).__name__)}")


_STAGE: dict[str, Law] = {
    "borrows": _stage_borrows,
    "state in place": _stage_state,
    "same alone and stacked": _stage_batch,
    "same on two threads": _stage_threads,
    "zero stays zero": _stage_zero,
    "lean": _stage_lean,
    "signed": _stage_signed,
    "is what its signal says": _stage_signal,
}
_INVARIANT: dict[str, Law] = {"rotation": _invariant, "transposition": _transposed}
_LAWS: dict[type[Rule], dict[str, Law]] = {
    LMO: _STAGE
    | {
        "no alias": _lmo_alias,
        "dual": _lmo_dual,
        "feasible": _lmo_feasible,
        "optimal": _lmo_optimal,
        "powers of two": _lmo_scale,
        "odd": _lmo_odd,
    },
    Stage: _STAGE,
    Compressor: {
        "borrows": _compressor_borrows,
        "same alone and stacked": _compressor_batch,
        "same on two threads": _compressor_threads,
        "zero stays zero": _compressor_zero,
        "contraction": _compressor_contracts,
        "bits": _compressor_bits,
        "is what its signal says": _compressor_signal,
        "travels": _compressor_travels,
        "silence": _compressor_silence,
        "bytes": _compressor_bytes,
    },
    Aggregator: {
        "borrows": _aggregator_borrows,
        "same alone and stacked": _aggregator_batch,
        "anonymous": _aggregator_anonymous,
        "one worker": _aggregator_alone,
        "unanimous": _aggregator_unanimous,
        "monotone": _aggregator_monotone,
        "odd": _aggregator_odd,
        "absent workers": _aggregator_absent,
        "all abstain": _aggregator_abstain,
        "memory": _aggregator_memory,
        "is what its signal says": _aggregator_signal,
        "pieces": _aggregator_pieces,
        "words": _aggregator_words,
        "sums": _aggregator_sums,
    },
    Feedback: {
        "borrows": _feedback_borrows,
        "state in place": _feedback_state,
        "same alone and stacked": _feedback_batch,
        "zero stays zero": _feedback_zero,
        "identity": _feedback_identity,
    },
    Scaling: {"positive": _scaling_positive, "free norm": _scaling_free},
}
