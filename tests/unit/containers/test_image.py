"""What an image is called and how it is built."""

import itertools
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import kit
from kit.containers.image import (
    GIVEN,
    INPUTS,
    BuildOptions,
    build_command,
    build_variables,
    checkout,
    image_tag,
    is_built_here,
    shown_variables,
)
from kit.errors import EnvironmentNotReady
from kit.lock import read_lock
from kit.upstream.selection import rewrite_digest, select

CPU = BuildOptions("cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with a small file for each of the inputs, but with the real lock."""
    for name in INPUTS:
        path = tmp_path / name
        if "." in name or name == "LICENSE":
            path.write_text(name)
        else:
            path.mkdir()
            (path / "file").write_text(name)
    (tmp_path / "kit.lock").write_bytes((checkout() / "kit.lock").read_bytes())
    return tmp_path


def test_the_tag_names_version_target_and_a_digest(root: Path) -> None:
    assert re.fullmatch(
        rf"spark-kit:{re.escape(kit.__version__)}-cpu-[0-9a-f]{{12}}", image_tag(CPU, root)
    )
    assert image_tag(replace(CPU, tag="mine:1"), root) == "mine:1"


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_changes_the_tag(root: Path, name: str) -> None:
    before = image_tag(CPU, root)
    path = root / name
    path = path / "file" if path.is_dir() else path
    path.write_bytes(path.read_bytes() + b"\n")
    assert image_tag(CPU, root) != before


def test_target_and_base_change_the_tag_and_where_things_come_from_does_not(root: Path) -> None:
    tags = {
        image_tag(options, root)
        for options in (CPU, replace(CPU, target="cuda"), replace(CPU, base_image="mine/python"))
    }
    assert len(tags) == 3
    mirrored = replace(CPU, apt_mirror="http://mirror", network="host", ca_bundle=Path("/ca"))
    assert image_tag(mirrored, root) == image_tag(CPU, root)


def test_compiled_python_and_other_files_do_not_change_the_tag(root: Path) -> None:
    before = image_tag(CPU, root)
    (root / "kit/__pycache__").mkdir()
    (root / "kit/__pycache__/file.pyc").write_bytes(b"compiled")
    (root / "notes.txt").write_text("mine")
    (root / "wheelhouse").mkdir()
    assert image_tag(CPU, root) == before


def test_the_command_passes_on_what_it_works_out(root: Path) -> None:
    command = build_command(CPU, root)
    lock = read_lock(root / "kit.lock")
    assert command[:2] == ("docker", "build")
    assert command[-1] == str(root)
    assert f"UPSTREAM_COMMIT={lock.commit}" in command
    assert f"UPSTREAM_REPOSITORY={lock.repository}" in command
    assert f"REWRITE_DIGEST={rewrite_digest(select())}" in command
    assert f"KIT_VERSION={kit.__version__}" in command
    assert tags(command) == [image_tag(CPU, root), "spark-kit:cpu"]
    assert not {"--secret", "--network"} & set(command)
    assert not any(word.startswith(("BASE_IMAGE=", "APT_MIRROR=")) for word in command)


def test_a_tag_of_ones_own_is_the_only_one(root: Path) -> None:
    assert tags(build_command(replace(CPU, tag="mine:1"), root)) == ["mine:1"]


def test_the_environment_names_base_mirrors_proxy_and_authorities(root: Path) -> None:
    environ = {
        "KIT_BASE_IMAGE": "registry.example.org/python:3.12",
        "KIT_CA_BUNDLE": "/etc/proxy.pem",
        "KIT_BUILD_NETWORK": "host",
        "KIT_APT_MIRROR": "http://mirror.example.org/debian",
        "KIT_UPSTREAM_MIRROR": "https://mirror.example.org/spark.git",
        "PIP_INDEX_URL": "https://mirror.example.org/simple",
        "https_proxy": "http://proxy.example.org:3128",
        "KIT_API_KEY": "private",
        "NO_PROXY": "",
    }
    command = build_command(BuildOptions.from_environ("cuda", environ), root)
    assert "id=ca,src=/etc/proxy.pem" in command
    assert command[command.index("--network") + 1] == "host"
    assert command[command.index("--target") + 1] == "cuda"
    assert "BASE_IMAGE=registry.example.org/python:3.12" in command
    assert not any("private" in word for word in command)
    by_name = [after for word, after in itertools.pairwise(command) if word == "--build-arg"]
    assert [word for word in by_name if "=" not in word] == [
        "APT_MIRROR",
        "UPSTREAM_MIRROR",
        "PIP_INDEX_URL",
        "https_proxy",
    ]
    options = BuildOptions.from_environ("cuda", environ)
    assert build_variables(options) == {
        "DOCKER_BUILDKIT": "1",
        "APT_MIRROR": "http://mirror.example.org/debian",
        "UPSTREAM_MIRROR": "https://mirror.example.org/spark.git",
        "PIP_INDEX_URL": "https://mirror.example.org/simple",
        "https_proxy": "http://proxy.example.org:3128",
    }
    assert shown_variables(options) == {
        "DOCKER_BUILDKIT": "1",
        "APT_MIRROR": "$KIT_APT_MIRROR",
        "UPSTREAM_MIRROR": "$KIT_UPSTREAM_MIRROR",
    }


def test_an_installed_wheel_builds_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "__file__", str(tmp_path / "kit" / "__init__.py"))
    with pytest.raises(EnvironmentNotReady, match="from a wheel"):
        checkout()


def test_the_context_of_the_build_holds_the_inputs_and_nothing_else() -> None:
    lines = (checkout() / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {*INPUTS, *GIVEN}
    assert all((checkout() / name).exists() for name in INPUTS)


def test_the_dockerfile_copies_what_the_kits_wheel_is_made_of() -> None:
    pyproject = tomllib.loads((checkout() / "pyproject.toml").read_text())
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "LICENSE", "README.md", "pyproject.toml"}
    text = (checkout() / "docker/Dockerfile").read_text()
    stage = text.split(" AS kit\n")[1].split("\nFROM ")[0]
    copied = " ".join(re.findall(r"^COPY (.*) \S+$", stage, re.MULTILINE)).split()
    assert {name.split("/")[0] for name in needed} == set(copied)


def test_the_dockerfile_pins_its_base_and_takes_the_arguments() -> None:
    text = (checkout() / "docker/Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    names = {name for _, name in stages}
    assert {"cuda", "cpu"} <= names
    assert {source for source, _ in stages} <= names | {"scratch", "${BASE_IMAGE}"}
    assert re.search(r"^ARG BASE_IMAGE=\S+:\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    declared = set(" ".join(re.findall(r"^ARG (.*)$", text, re.MULTILINE)).split())
    mirrored = replace(CPU, base_image="mine", apt_mirror="mine", upstream_mirror="mine")
    command = build_command(mirrored, checkout())
    given = [after for word, after in itertools.pairwise(command) if word == "--build-arg"]
    assert {word.partition("=")[0] for word in given} <= declared


def tags(command: tuple[str, ...]) -> list[str]:
    return [after for word, after in itertools.pairwise(command) if word == "--tag"]


def test_names_that_the_kit_gives_are_told_from_those_that_users_choose(root):
    assert is_built_here(image_tag(CPU, root))
    for name in ("spark-kit:cpu", "spark-kit:cuda", "registry.example/spark-kit:0.1.0", "other:1"):
        assert not is_built_here(name)
