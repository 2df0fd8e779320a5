"""Building the image: what ends the build."""

import os
import subprocess
from pathlib import Path

import pytest

from kit.containers.image import BuildOptions, build_command, build_variables
from tests.container.conftest import kit_in
from tests.container.containers import docker

pytestmark = pytest.mark.container


@pytest.fixture
def changed(image: str, context: Path, tmp_path: Path) -> Path:
    """A copy of the context, to be changed. That ``image`` was built keeps these builds short."""
    folder = tmp_path / "context"
    subprocess.run(("cp", "--recursive", "--link", context, folder), check=True)
    return folder


def test_a_drifted_upstream_ends_the_build_and_is_named(changed: Path) -> None:
    file = changed / "upstream/LICENSE"
    text = file.read_text()
    file.unlink()  # the original is linked to it
    file.write_text(text + "one more line\n")
    tag = "spark-kit-test:drifted"
    done = kit_in(changed, "image", "build", "--target", "cpu", "--tag", tag)
    assert done.returncode == 4, done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: the image was not built: ")
    assert "LICENSE differs" in error
    assert hint.startswith("hint: ")
    assert docker("image", "inspect", tag, check=False).returncode


def test_a_label_that_does_not_fit_the_rewrites_ends_the_build(changed: Path) -> None:
    options = BuildOptions.from_environ("cpu")
    command = [
        "REWRITE_DIGEST=0" if word.startswith("REWRITE_DIGEST=") else word
        for word in build_command(options, changed)
    ]
    done = subprocess.run(
        command,
        env={**os.environ, **build_variables(options)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "hint: build it with make image" in done.stderr
