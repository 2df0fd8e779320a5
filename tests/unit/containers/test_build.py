"""Running a build: which Docker clients can, and what is said of one that failed."""

from dataclasses import replace
from pathlib import Path

import pytest

from kit.containers.image import BuildOptions, checkout
from kit.containers.wanted_image import build, docker_client, require_buildkit, why_it_failed
from kit.errors import EnvironmentNotReady, IntegrityError, KitError

DRIFTED = """\
#24 [upstream 5/5] RUN --mount=from=given,target=/given upstream.sh /opt/spark/rewritten "$DIGEST"
#24 1.241 error: /given is drifted: deepspeed-megatron/LICENSE differs
#24 1.241 hint: take it from elsewhere: --from names a repository
#24 ERROR: executor failed running [/bin/sh -c upstream.sh]: exit code: 4
------
 > [upstream 5/5] RUN --mount=from=given,target=/given upstream.sh:
------
executor failed running [/bin/sh -c upstream.sh]: exit code: 4
"""
NO_BASE = """\
#3 [internal] load metadata for registry.example.org/python:3.12
#3 ERROR: failed to do request: no such host
------
 > [internal] load metadata for registry.example.org/python:3.12:
------
failed to solve: failed to do request: no such host
"""
FULL = """\
#11 2.1 ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device
#11 ERROR: executor failed running [/bin/sh -c kit-pip install]: exit code: 1
executor failed running [/bin/sh -c kit-pip install]: exit code: 1
"""
NO_PACKAGE = """\
#11 2.1 ERROR: No matching distribution found for torch==2.10.0
#11 ERROR: executor failed running [/bin/sh -c kit-pip install]: exit code: 1
executor failed running [/bin/sh -c kit-pip install]: exit code: 1
"""


def test_drift_keeps_its_exit_code_and_what_the_kit_said() -> None:
    error = why_it_failed(DRIFTED.splitlines())
    assert isinstance(error, IntegrityError)
    assert error.message.endswith("/given is drifted: deepspeed-megatron/LICENSE differs")
    assert error.hint == "take it from elsewhere: --from names a repository"


def test_a_base_that_cannot_be_pulled_is_named_as_the_cause() -> None:
    error = why_it_failed(NO_BASE.splitlines())
    assert isinstance(error, EnvironmentNotReady)
    assert "base image" in error.message
    assert "BASE_IMAGE" in error.hint


def test_a_full_disk_is_told_in_the_kits_words() -> None:
    error = why_it_failed(FULL.splitlines())
    assert isinstance(error, EnvironmentNotReady)
    assert "Docker's disk is full (" in error.message
    assert "docker builder prune" in error.hint


def test_any_other_failure_ends_with_what_docker_said_last() -> None:
    error = why_it_failed(NO_PACKAGE.splitlines())
    assert type(error) is KitError
    assert error.message.endswith("exit code: 1")
    assert why_it_failed([]).message.endswith("docker said nothing")


def client(folder: Path, script: str) -> dict[str, str]:
    """An environment in which ``docker`` is ``script``."""
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_a_client_with_buildkit_is_told_by_its_help(tmp_path: Path) -> None:
    require_buildkit(client(tmp_path, 'test "$DOCKER_BUILDKIT" = 1 && echo "  --secret  Secret"'))
    with pytest.raises(EnvironmentNotReady, match="cannot build with BuildKit") as caught:
        require_buildkit(client(tmp_path, "echo '  --tag  Name'"))
    assert "buildx" in caught.value.hint


def test_no_client_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="no docker command"):
        docker_client({"PATH": str(tmp_path)})


def test_a_build_passes_on_every_line_and_returns_the_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = client(tmp_path, 'echo "--secret"; echo "$@" | tr " " "\\n"')
    monkeypatch.setenv("PATH", environ["PATH"])
    lines: list[str] = []
    options = BuildOptions("cpu", tag="mine:1")
    assert build(options, checkout(), lines.append, environ=environ) == "mine:1"
    assert {"build", "--target", "cpu", "mine:1", str(checkout())} <= set(lines)


def test_a_password_in_an_address_is_in_the_environment_and_not_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "https://user:secret@mirror.example.org/simple"
    script = 'echo "--secret"; echo "$@"; echo "has $PIP_INDEX_URL $UPSTREAM_MIRROR"'
    environ = client(tmp_path, script) | {
        "PIP_INDEX_URL": address,
        "KIT_UPSTREAM_MIRROR": f"{address}/spark.git",
    }
    monkeypatch.setenv("PATH", environ["PATH"])
    lines: list[str] = []
    options = replace(BuildOptions.from_environ("cpu", environ), tag="mine:1")
    build(options, checkout(), lines.append, environ=environ)
    assert [line for line in lines if "secret@" in line] == [f"has {address} {address}/spark.git"]


def test_a_build_that_fails_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text(DRIFTED)
    script = f'[ "$2" = --help ] && {{ echo --secret; exit; }}; cat {tmp_path}/log >&2; exit 1'
    environ = client(tmp_path, script)
    monkeypatch.setenv("PATH", environ["PATH"])
    with pytest.raises(IntegrityError, match="drifted"):
        build(BuildOptions("cpu"), checkout(), lambda line: None, environ=environ)


def test_a_ca_bundle_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    options = BuildOptions("cpu", ca_bundle=tmp_path / "none.pem")
    with pytest.raises(EnvironmentNotReady, match=r"none\.pem"):
        build(options, checkout(), lambda line: None, environ={"PATH": str(tmp_path)})
