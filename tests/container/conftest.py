"""An engine, an image built out of this checkout, and services that run in it.

Without an engine or an image these tests skip; where KIT_REQUIRE names ``container`` they fail
instead, and the image is built. KIT_IMAGE names an image to test that is there already.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from kit.containers.image import INPUTS, checkout
from kit.containers.wanted_image import require_buildkit
from kit.errors import KitError
from kit.settings import bundled
from kit.weights.convert.convert import convert_checkpoint
from tests.container.containers import Container, docker, started
from tests.container.kit_up import kit, model_dir, stand_in_image  # noqa: F401  (fixtures)
from tests.upstream_tree import make_stand_in

REQUIRED = "container" in os.environ.get("KIT_REQUIRE", "").split(",")


def missing(reason: str) -> None:
    """Skip, or fail where containers are required."""
    if REQUIRED:
        pytest.fail(f"KIT_REQUIRE=container: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers, and a client that builds images."""
    try:
        require_buildkit()
    except KitError as error:
        missing(error.message)
    done = docker("info", check=False)
    if done.returncode:
        missing(f"no Docker engine answers: {done.stdout.splitlines()[-1]}")


@pytest.fixture(scope="session")
def context(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout to build images from, in which the stand-in is upstream's repository."""
    folder = tmp_path_factory.mktemp("context")
    for name in (".dockerignore", *INPUTS):
        copy(checkout() / name, folder / name)
    for package in (checkout() / "wheelhouse").glob("*"):
        (folder / "wheelhouse").mkdir(exist_ok=True)
        link_or_copy(package, folder / "wheelhouse" / package.name)
    stand_in = make_stand_in(tmp_path_factory.mktemp("stand-in"))
    shutil.copytree(stand_in.repository, folder / "upstream")
    shutil.copy(stand_in.lock_path, folder / "kit.lock")
    return folder


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_file():
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name where that is possible."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy(source, target)


def kit_in(
    context: Path, *arguments: str, stderr: int | None = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the command line of the checkout ``context``."""
    return subprocess.run(
        (sys.executable, "-m", "kit", *arguments),
        cwd=context,
        env={**os.environ, "PYTHONPATH": str(context)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def image(engine: None, request: pytest.FixtureRequest) -> str:
    """The `cpu` image: the one KIT_IMAGE names, or built now."""
    if named := os.environ.get("KIT_IMAGE"):
        if docker("image", "inspect", named, check=False).returncode:
            missing(f"there is no image {named}")
        return named
    if not REQUIRED:
        missing("name an image with KIT_IMAGE; KIT_REQUIRE=container builds one")
    context = request.getfixturevalue("context")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # it takes minutes: let it be seen
        arguments = ("--target", "cpu", "--tag", "spark-kit-test:cpu")
        built = kit_in(context, "image", "build", *arguments, stderr=None)
        print(built.stdout)
    assert built.returncode == 0
    return built.stdout.splitlines()[0]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted demo, in a folder that every user can read."""
    output = tmp_path_factory.mktemp("weights") / "demo"
    convert_checkpoint(bundled("demo") / "mp_rank_00_model_states.pt", output)
    return output


@pytest.fixture(scope="module")
def service(image: str, demo: Path) -> Iterator[Container]:
    """A ready service of the demo, which a file's tests share."""
    with started(image, "--health-interval", "1s", model=demo) as container:
        container.wait_ready()
        yield container


Run = Callable[..., Container]


@pytest.fixture
def run(image: str, demo: Path) -> Iterator[Run]:
    """``run(*options, model=…, command=…, quiet=…)`` starts a container of the image."""
    with ExitStack() as stack:

        def start(*options: str, model: Path | None = demo, **settings: object) -> Container:
            enter = partial(started, image, *options, model=model)
            return stack.enter_context(enter(**settings))  # type: ignore[arg-type]

        yield start
