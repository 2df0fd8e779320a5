import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from kit.errors import BudgetExceeded, EnvironmentNotReady, IntegrityError, ServiceError, UsageError
from kit.settings import VARIABLES

HEAVY = ("httpx", "numpy", "torch", "transformers", "pynvml", "pydantic", "filelock", "rich.table")


def run(*arguments, **options):
    command = (sys.executable, "-m", "kit", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_version():
    assert run("--version").stdout == f"{kit.__version__}\n"


def test_help_lists_commands_and_exit_codes():
    done = run("--help")
    assert done.returncode == 0
    for word in (
        "up",
        "down",
        "status",
        "logs",
        "health",
        "serve",
        "weights",
        "memory",
        "upstream",
    ):
        assert f"\n  {word} " in done.stdout
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f"{code:>5}  " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("group", [(), ("memory",), ("upstream",), ("bench",)])
def test_help_tells_every_command_in_full(group):
    assert "..." not in run(*group, "--help").stdout.split("Commands:")[1]


@pytest.mark.parametrize("variable", ["KIT_MODEL", "KIT_HOST", "KIT_PORT", "KIT_MAX_RAM"])
def test_help_of_up_names_environment_variables(variable):
    assert variable in run("up", "--help").stdout


def test_starting_imports_nothing_heavy():
    code = "import sys, kit.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("typer", ("--help",)), ("kit.weights.listing", ("weights", "list"))],
    ids=["while importing", "while running"],
)
def test_ctrl_c_is_one_line_and_130(tmp_path, module, arguments):
    """The signal comes while ``module`` is imported, once before the command and once in it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(kit.__file__).parents[1])])
    done = run(*arguments, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("arguments", [("nonsense",), ("up", "--port", "0"), ("up", "--bogus")])
def test_wrong_usage_is_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (EnvironmentNotReady, 3),
        (IntegrityError, 4),
        (BudgetExceeded, 5),
        (ServiceError, 6),
    ],
)
def test_errors_become_exit_codes(monkeypatch, capsys, kind, code):
    from kit.cli import main

    def fail(**_):
        raise kind("it broke", hint="mend it")

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: it broke\nhint: mend it\n")


def test_a_path_that_may_not_be_used_is_3(monkeypatch, capsys):
    from kit.cli import main

    def fail(**_):
        raise PermissionError(13, "Permission denied", "/root/weights")

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 3
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: /root/weights: permission denied for user ")
    assert hint.startswith("hint: ")


def test_a_bug_keeps_its_traceback(monkeypatch):
    from kit.cli import main

    monkeypatch.setattr(main, "app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.run()


def test_a_misspelt_setting_is_named_with_the_right_one():
    done = run("--version", env={**os.environ, "KIT_MAX_VRM": "10GiB", "KIT_TEST_OURS": "1"})
    assert done.returncode == 0
    assert done.stderr == "warning: KIT_MAX_VRM is no setting of the kit; KIT_MAX_VRAM is\n"


def test_every_setting_that_is_read_is_known():
    root = Path(kit.__file__).parent.parent
    paths = [*root.glob("kit/**/*.py"), *root.glob("docker/*"), root / "compose.yaml"]
    read = {
        name for path in paths for name in re.findall(r"\bKIT_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert {name for name in read if not name.startswith("KIT_TEST")} <= VARIABLES
