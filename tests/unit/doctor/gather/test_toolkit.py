from pathlib import Path

import pytest

from kit.doctor.facts import CdiSpec, Toolkit
from kit.doctor.gather.toolkit import observe

CDI = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0"
containerEdits:
  mounts:
    - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06
"""
CONFIG = """
[nvidia-container-cli]
no-cgroups = true

[nvidia-container-runtime]
mode = "cdi"
"""


def write(root, path, content):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


@pytest.fixture
def environ(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    return {"PATH": str(programs)}


def program(environ, name, script):
    path = Path(environ["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_nothing_is_installed(tmp_path, environ):
    assert observe(environ, tmp_path) == Toolkit(None, False, "auto", False, (), False)


def test_installed_and_configured(tmp_path, environ):
    program(environ, "nvidia-ctk", "echo 'NVIDIA Container Toolkit CLI version 1.17.8'")
    program(environ, "nvidia-container-runtime-hook", "exit 0")
    write(tmp_path, "etc/nvidia-container-runtime/config.toml", CONFIG)
    path = write(tmp_path, "etc/cdi/nvidia.yaml", CDI)
    write(tmp_path, "etc/cdi/other.yaml", "kind: vendor.com/device\n")
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / "dev/char/195:255").symlink_to("../nvidiactl")
    spec = CdiSpec(path, "570.124.06")
    assert observe(environ, tmp_path) == Toolkit("1.17.8", True, "cdi", True, (spec,), True)


def test_a_configuration_that_cannot_be_read(tmp_path, environ):
    write(tmp_path, "etc/nvidia-container-runtime/config.toml", "mode = [")
    program(environ, "nvidia-ctk", "echo nonsense")
    path = write(tmp_path, "var/run/cdi/nvidia.json", '{"kind": "nvidia.com/gpu"}')
    found = observe(environ, tmp_path)
    assert (found.version, found.mode) == ("unknown", "auto")
    assert found.specs == (CdiSpec(path, None),)
