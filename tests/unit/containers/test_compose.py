"""Finding Compose, its command lines, and what its failures become; with programs of our own."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kit.containers.compose import Compose, ComposeProgram, find_compose, project_name
from kit.errors import EnvironmentNotReady, ServiceError
from kit.settings import bundled

V1 = ComposeProgram(("docker-compose",), (1, 29, 2))
REPORT = """
import json, os, sys
names = ("KIT_PORT", "KIT_IMAGE", "KIT_OTHER", "KIT_RESTART")
print("started", file=sys.stderr)
print(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
"""


@pytest.fixture
def bin_dir(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def program(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def printing(text: str, *, code: int = 0, to: str = "stdout") -> str:
    return f"import sys\nprint({text!r}, file=sys.{to})\nsys.exit({code})\n"


def on(folder: Path) -> dict[str, str]:
    return {"PATH": str(folder)}


@pytest.mark.parametrize("text", ["2.26.1-4", "v2.39.1", "2.26.1"])
def test_the_plugin_comes_first(bin_dir, text):
    program(bin_dir, "docker", printing(text))
    program(bin_dir, "docker-compose", printing("1.29.2"))
    found = find_compose(on(bin_dir))
    assert found.command == ("docker", "compose")
    assert found.version >= (2, 26, 1)


def test_without_the_plugin_docker_compose_is_taken(bin_dir):
    program(
        bin_dir,
        "docker",
        printing("docker: 'compose' is not a docker command.", code=1, to="stderr"),
    )
    program(bin_dir, "docker-compose", printing("1.29.2"))
    assert find_compose(on(bin_dir)) == V1


@pytest.mark.parametrize(
    ("plugin", "program_of_old", "said"),
    [
        (None, None, "docker compose: not installed; docker-compose: not installed"),
        (
            printing("docker: unknown command: docker compose", code=1, to="stderr"),
            printing("1.25.0"),
            "unknown command: docker compose; docker-compose is 1.25.0, too old",
        ),
        (printing("no number"), None, "docker compose: it has no version"),
    ],
)
def test_no_compose(bin_dir, plugin, program_of_old, said):
    for name, code in (("docker", plugin), ("docker-compose", program_of_old)):
        if code:
            program(bin_dir, name, code)
    with pytest.raises(EnvironmentNotReady) as caught:
        find_compose(on(bin_dir))
    assert said in caught.value.message
    assert "docker-compose-plugin" in caught.value.hint
    assert "--runtime local" in caught.value.hint


def test_command_lines():
    compose = Compose(ComposeProgram(("docker", "compose"), (2, 0, 0)), "mine", {}, {})
    base = ("docker", "compose", "--project-name", "mine", "--file", str(compose.file))
    base += ("--profile", "cpu")
    assert compose.file.name == "compose.yaml"
    assert compose.up_command("spark") == (*base, "up", "--detach", "--no-build", "spark")
    assert compose.down_command() == (*base, "down")
    assert compose.remove_command("spark-cpu") == (*base, "rm", "--stop", "--force", "spark-cpu")
    assert compose.pull_command("spark") == (*base, "pull", "spark")


def test_our_variables_win_over_the_environment(bin_dir):
    program(bin_dir, "docker-compose", REPORT)
    environ = on(bin_dir) | {"KIT_PORT": "1", "KIT_IMAGE": "theirs", "KIT_RESTART": "no"}
    compose = Compose(V1, "p", {"KIT_PORT": "9000", "KIT_IMAGE": "ours"}, environ)
    heard: list[str] = []
    lines = compose.run(compose.up_command("spark"), "up", heard.append)
    assert lines == heard
    arguments, seen = json.loads(next(line for line in lines if line.startswith("[")))
    assert arguments[-1] == "spark"
    assert seen == {
        "KIT_PORT": "9000", "KIT_IMAGE": "ours", "KIT_OTHER": None, "KIT_RESTART": "no",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "kind"),
    [("port is already allocated", EnvironmentNotReady), ("boom", ServiceError)],
)
def test_a_failure_is_explained(bin_dir, said, kind):
    program(bin_dir, "docker-compose", printing(said, code=1, to="stderr"))
    compose = Compose(V1, "p", {}, on(bin_dir))
    with pytest.raises(kind, match=f"docker compose up failed: .*{said}"):
        compose.run(compose.up_command("spark"), "docker compose up")


def test_the_project_is_the_users_or_ours():
    assert project_name({"COMPOSE_PROJECT_NAME": "theirs"}) == "theirs"
    assert project_name({"KIT_INSTANCE": "b"}) == "spark-kit-b"
    assert project_name({"KIT_INSTANCE": "b", "COMPOSE_PROJECT_NAME": "theirs"}) == "theirs-b"
    assert project_name({"COMPOSE_PROJECT_NAME": ""}) == project_name({}) == "spark-kit"


SLOW = """
import sys, time
print(sys.argv[-1], flush=True)
time.sleep(2 if sys.argv[-1] == "spark" else 0)
open(sys.argv[0] + ".log", "a").write(sys.argv[-1] + "\\n")
"""


def test_what_outlives_its_kit_ends_before_the_next_begins(bin_dir, tmp_path):
    program(bin_dir, "docker-compose", SLOW)
    code = f"""
from pathlib import Path
from kit.containers.compose import Compose, ComposeProgram
compose = Compose(
    ComposeProgram(("docker-compose",), (1, 29, 2)), "p", {{}}, {{"PATH": {str(bin_dir)!r}}},
    Path({str(tmp_path / "lock")!r}),
)
compose.run(compose.up_command("spark"), "up", lambda line: print(line, flush=True))
"""
    kit = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=bundled("demo").parent
    )
    assert kit.stdout is not None
    assert kit.stdout.readline() == "spark\n"
    kit.kill()
    kit.wait()
    compose = Compose(V1, "p", {}, on(bin_dir), tmp_path / "lock")
    compose.run(compose.down_command(), "down")
    log = (bin_dir / "docker-compose.log").read_text()
    assert log == "spark\ndown\n"
