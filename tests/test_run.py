"""run.py's own logic: what it reads, what it decides, and that it says what to do. No network, no installs."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run

ROOT = Path(run.__file__).parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def toml(text: str) -> dict:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def test_requirements_are_those_a_toml_parser_reads():
    project = toml(PYPROJECT)["project"]
    for extra in ("train", "test", "lint"):
        expected = project["dependencies"] + project["optional-dependencies"][extra]
        assert run.requirements(PYPROJECT, (extra,)) == expected


def test_dev_holds_every_extra_that_a_command_needs():
    dev = toml(PYPROJECT)["project"]["optional-dependencies"]["dev"]
    assert dev[0] == f"signa-optim[{','.join(run.NEEDS['test'])}]"
    assert {extra for extras in run.NEEDS.values() for extra in extras} == set(run.NEEDS["test"])


def test_a_missing_list_is_named():
    with pytest.raises(ValueError, match=r"no list 'lint = \['"):
        run.requirements("dependencies = [\n]\n", ("lint",))


def test_every_requirement_has_a_pin_that_meets_it():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if "==" in line:
            name, version = line.split(";")[0].split("==")
            pins.setdefault(name.lower(), []).append(version.strip())
    for requirement in run.requirements(PYPROJECT, run.NEEDS["test"]):
        name = requirement.split(">")[0].lower()
        assert all(run.met(requirement, lambda _, pin=pin: pin) for pin in pins[name]), requirement


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13)), ("2.11.0a0+git12", (2, 11)), ("10", (10,)), ("2.0.0", (2,)), ("", ()), ("unknown", ())],
)
def test_release(version, numbers):
    assert run.release(version) == numbers


@pytest.mark.parametrize(
    ("requirement", "version", "met"),
    [
        ("torch>=2.6,<3", "2.13.0+cpu", True),
        ("torch>=2.6,<3", "2.6", True),
        ("torch>=2.6,<3", "2.5.1", False),
        ("torch>=2.6,<3", "3.0.0", False),
        ("torch>=2.6,<3", "", False),
        ("torch>=2.6", "10.0", True),
        ("pyyaml>=6", "6.0.3", True),
        ("tomli>=2; python_version < '3.1'", "", True),
        ("tomli>=2; python_version < '99'", "", False),
        ("tomli>=2; python_version < '99'", "2.5.0", True),
    ],
)
def test_met(requirement, version, met):
    assert run.met(requirement, lambda name: version) is met


@pytest.mark.parametrize("requirement", ["torch", "torch~=2.6", "torch>=2; sys_platform == 'linux'", "a[b]>=1"])
def test_a_requirement_it_cannot_read_is_refused(requirement):
    with pytest.raises(ValueError, match="cannot read"):
        run.met(requirement, lambda name: "2.6")


def test_installed_knows_this_pytest_and_no_stranger():
    assert run.installed("pytest") == pytest.__version__
    assert run.installed("no-such-distribution-as-this") == ""


@pytest.mark.parametrize(
    ("stamp", "works", "todo"),
    [
        (None, False, "remake"),  # no environment, or one whose Python is gone
        ("now", False, "remake"),
        (run.UNFINISHED, True, "remake"),  # an install broke off
        (None, True, "update"),  # made by hand: install into it, never remove it
        ("old", True, "update"),
        ("now", True, "keep"),
    ],
)
def test_plan(stamp, works, todo):
    assert run.plan(stamp, works, "now") == todo


def test_the_fingerprint_follows_every_file(tmp_path):
    seen = set()
    for pyproject, constraints in [("a", "b"), ("a", "c"), ("d", "b"), ("ab", ""), ("", "ab")]:
        (tmp_path / "pyproject.toml").write_text(pyproject)
        (tmp_path / "constraints.txt").write_text(constraints)
        seen.add(run.fingerprint(tmp_path))
    for more in ("a", "b"):
        (tmp_path / "constraints-integrations.txt").write_text(more)
        seen |= {run.fingerprint(tmp_path), run.fingerprint(tmp_path, run.PINS[run.FOREIGN])}
    assert len(seen) == 7


@pytest.fixture
def calls(monkeypatch):
    """The commands that run.py would start; those with a word in `calls.failing` fail."""

    class Calls(list):
        failing = ()

        def __call__(self, command, **kwargs):
            self.append((command, kwargs))
            return int(any(word in command for word in self.failing))

    calls = Calls()
    monkeypatch.setattr(run.subprocess, "call", calls)

    def execve(python, command, env):
        sys.exit(calls(command, env=env))  # as the real one, it does not return

    monkeypatch.setattr(run.os, "execve", execve)
    return calls


@pytest.mark.parametrize("unmet", [[], ["torch>=2.6,<3"]])
def test_this_python_is_used_where_it_has_what_is_needed(monkeypatch, calls, unmet):
    monkeypatch.setattr(run, "VENV", Path("not this one"))
    monkeypatch.setattr(run, "unmet", lambda extras: unmet)
    monkeypatch.setattr(run, "environment", lambda: "the .venv's")
    with contextlib.suppress(SystemExit):  # Windows returns
        run.main(["train", "spec.yaml", "--lr", "1"])
    [(command, kwargs)] = calls
    assert command == ["the .venv's" if unmet else sys.executable, "-m", "signa", "train", "spec.yaml", "--lr", "1"]
    assert kwargs["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert "cwd" not in kwargs  # spec.yaml is looked for where the user is


def test_its_own_environment_is_never_taken_unchecked(monkeypatch, calls):
    monkeypatch.setattr(run, "VENV", Path(sys.prefix).resolve())
    monkeypatch.setattr(run, "environment", lambda: "checked")
    with contextlib.suppress(SystemExit):
        run.main(["train"])
    assert calls[0][0][0] == "checked"


@pytest.mark.parametrize("failing", [(), ("ruff",), ("mypy",), ("pytest",), ("ruff", "mypy", "pytest")])
def test_everything_runs_even_after_a_failure_and_pytest_is_last(calls, capsys, failing):
    calls.failing = failing
    code = run.test("python", [], {})
    assert [command[2] for command, _ in calls] == ["ruff", "ruff", "mypy", "pytest"]
    assert all(kwargs["cwd"] == ROOT for _, kwargs in calls)
    assert calls[-1][1]["env"]["OMP_NUM_THREADS"] == "1"
    assert code == int(bool(failing))
    out, err = capsys.readouterr()
    assert out == ""
    assert all((f"{tool} " in err) == (tool in failing) for tool in ("ruff", "mypy"))


@pytest.mark.parametrize("name", ["soak", "fuzz", "mutants", "coverage"])
def test_soak_fuzz_mutants_and_coverage_pass_their_arguments_on(calls, name):
    assert getattr(run, name)("python", ["--minutes", "2"], {"OMP_NUM_THREADS": "4"}) == 0
    [(command, kwargs)] = calls
    assert command == ["python", "-m", f"tests.{name}", "--minutes", "2"]
    assert kwargs["cwd"] == ROOT and kwargs["env"]["OMP_NUM_THREADS"] == "4"


def test_with_arguments_pytest_runs_alone(calls):
    assert run.test("python", ["-m", "slow", "tests/laws"], {"OMP_NUM_THREADS": "4"}) == 0
    [(command, kwargs)] = calls
    assert command == ["python", "-m", "pytest", "-m", "slow", "tests/laws"]
    assert kwargs["env"]["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["tset"], 2), (["lint", "signa"], 2), (["--help"], 0)])
def test_usage(capsys, argv, code):
    assert run.main(argv) == code
    assert any("python3 run.py train" in text for text in capsys.readouterr())


def test_a_failing_step_says_which_and_what_next(calls, capfd):
    calls.failing = ("venv",)
    with pytest.raises(SystemExit, match=r"failed \(exit 1\) at: py -m venv .venv\n.*python3-venv.*\nRun it again"):
        run.must("py", "-m", "venv", Path(".venv"))


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl there")
def test_a_second_set_up_waits(tmp_path):
    shutil.copy(run.__file__, tmp_path / "run.py")
    code = "import run, time\nwith run.alone(): print('in', flush=True); time.sleep(0.3); print('out', flush=True)"
    start = [sys.executable, "-c", code]
    with open(tmp_path / "log", "w") as log:
        pair = [subprocess.Popen(start, cwd=tmp_path, stdout=log) for _ in range(2)]
        assert [process.wait(30) for process in pair] == [0, 0]
    assert (tmp_path / "log").read_text().split() == ["in", "out", "in", "out"]


def test_an_old_python_is_told_so(tmp_path):
    source = Path(run.__file__).read_text(encoding="utf-8")
    pretend = source.replace("if sys.version_info < (3, 10):", "if sys.version_info < (99,):")
    assert pretend != source
    (tmp_path / "run.py").write_text(pretend, encoding="utf-8")
    done = subprocess.run([sys.executable, tmp_path / "run.py", "test"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.10 or newer" in done.stderr


@pytest.mark.parametrize(("script", "command"), [("run", "test"), ("integrations", "integrations")])
def test_ci_runs_the_readme_command(script, command):
    file = ROOT / ".ci" / script
    lines = file.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == f"python3 run.py {command}"
    assert os.access(file, os.X_OK)


def test_the_integrations_have_an_environment_of_their_own(monkeypatch, calls):
    """With every pin of theirs, and where what is missing is no skip; nothing of it reaches the other environment."""
    monkeypatch.setattr(run, "environment", lambda venv: f"{venv.name}'s")
    assert run.main(["integrations"]) == 0 and run.main(["integrations", "tests/integrations/test_hf.py"]) == 0
    (command, kwargs), (narrow, _) = calls
    assert command[:5] == [".venv-integrations's", "-m", "pytest", "-m", ""] and "tests/integrations" in command
    assert command[-1] == "tests/test_docs.py::test_python[docs/integrations.md]"
    assert narrow[3:] == ["tests/integrations/test_hf.py"]
    assert kwargs["env"]["SIGNA_INTEGRATIONS"] == "1" and kwargs["cwd"] == ROOT


@pytest.mark.parametrize("venv", [run.VENV, run.FOREIGN], ids=lambda venv: venv.name)
def test_an_environment_gets_its_packages_and_pins(monkeypatch, calls, venv):
    monkeypatch.setattr(run, "quiet", lambda *command: "import pip" in command)
    monkeypatch.setattr(run.shutil, "which", lambda *args, **kwargs: None)
    run.install(venv)
    lines = [command[4:] for command, _ in calls]
    assert all(line[0] == "--disable-pip-version-check" for line in lines)
    pins = [Path(word).name for word in lines[1] if word.endswith(".txt")]
    assert pins == ["constraints.txt", "constraints-integrations.txt"][: 1 + (venv == run.FOREIGN)]
    assert ("lightning" in lines[1]) == (venv == run.FOREIGN) == any("--no-deps" in line for line in lines)
    assert lines[1][lines[1].index("-e") + 1] == f"{ROOT}[{run.EXTRAS[venv]}]"


def test_every_package_of_the_integrations_is_pinned():
    text = (ROOT / "constraints-integrations.txt").read_text(encoding="utf-8")
    pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    packages = {name.split(";")[0] for name in (*run.PACKAGES[run.FOREIGN], *run.BARE[run.FOREIGN])}
    assert packages <= pinned


def test_pre_commit_runs_what_run_py_lints():
    assert "entry: python3 run.py lint" in (ROOT / ".pre-commit-config.yaml").read_text()


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m", "signa", "train"]


@pytest.mark.parametrize(
    ("args", "env", "count", "launched"),
    [
        (["spec.yaml", "--steps", "3"], {}, 4, True),
        (["--device", "cuda"], {}, 4, True),
        (["--device=auto"], {}, 4, True),
        (["--set", "train.task.width=64"], {}, 4, True),
        ([], {}, 1, False),
        ([], {}, 0, False),
        (["--device", "cpu"], {}, 4, False),
        (["--device=cuda:1"], {}, 4, False),
        (["--set", "train.device=cpu"], {}, 4, False),
        (["--set=train.device=mps"], {}, 4, False),
        (["--help"], {}, 4, False),
        ([], {"WORLD_SIZE": "1"}, 4, False),
    ],
)
def test_several_gpus_are_used_by_torchrun(monkeypatch, calls, args, env, count, launched):
    monkeypatch.setattr(run, "gpus", lambda python, env: count)
    with contextlib.suppress(SystemExit):
        run.train("python", args, env)
    [(command, kwargs)] = calls
    assert command == ["python", *(TORCHRUN if launched else ["-m", "signa", "train"]), *args]
    rendezvous = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    assert kwargs["env"] == {**(rendezvous if launched else {}), **env}


@pytest.mark.parametrize(
    ("driver", "torch", "count"),
    [("", "8", 1), ("GPU 0: A\n", "8", 1), ("GPU 0: A\nGPU 1: A\n", "2\n", 2), ("GPU 0: A\nGPU 1: A\n", "", 1)],
)
def test_pytorch_is_asked_only_where_the_driver_lists_several_gpus(monkeypatch, driver, torch, count):
    asked = []

    def output(*command, env):
        asked.append(command[0])
        return driver if command[0] == "nvidia-smi" else torch

    monkeypatch.setattr(run, "output", output)
    assert run.gpus("python", {}) == count
    assert asked == ["nvidia-smi"] + ["python"] * (driver.count("GPU") > 1)


def test_a_command_that_is_not_there_prints_nothing():
    assert run.output("no-such-command-as-this", env={}) == ""
    assert run.output(sys.executable, "-c", "print(2)", env=dict(os.environ)).strip() == "2"


def test_fuzz_runs_the_campaign_of_this_checkout(monkeypatch):
    asked = []
    monkeypatch.setattr(run.subprocess, "call", lambda command, **how: asked.append((command, how)) or 3)
    monkeypatch.setattr(run, "environment", lambda venv=run.VENV: "python")
    monkeypatch.setattr(run, "unmet", lambda extras: ["torch"])
    assert run.main(["fuzz", "--inputs", "5"]) == 3
    ((command, how),) = asked
    assert command[1:] == ["-m", "tests.fuzz", "--inputs", "5"] and how["cwd"] == ROOT
    assert how["env"]["OMP_NUM_THREADS"] in ("1", os.environ.get("OMP_NUM_THREADS"))
    assert how["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
