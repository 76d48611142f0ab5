"""Set up SignA in this checkout and run it, with nothing but Python 3.10 or newer.

    python3 run.py train [args...]   a training run:  python -m signa train args...; on several GPUs by torchrun
    python3 run.py test              everything CI checks: ruff, mypy, then the quick tests
    python3 run.py test args...      pytest alone, with these arguments
    python3 run.py lint              ruff and mypy alone (what pre-commit runs)
    python3 run.py soak --minutes N  random kills and resumes of three ranks, then a long run under watch
    python3 run.py integrations      the tests against Lightning, the Hugging Face Trainer and so on; args as of test
    python3 run.py docs              the site, into build/site/html
    python3 run.py notebook          examples/tour.ipynb, executed in place
    python3 run.py fuzz [args...]    wrong and hostile specs: each must be refused; --inputs 100000, --minutes 4, --help
    python3 run.py mutants [args...] small faults put into the code, one by one: --minutes 10, --module lmo, --help
    python3 run.py coverage [args..] lines and branches that the tests run: 95 % on each of floors 0 to 3, or it fails
    python3 run.py wheel [args...]   sdist and wheel into build/dist, and tests against the installed wheel

Which Python runs it: this one, if it already meets the requirements in pyproject.toml (a conda environment, an image
with PyTorch); otherwise that of `.venv` beside this file, which is made on first use (about 20 seconds, and PyTorch's
download) and updated when pyproject.toml or constraints.txt change. Delete `.venv` at any time; it is made again.
`integrations` has a `.venv-integrations`, made likewise, with the versions in constraints-integrations.txt besides.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 (this file is started by whatever python3 there is)
    sys.exit(
        f"run.py: SignA needs Python 3.10 or newer, but {sys.executable} is Python {sys.version.split()[0]}.\n"
        "Start it with a newer one, for example: python3.12 run.py test"
    )

ROOT = Path(__file__).resolve().parent
VENV, FOREIGN = ROOT / ".venv", ROOT / ".venv-integrations"
BUILD = ROOT / "build"  # what the last three commands make; delete it at any time
#: What is installed into each: the project's extras, other packages, and those whose own requirements are left out.
EXTRAS = {VENV: "dev", FOREIGN: "train,test"}
PACKAGES = {
    VENV: (),
    FOREIGN: ("transformers", "accelerate", "lightning", "hydra-core", "omegaconf", "optuna", "tyro", "spmd_types"),
}
BARE = {VENV: (), FOREIGN: ("torchtitan; python_version >= '3.11'",)}  # tyro and spmd_types are what we use it with
PINS = {VENV: ("constraints.txt",), FOREIGN: ("constraints.txt", "constraints-integrations.txt")}
UNFINISHED = "unfinished"  # the stamp's text while an install runs: found at the start, it means that one broke off
LINTERS = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "signa"))
NEEDS = {"train": ("train",), "test": ("train", "test", "lint"), "lint": ("train", "test", "lint")}  # the extras
NEEDS |= {"docs": ("train",), "notebook": ("train",), "wheel": (), "soak": ("train", "test")}
NEEDS["fuzz"] = NEEDS["mutants"] = NEEDS["coverage"] = NEEDS["soak"]
NEEDS["integrations"] = ()  # of any Python but its own: that one is always used
# What is put to an installed wheel.
INSTALLED = ("tests/laws", "tests/specs", "tests/paths", "tests/planner", "tests/test_exports.py")


def requirements(pyproject: str, extras: tuple[str, ...]) -> list[str]:
    """The requirements in `dependencies` and in these extras. Python 3.10 has no TOML parser, so: one string a line."""
    found: list[str] = []
    for key in ("dependencies", *extras):
        block = re.search(rf"^{key} = \[\n(.*?)^\]", pyproject, re.M | re.S)
        if block is None:
            raise ValueError(f"pyproject.toml has no list '{key} = [' with one requirement on each line")
        found += re.findall(r'^\s*"([^"]+)"', block[1], re.M)
    return found


def release(version: str) -> tuple[int, ...]:
    """'2.11.0a0+git12' -> (2, 11): the numbers that decide, without trailing zeros."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", numbers[0]).split("."))) if numbers else ()


