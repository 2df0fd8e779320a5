"""Services that ran before, when what they ran on may be gone."""

from dataclasses import replace

import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.runtime.protocol import ImageRef, ServeSpec
from kit.service import recall as recalling
from kit.service.recall import Proven, recall
from kit.settings import Settings
from tests.e2e.kit_process import write_tiny_model

IMAGE = ImageRef("spark-kit:cpu", "sha256:" + 64 * "a")


class EngineWithoutImages:
    def __init__(self, environ: object) -> None: ...

    def image(self, name: str) -> None:
        return None


@pytest.fixture
def proven(tmp_path, monkeypatch):
    monkeypatch.setattr(recalling, "Engine", EngineWithoutImages)
    directory = write_tiny_model(tmp_path / "tiny")
    spec = ServeSpec(directory, "tiny", "127.0.0.1", 8000, 64, 1, "cpu", image=IMAGE)
    return Proven("container", spec)


def test_what_is_to_run_needs_its_image(proven, tmp_path):
    with pytest.raises(
        EnvironmentNotReady, match=r"spark-kit:cpu as it was .* is not here any more"
    ):
        recall(proven, Settings(tmp_path, tmp_path), {})


def test_what_is_only_looked_at_does_not(proven, tmp_path):
    """As `kit upgrade` looks at what it replaces: a build of its name may have taken it away."""
    found = recall(proven, Settings(tmp_path, tmp_path), {}, to_run=False)
    assert (found.spec, found.build) == (proven.spec, CUDA_BUILD)


def test_a_local_process_has_no_image(proven, tmp_path):
    local = Proven("local", replace(proven.spec, image=None))
    assert recall(local, Settings(tmp_path, tmp_path), {}).runtime == "local"
