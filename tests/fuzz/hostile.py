"""What breaks parsers: words, values, and whole texts that are built to be large, deep, slow or read two ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

#: Plain YAML that means another thing to YAML 1.1, or nothing good to anybody.
SCALARS = (
     "no", "on", "Yes", "OFF", "y", "~", "null", "Null", "1e-3", "1e3", "1.e3", "0o17", "017", "0x1F", "0b1", "1_000",
    "12:30:45", "190:20:30.15", "2001-01-01", "2001-12-14t21:59:43.10-05:00", ".inf", "-.INF", ".NaN", "+.inf", "=",
    "<<", "<<: *a", "*a", "&a", "&a *a", "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system",
    "!!python/object/new:subprocess.Popen [['touch', 'pwned']]", "!!python/module:os", "!!binary aGk=", "!!set {a}",
    "!!omap [a: 1]", "!!timestamp 2001-01-01", "!!int abc", "!!float x", "!!bool 3", "!!null x", "!local x", "!<x> y",
    "!!map []", "!!seq {}", "!!str {}", "|", ">-\n  folded", "@at", "`tick", "%TAG ! tag:x,2000:", "? a\n: b",
    "- - - a", '"\\UFFFFFFFF"', '"\\ud800"', '"\\x00"', '"\\0"', "'it''s", "{[a]: b}", "{a, b}", "[a: b]", "---",
    "...", "#", "",
)  # fmt: skip
#: Text that stands for itself, in any format.
TEXTS = (
     "", " ", "\t", "\n", "\0", "\x7f", "\x1b[31m", "\u2028", "\u0085", "\ufeff", "\u202e", "\U0001f600", "é" * 50,
    "e\u0301", "\u0130", "\uff11", "../../../etc/passwd", "/etc/passwd", "C:\\Windows\\x", "\\\\host\\share", "~/x",
    "CON", "nul.txt", "a/../b", ".", "..", "...", "-rf", "--help", "$(touch pwned)", "`touch pwned`", "${HOME}",
    "{0.__class__}", "%s%n", "'; DROP TABLE", "__class__", "__init__", "kind", "method", "pattern", "reduction",
    "tensor", "self", "cls", "os.system", "*", "**", "[", "[!", "[a-", "[z-a]", "(", ")", "(?", "\\", "(a+)+$",
    "a" * 300, "*a" * 40 + "b", "a -> a", "-> a b", "a b ->", "(a b) c -> a b c", "a a -> a a", "... -> ...",
    "1 1 a b -> a b", "(a (b)) -> a b", ">=999", ">= 2", "==", "2.0", "ef21(sign)", "ef21(ef21(sign))", "sign(",
    "momentum | sign |", "|||||||", "1/0", "momentum(beta=.nan) |", "x" * 5000, "0" * 4400, "9" * 400, "1h30m",
    "1e999h", "3" * 3000, "ⅷ", "²", "٣", "1" + "0" * 40, "import os", "__import__('os').system('touch pwned')",
    "exec", "a.b.c.d", "groups.0.lr", "groups." + "9" * 5000 + ".lr",
)  # fmt: skip
NUMBERS = (
     0, -1, 1, 2, 3, 7, 127, 128, 255, 256, 10**4, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, 10**18, 10**30,
    -(10**30), 10**400, 0.0, -0.0, 1e-320, 5e-324, 1e-30, 0.999999, 1.0000001, 1e30, 1.7e308, -1e308, math.inf,
    -math.inf, math.nan,
)  # fmt: skip
PYTHON = (
     "knot", "deep", "none_key", "huge", "bytes", "set", "nan", "inf", "complex", "object", "type", "function",
    "tensor", "model", "surrogate", "tuple", "path", "range", "rule",
)  # fmt: skip
GROUP = "{match: '*', method: muon, lr: 0.1}"


def value(rng: Random) -> Any:
    """A value that a spec should not hold, or not there."""
    kind = rng.randrange(12)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind < 8:
        return rng.choice(NUMBERS)
    simple = (None, True, False, [], {}, [[]], {"": {}}, [None], {"kind": None}, {"kind": "momentum"}, {"sign": None})
    if kind < 10:
        return rng.choice(simple)
    return [value(rng) for _ in range(rng.randrange(4))] if kind == 10 else {rng.choice(TEXTS): value(rng)}


def name(rng: Random) -> str:
    """A text where a name, a path or a word is expected."""
    pieces = [
        rng.choice((*TEXTS, *SCALARS, "run", "a", ".py", ".yaml", "/", "-")) for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    return "".join(pieces)


# Whole texts, each with a size from none to far too large ------------------------------------------------------------


def _nested(rng: Random, n: int) -> str:
    opening, closing = rng.choice(
        (("[", "]"), ("{a: ", "}"), ("[{a: ", "}]"), ("- ", ""), ("? ", ""), ("!!seq [", "]"))
    )
    return "groups: " + "\n" * (opening[0] in "-?") + opening * n + "x" + (closing * n if rng.random() < 0.7 else "")


def _bomb(rng: Random, n: int) -> str:
    width, lines = rng.randint(1, 12), ["a0: &a0 [x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, min(n, 60) + 1)]
    return "\n".join([*lines, f"groups: *a{min(n, 60)}"])


def _knot(rng: Random, n: int) -> str:
    return rng.choice(("groups: &a [*a]", "&a groups: *a", "&a {groups: *a}", "groups: [&a {method: *a, lr: 0.1}]"))


def _groups(rng: Random, n: int) -> str:
    extra = rng.choice(("", ", x: 1", ", lr: x", ", up: [sgn]", ", worker: 'momentun'", f", {'y' * 50}: 1"))
    return f"groups: [{', '.join([GROUP[:-1] + extra + '}'] * n)}]"


def _keys(rng: Random, n: int) -> str:
    return "groups: [{match: '*', method: muon, lr: 0.1, " + ", ".join(f"k{i}: {i}" for i in range(n)) + "}]"


def _same_key(rng: Random, n: int) -> str:
    return "groups: [" + GROUP + "]\n" + "train: {}\n" * n


def _stages(rng: Random, n: int) -> str:
    word = rng.choice(("momentum", "momentun", "clip", "spectral", "step", "decay"))
    many = f"'{f'{word} ' * n}'" if rng.random() < 0.5 else f"[{', '.join([word] * n)}]"
    return f"groups: [{{match: '*', lr: 0.1, {rng.choice(('worker', 'server', 'replica'))}: {many}}}]"


def _long(rng: Random, n: int) -> str:
    letters = rng.choice(
        ("a", "1", "*a", "[", "(", "é", "a ", "ef21(", "\\", "''", "%", ": ", "0.", "_", "9m", "-", "!")
    )
    place = rng.choice(("name", "match", "matrix", "ndim", "method", "lr", "up", "scaling", "state", "x", "worker"))
    quote = rng.choice(("'", '"', ""))
    return f"groups: [{{match: '*', method: muon, lr: 0.1, {place}: {quote}{letters * n}{quote}}}]"


def _weights(rng: Random, n: int) -> str:
    numbers = ", ".join(rng.choice(("1", "0.123456789", "1e-3", "x")) for _ in range(n))
    return f"groups: [{{match: '*', method: muon, lr: 0.1, aggregate: {{kind: weighted_mean, weights: [{numbers}]}}}}]"


def _lines(rng: Random, n: int) -> str:
    return rng.choice(("#\n", "\n", "- \n", "a:\n", " \n", "'", "---\n", "&a ", "%A b\n", "? \n")) * n


def _study(rng: Random, n: int) -> str:
    number, many = rng.choice((n, 10**9, 2**62)), ", ".join(f"0.{i + 1}" for i in range(n))
    section = rng.choice((
        f"seeds: {number}", f"tune: {{points: {2 * number + 1}}}", f"tune: {{widen: {number}}}", f"budget: '{'1' * n}'",
        f"vary: {{groups.0.lr: [{many}]}}\n  tune: {{points: 0}}", f"sampler: {{random: {{arms: {number}}}}}",
        "vary: {" + ", ".join(f"train.a{i}: [1, 2]" for i in range(min(n, 500)))
        + f"}}\n  sampler: {{random: {{arms: {number}}}}}",
        "arms: {" + ", ".join(f"a{i}: {{}}" for i in range(n)) + "}", f"interval: {{kind: bca, draws: {number}}}",
        "vary: {" + ", ".join(f"train.a{i}: [1, 2]" for i in range(min(n, 300))) + "}",
    ))  # fmt: skip
    return f"groups: [{GROUP}]\nablate:\n  {section}"


def _settings(rng: Random, n: int) -> str:
    key = rng.choice(
        ("workers", "steps", "batch", "seed", "checkpoint_every", "local_steps", "bucket_mb", "timeout", "x")
    )
    number = rng.choice((n, 10**6, 10**9, 2**62, 10**25))
    return f"groups: [{GROUP}]\ntrain: {{{key}: {number}}}"


def _steps(rng: Random, n: int) -> str:
    number = rng.choice((n, 10**6, 10**9, 10**20))
    schedule = rng.choice((
        f"schedule: {{lower: 0.1, steps: {number}}}", f"steps: {number}",
        f"schedule: {{lower: 1.0e-{min(n, 320)}, steps: 9}}",
        f"schedule: [{', '.join(['[1.5, -0.5, 0.0]'] * n)}]", f"schedule: [[1.5, -0.5, 0.0]], steps: {number}",
    ))  # fmt: skip
    return f"groups: [{{match: '*', lr: 0.1, worker: {{kind: spectral, {schedule}}}}}]"


def _sizes(rng: Random, n: int) -> str:
    pattern = rng.choice(
        (
            "(a b) c -> a b c",
            "o i -> o i",
            "a" + " 1" * n + " -> a 1",
            "(" + " ".join(f"x{i}" for i in range(n)) + ") b -> b",
        )
    )
    key = rng.choice(("a", "pattern", "tensor", "reduction", "'('", "''", "x1", "1"))
    sizes = f"{{{key}: {rng.choice((n, 10**18))}}}"
    return f"groups: [{{match: '*', method: muon, lr: 0.1, matrix: '{pattern}', sizes: {sizes}}}]"


def _dotted(rng: Random, n: int) -> str:
    key = ".".join(["a"] * n)
    return rng.choice(
        (f"{key} = 1\n", f"[{key}]\nb = 1\n", f"[[{key}]]\n" * 3, "a = {" * n, "a = " + "[" * n, "[[a]]\n" * n)
    )


BUILT: tuple[tuple[Callable[[Random, int], str], str], ...] = (
    *((make, "spec") for make in (_nested, _bomb, _knot, _groups, _keys, _same_key, _stages, _long, _weights, _lines)),
    *((make, "build") for make in (_sizes, _steps, _long)),
    (_study, "study"), (_settings, "settings"), (_dotted, "toml"),
)  # fmt: skip