def installed(name: str) -> str:
    """The version of a distribution that this Python sees, or '' (also for one whose removal broke off)."""
    from importlib import metadata  # not at the top: Python 3.7 has none, and should get to the message above

    try:
        return metadata.version(name) or ""
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: metadata without a version, from Python 3.12 on
        return ""


def met(requirement: str, version_of=installed) -> bool:
    """Whether one requirement, such as "tomli>=2,<3; python_version < '3.11'", is met."""
    parts = re.fullmatch(r"([\w.-]+)((?:(?:>=|<)[\d.]+,?)+)(?:; python_version < '([\d.]+)')?", requirement)
    if parts is None:
        raise ValueError(f"run.py cannot read {requirement!r}: write name>=1,<2 and at most one python_version < '...'")
    name, bounds, below = parts.groups()
    if below and sys.version_info[:2] >= release(below):
        return True
    have = release(version_of(name))
    return have != () and all((have >= release(v)) == (op == ">=") for op, v in re.findall(r"(>=|<)([\d.]+)", bounds))


def unmet(extras: tuple[str, ...]) -> list[str]:
    """The requirements that the Python running this file does not meet."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return [requirement for requirement in requirements(pyproject, extras) if not met(requirement)]


def fingerprint(root: Path = ROOT, pins: "tuple[str, ...]" = PINS[VENV]) -> str:
    """Changes when what is to be installed may have changed."""
    texts = [(root / name).read_bytes() for name in ("pyproject.toml", *pins)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def plan(stamp: "str | None", works: bool, wanted: str) -> str:
    """'keep', 'update' or 'remake' the environment. No stamp but a working Python is one that somebody made by hand."""
    return "remake" if not works or stamp == UNFINISHED else "keep" if stamp == wanted else "update"


def python_of(venv: Path) -> Path:
    """The Python of an environment, there or not."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment(venv: Path = VENV) -> str:
    """The path of `.venv`'s Python (or the other's), after making, mending or updating it where that is due."""
    python, file, wanted = python_of(venv), venv / "signa-stamp", fingerprint(pins=PINS[venv])
    with alone():
        stamp = file.read_text() if file.is_file() else None
        works = python.is_file() and quiet(python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))")
        todo = plan(stamp, works, wanted)
        if todo == "keep":
            return str(python)
        verb = "make" if todo == "remake" and not venv.exists() else todo
        say(f"{verb} {venv} (PyTorch is downloaded unless pip has it already)")
        if todo == "remake":
            python.unlink(missing_ok=True)  # first, so that a removal that breaks off leaves nothing that seems to work
            shutil.rmtree(venv, ignore_errors=not venv.exists())
            venv.mkdir()
        file.write_text(UNFINISHED)
        if todo == "remake":  # by the base Python: this one may be that of the very `.venv` just removed
            must(getattr(sys, "_base_executable", sys.executable), "-m", "venv", venv)
        install(venv)
        file.write_text(wanted)
    return str(python)


def install(venv: Path) -> None:
    """The pinned PyTorch by pip, for only pip's configuration may know a local or CPU build; the rest by uv or pip."""
    python = python_of(venv)
    if not quiet(python, "-c", "import pip"):  # uv makes environments without it
        must(python, "-m", "ensurepip")
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check")
    pip = pip if sys.stderr.isatty() else (*pip, "--quiet")
    limits = tuple(word for name in PINS[venv] for word in ("-c", ROOT / name))
    must(*pip, "--no-compile", *limits, "torch")  # compiling every module of it would take longer than the install
    uv = shutil.which("uv") or (quiet(*pip, "uv") and shutil.which("uv", path=str(python.parent)))
    project = (*limits, "-e", f"{ROOT}[{EXTRAS[venv]}]", *PACKAGES[venv])
    if not uv or not quiet(uv, "pip", "install", "--python", python, *project):
        must(*pip, *project)
    if BARE[venv]:
        must(*pip, *limits, "--no-deps", *BARE[venv])


@contextlib.contextmanager
def alone():
    """One set-up at a time: a second run.py waits here. The lock is on this file and ends with the process."""
    with open(__file__, "rb") as file:
        with contextlib.suppress(ImportError, OSError):  # Windows has no fcntl, some file systems have no locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """A line of our own, apart from the output of what is run."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def quiet(*command: object) -> bool:
    """Whether the command succeeds; its output is not shown."""
    env = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", **os.environ}  # certificates as pip's; uv's new and old name
    return subprocess.run(list(map(str, command)), capture_output=True, env=env).returncode == 0


