"""The errors of SignA: each says what is wrong, where, because of what, and what to write instead."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

#: What a person reads of one text and of one spec; a text may quote a whole file, and a file can be wrong everywhere.
_MOST_LETTERS, _MOST_PROBLEMS = 1000, 50
#: A noun that is spoken with a vowel in front; LMO and nn.Module are spelled out.
_VOWEL = re.compile(r"[aeioAEIO]|[uU](?!ni|se|int)|[FHLMNRSX][A-Z]*(?![a-z])|n[dn]")


class SignaError(Exception):
    """Base of every error that SignA raises on purpose."""


class Advice(UserWarning):
    """A legal choice that a paper or a measurement speaks against."""


class RegistryError(SignaError, LookupError):
    """A name that is registered twice, or not at all."""


class RoutingError(SignaError, ValueError):
    """A parameter that no group takes, or a group that takes no parameter."""


class UnsupportedParameter(SignaError, TypeError):
    """A parameter or gradient that SignA refuses: sparse, complex, integer, or without storage (meta)."""


class GradientError(SignaError, RuntimeError):
    """A gradient that cannot be attributed to one worker."""


class StateError(SignaError, ValueError):
    """An optimizer state that does not fit the optimizer that loads it."""


class NonFinite(SignaError, ArithmeticError):
    """A worker's gradient is infinite or NaN, and the policy is ``raise``. Nothing was written."""


class CheckpointError(SignaError, RuntimeError):
    """A checkpoint that cannot be written, or is damaged, incomplete, or of another run."""


class WireError(SignaError, RuntimeError):
    """Something between the processes went wrong. The optimizer takes no further step; the others raise the same.

    Memory is not trusted after it: go on from the last committed checkpoint.
    """


class PeerLost(WireError):
    """A process died, or stopped with an error of its own."""


class CollectiveTimeout(WireError):
    """A process did not answer within the group's timeout."""


class LayoutMismatch(WireError):
    """Processes differ in version, spec, seed or parameters, or are not at the same step."""


class ReplicaDrift(WireError):
    """The replicas of the model, or of its state, are not equal bit for bit."""


class CorruptMessage(WireError):
    """A message is not what was sent: a wrong checksum, or not one of ours."""


class AveragedGradients(WireError):
    """DistributedDataParallel has averaged the gradients before the optimizer saw them."""


class Poisoned(WireError):
    """A step after a fault: go on from the last committed checkpoint, in new processes."""


def a_or_an(noun: str) -> str:
    """A noun with its article, for messages that name what they were given.

    >>> [a_or_an(noun) for noun in ("stage", "aggregator", "LMO", "int", "UserDict", "uint8", "nn.Module")]
    ['a stage', 'an aggregator', 'an LMO', 'an int', 'a UserDict', 'a uint8', 'an nn.Module']
    """
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"


class Fault(ValueError):
    """What a component or a composition rule objects to; the reader of the spec adds the place.

    >>> print(Fault("'up' delivers a dense signal", instead="set 'up: sign'"))
    'up' delivers a dense signal: set 'up: sign'
    """

    def __init__(self, what: str, *, because: str = "", instead: str = "", at: tuple[str | int, ...] = ()) -> None:
        self.what, self.because, self.instead, self.at = what, because, instead, at
        super().__init__(": ".join(part for part in (what, because, instead) if part))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a spec.

    ``path`` leads to it through the source's own mappings and lists, ``address`` is what a person writes after
    ``--set``; ``line`` and ``column`` count from 1 and are 0 where the source has no lines (a Python mapping).
    """

    what: str
    address: str = ""
    path: tuple[str | int, ...] = ()
    because: str = ""
    instead: str = ""
    source: str = ""
    line: int = 0
    column: int = 0
    text: str = ""
    width: int = 1
    cut: int = 0

    def at(self, source: str, line: int = 0, column: int = 0, text: str = "", width: int = 1, cut: int = 0) -> Problem:
        """This problem with its place filled in; ``cut`` is how much of the line stands in front of ``text``."""
        return replace(self, source=source, line=line, column=column, text=text, width=width, cut=cut)

    def __str__(self) -> str:
        """``file:line:column: address: what``, the line, a caret, the reason and the remedy."""
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part)
        lines = [": ".join(_short(part) for part in (place, self.address, self.what) if part)]
        if self.text:
            gutter = f"  {self.line} | "
            caret = " " * (len(gutter) + self.column - 1 - self.cut) + "^" * max(1, self.width)
            lines += [gutter + self.text, caret]
        lines += [f"  because: {_short(self.because)}"] if self.because else []
        lines += [f"  instead: {_short(self.instead)}"] if self.instead else []
        return "\n".join(lines)


def _short(text: str) -> str:
    """A text that may hold what somebody wrote, and so be of any length."""
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


class SpecError(SignaError, ValueError):
    """Everything that is wrong with a spec, all at once.

    >>> print(SpecError([Problem("unknown key 'beat'", address="worker.momentum.beat", instead="write 'beta'")]))
    worker.momentum.beat: unknown key 'beat'
      instead: write 'beta'
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """The problems one after the other, with their number in front when there are several."""
        count = [f"{len(self.problems)} problems"] if len(self.problems) > 1 else []
        more = len(self.problems) - _MOST_PROBLEMS
        rest = [f"and {more} more"] if more > 0 else []
        return "\n".join(count + [str(problem) for problem in self.problems[:_MOST_PROBLEMS]] + rest)
