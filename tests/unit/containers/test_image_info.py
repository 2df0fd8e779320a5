"""Reading what Docker says of an image."""

import json
from pathlib import Path

import pytest

from kit.containers.wanted_image import Layer, inspect
from kit.errors import EnvironmentNotReady

IMAGE = [
    {
        "Id": "sha256:1234",
        "Created": "2026-11-26T15:38:00Z",
        "Size": 990_000_000,  # as containerd counts: what was packed, and unpacked
        "Config": {"Labels": {"spark-kit.upstream.commit": "10f3"}},
    }
]
HISTORY = [
    {"CreatedBy": "COPY /opt/torch /opt/torch # buildkit", "Size": "500000000"},
    {"CreatedBy": "USER 10001:10001", "Size": "0"},
    {"CreatedBy": "", "Size": "260000000"},
]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``docker`` that answers from files, or fails with what ``failure`` holds."""
    (tmp_path / "image").write_text(json.dumps(IMAGE))
    (tmp_path / "history").write_text("\n".join(map(json.dumps, HISTORY)))
    script = f'#!/bin/sh\ncat {tmp_path}/failure >&2 && exit 1\ncat "{tmp_path}/$1"\n'
    (tmp_path / "docker").write_text(script)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_size_labels_and_the_layers_that_hold_files(docker: Path) -> None:
    info = inspect("spark-kit:cpu")
    assert info.size_bytes == 760_000_000
    assert info.labels == {"spark-kit.upstream.commit": "10f3"}
    assert info.layers == (
        Layer("base", 260_000_000),
        Layer("COPY /opt/torch /opt/torch", 500_000_000),
    )


def test_an_image_without_labels_has_none(docker: Path) -> None:
    bare = [{**IMAGE[0], "Config": {"Labels": None}}]
    (docker / "image").write_text(json.dumps(bare))
    assert inspect("spark-kit:cpu").labels == {}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Error response from daemon: No such image: mine:1", "there is no image mine:1"),
        ("Cannot connect to the Docker daemon", "failed: the Docker engine does not answer"),
    ],
)
def test_what_cannot_be_looked_at_is_said(docker: Path, said: str, message: str) -> None:
    (docker / "failure").write_text(said)
    with pytest.raises(EnvironmentNotReady, match=message):
        inspect("mine:1")