def must(*command: object) -> None:
    """Run a step of the set-up, or stop here."""
    words = list(map(str, command))
    code = subprocess.call(words, stdout=sys.stderr.fileno())
    if code != 0:
        hint = "\nOn Debian and Ubuntu, install python3-venv." if "venv" in words else ""
        sys.exit(f"run.py: the set-up failed (exit {code}) at: {' '.join(words)}{hint}\nRun it again to start it over.")


def train(python: str, args: list[str], env: dict[str, str]) -> int:
    """`python -m signa train`, in place of this process where the system can, so that signals reach it.

    Where PyTorch sees several GPUs, torchrun starts one process for each.
    """
    command = [python, "-m", "signa", "train", *args]
    count = 1 if one_process(args, env) else gpus(python, env)
    if count > 1:
        say(f"{count} GPUs: torchrun starts {count} processes (--device cuda:0 for one)")
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
        command = [python, "-m", *launcher, *command[2:]]
        # Without the first, restarts with gloo failed 7 times of 8 (PyTorch 2.13); the second is torchrun's default.
        env = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", **env}
    if os.name == "posix":
        os.execve(python, command, env)
    return subprocess.call(command, env=env)


def one_process(args: list[str], env: dict[str, str]) -> bool:
    """Whether one process is enough, or all that is wanted: one device, help, or a launcher of the user's own."""
    devices = re.findall(r"^(?:--device[=\n]|train\.device=|--set=train\.device=)(\S*)", "\n".join(args), re.M)
    chosen = devices and devices[-1] not in ("auto", "cuda")
    return bool(chosen or "WORLD_SIZE" in env or {"-h", "--help"} & set(args))


def gpus(python: str, env: dict[str, str]) -> int:
    """How many GPUs PyTorch sees. To ask takes seconds, so it is asked only where the driver's tool lists several."""
    if output("nvidia-smi", "-L", env=env).count("GPU ") < 2:
        return 1
    count = output(python, "-c", "import torch; print(torch.cuda.device_count())", env=env).strip()
    return int(count) if count.isdigit() else 1


def output(*command: str, env: dict[str, str]) -> str:
    """What a command prints; nothing where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, env=env).stdout
    except OSError:
        return ""


def lint(python: str, args: list[str], env: dict[str, str]) -> int:
    """Every linter (they take no arguments), also after one has failed; 1 if any has."""
    failed = [" ".join(tool) for tool in LINTERS if subprocess.call([python, "-m", *tool], cwd=ROOT, env=env) != 0]
    if failed:
        say(f"FAILED: {', '.join(failed)} (see above)")
    return int(bool(failed))


def test(python: str, args: list[str], env: dict[str, str]) -> int:
    """Everything, or pytest alone where it is given arguments. pytest comes last: CI reads its closing line."""
    failed = 0 if args else lint(python, [], env)
    pytest = [python, "-m", "pytest", *(args or ("-n", "2"))]
    return subprocess.call(pytest, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env}) or failed


def soak(python: str, args: list[str], env: dict[str, str]) -> int:
    """Ranks that are killed and resumed, and a long run watched; the tests' worlds of processes do it."""
    return subprocess.call([python, "-m", "tests.soak", *args], cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env})


def integrations(python: str, args: list[str], env: dict[str, str]) -> int:
    """The adapters' tests, the slow ones too, and their page; there, what is not installed is an error, not a skip."""
    page = "tests/test_docs.py::test_python[docs/integrations.md]"
    pytest = [python, "-m", "pytest", *(args or ("-m", "", "tests/integrations", page))]
    return subprocess.call(pytest, cwd=ROOT, env={"OMP_NUM_THREADS": "1", "SIGNA_INTEGRATIONS": "1", **env})


def docs(python: str, args: list[str], env: dict[str, str]) -> int:
    """Every page by this Python, which knows the parts; HTML of them by the builder, which stops at a broken link."""
    builder, folder = tools(), BUILD / "site"
    code = subprocess.call([python, "-m", "docs.site", str(folder)], cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env})
    code = code or subprocess.call([str(builder), "-m", "zensical", "build", "--clean", "--strict"], cwd=folder)
    if code == 0:
        say(f"the site is {folder / 'html' / 'index.html'} (its search needs a server: python3 -m http.server)")
    return code


def notebook(python: str, args: list[str], env: dict[str, str]) -> int:
    """Jupyter is among the tools and PyTorch is not, so the tools see this Python's packages as well."""
    packages = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", env=env).strip()
    env = {**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((env["PYTHONPATH"], packages))}
    return subprocess.call([str(tools()), "-m", "docs.site", "--notebook"], cwd=ROOT, env=env)


def wheel(python: str, args: list[str], env: dict[str, str]) -> int:
    """The wheel is made from the sdist, installed with what it requires, and tested where no checkout is seen."""
    dist, fresh, away = BUILD / "dist", BUILD / "wheel-venv", BUILD / "wheel-tests"
    for folder in (dist, fresh, away):
        shutil.rmtree(folder, ignore_errors=True)
    must(tools(), "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    must(getattr(sys, "_base_executable", sys.executable), "-m", "venv", fresh)
    alone_python = python_of(fresh)
    pip = (
        alone_python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
    )
    must(*pip, "--no-compile", "torch")
    must(*pip, f"{next(dist.glob('*.whl'))}[train,test]")
    for name in ("tests", "docs", "examples"):  # all that the tests read, and not the package
        shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", away)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = output(str(alone_python), "-I", "-c", "import signa; print(signa.__file__)", env=env).strip()
    if not found.startswith(str(fresh)):
        sys.exit(f"run.py: the tests would see {found!r} and not the wheel in {fresh}")
    command = [str(alone_python), "-m", "pytest", "-n", "2", *(args or INSTALLED)]
    return subprocess.call(command, cwd=away, env={"OMP_NUM_THREADS": "1", **env})


def fuzz(python: str, args: list[str], env: dict[str, str]) -> int:
    """`python -m tests.fuzz`, which lists what broke the promise and says how to repeat it."""
    return subprocess.call([python, "-m", "tests.fuzz", *args], cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env})


def mutants(python: str, args: list[str], env: dict[str, str]) -> int:
    """`python -m tests.mutants`, which lists the faults that no test caught."""
    return subprocess.call([python, "-m", "tests.mutants", *args], cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env})


def coverage(python: str, args: list[str], env: dict[str, str]) -> int:
    """`python -m tests.coverage`, which runs pytest with these arguments and says what no test runs."""
    return subprocess.call([python, "-m", "tests.coverage", *args], cwd=ROOT, env={"OMP_NUM_THREADS": "1", **env})


def tools() -> Path:
    """The Python of build/docs-venv, which has what constraints-docs.txt lists; made anew when that changes."""
    venv, pins = BUILD / "docs-venv", ROOT / "constraints-docs.txt"
    python, stamp = python_of(venv), venv / "signa-stamp"
    with alone():
        if not stamp.is_file() or stamp.read_bytes() != pins.read_bytes():
            say(f"make {venv}")
            shutil.rmtree(venv, ignore_errors=True)
            must(getattr(sys, "_base_executable", sys.executable), "-m", "venv", venv)
            must(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", pins)
            stamp.write_bytes(pins.read_bytes())
    return python


def main(argv: list[str]) -> int:
    """Run one command and return the exit code."""
    command, args = (argv[0], argv[1:]) if argv else ("", [])
    if command not in NEEDS or (args and command in ("lint", "docs", "notebook")):
        print(__doc__, file=sys.stdout if command in ("-h", "--help") else sys.stderr)
        return 0 if command in ("-h", "--help") else 2
    needs = tuple(extra for extra in NEEDS[command] if not (args and extra == "lint"))
    if command == "integrations":
        python = environment(FOREIGN)
    elif Path(sys.prefix).resolve() != VENV and not unmet(needs):
        python = sys.executable
        say(f"using {python}, which has what is needed")
    else:
        python = environment()
    # The checkout's signa is the one imported, whatever else is installed and from whichever folder this was started.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    commands = {"train": train, "test": test, "lint": lint, "integrations": integrations, "soak": soak}
    commands |= {"docs": docs, "notebook": notebook, "wheel": wheel, "fuzz": fuzz, "mutants": mutants}
    commands |= {"coverage": coverage}
    return commands[command](python, args, env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
