"""The container image: what it is called, what it is made of, and the one command that builds it.

It is built from a checkout, whose ``docker/Dockerfile`` says how. Its tag carries a digest of
everything of the checkout that goes into it, so that equal tags are equal images: what is there
need not be built again, and an older one stays where it is for a rollback.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import kit
from kit.errors import EnvironmentNotReady
from kit.lock import read_lock
from kit.upstream.selection import rewrite_digest, select

Target = Literal["cuda", "cpu"]
TARGETS: tuple[Target, ...] = get_args(Target)
REPOSITORY = "spark-kit"

INPUTS = (
    "LICENSE",
    "README.md",
    "compose.yaml",
    "demo",
    "docker",
    "kit",
    "kit.lock",
    "pyproject.toml",
    "requirements",
)
"""What of a checkout the image is made of; ``.dockerignore`` lets these in."""

GIVEN = ("upstream", "wheelhouse")
"""Folders that the build takes from where a checkout has them, so that it needs no network."""

_MIRRORS = {"APT_MIRROR": "KIT_APT_MIRROR", "UPSTREAM_MIRROR": "KIT_UPSTREAM_MIRROR"}
"""Build arguments that may hold a password, by the variable that they come from."""

_PASSED_ON = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


@dataclass(frozen=True)
class BuildOptions:
    """How an image is to be built; None leaves it to the Dockerfile.

    Attributes:
        target: with or without CUDA.
        tag: what to call it; by default :func:`image_tag`.
        base_image: a Debian with Python 3.11 or 3.12 (``KIT_BASE_IMAGE``).
        ca_bundle: PEM file of the authorities that sign for a TLS proxy (``KIT_CA_BUNDLE``).
        network: Docker network of the build, such as ``host`` (``KIT_BUILD_NETWORK``).
        apt_mirror: Debian mirror to take git from (``KIT_APT_MIRROR``).
        upstream_mirror: fetch upstream from this address instead (``KIT_UPSTREAM_MIRROR``).
        passed_on: pip's index and the proxy, as the environment names them.
    """

    target: Target
    tag: str | None = None
    base_image: str | None = None
    ca_bundle: Path | None = None
    network: str | None = None
    apt_mirror: str | None = None
    upstream_mirror: str | None = None
    passed_on: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_environ(
        cls, target: Target, environ: Mapping[str, str] = os.environ
    ) -> "BuildOptions":
        """What the environment asks for."""
        bundle = environ.get("KIT_CA_BUNDLE")
        return cls(
            target,
            base_image=environ.get("KIT_BASE_IMAGE") or None,
            ca_bundle=Path(bundle).expanduser().absolute() if bundle else None,
            network=environ.get("KIT_BUILD_NETWORK") or None,
            apt_mirror=environ.get("KIT_APT_MIRROR") or None,
            upstream_mirror=environ.get("KIT_UPSTREAM_MIRROR") or None,
            passed_on=tuple((name, environ[name]) for name in _PASSED_ON if environ.get(name)),
        )


def checkout() -> Path:
    """The checkout that this kit runs from.

    Raises:
        EnvironmentNotReady: it was installed from a wheel, which has no Dockerfile.
    """
    root = Path(kit.__file__).parent.parent
    if not (root / "docker" / "Dockerfile").is_file():
        raise EnvironmentNotReady(
            "images are built from a checkout of the kit, and this one was installed from a wheel",
            hint="run it in a checkout, or name an image that exists with KIT_IMAGE",
        )
    return root


def image_tag(options: BuildOptions, root: Path) -> str:
    """``spark-kit:<version>-<target>-<digest>``: equal tags are equal images."""
    if options.tag:
        return options.tag
    digest = hashlib.sha256(f"{options.target} {options.base_image or ''}\n".encode())
    for name, content in _inputs(root):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return f"{REPOSITORY}:{kit.__version__}-{options.target}-{digest.hexdigest()[:12]}"


def pinned_base(dockerfile: Path) -> str:
    """The base image that it takes where none is named."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    return found[1] if found else ""


def is_built_here(name: str) -> bool:
    """Whether ``image_tag`` gave an image this name, so that another checkout has another image."""
    return bool(re.fullmatch(rf"{REPOSITORY}:[^-]+-(cpu|cuda)-[0-9a-f]{{12}}", name))


def build_command(options: BuildOptions, root: Path) -> tuple[str, ...]:
    """The `docker build` that makes the image out of the checkout ``root``.

    It needs :func:`build_variables` in its environment. Addresses that may hold a password are
    named in it only, and taken from there.

    Raises:
        IntegrityError: ``kit.lock`` is damaged.
    """
    command = ["docker", "build", "--progress", "plain", "--file", str(root / "docker/Dockerfile")]
    command += ["--target", options.target, "--tag", image_tag(options, root)]
    if not options.tag:
        command += ["--tag", f"{REPOSITORY}:{options.target}"]  # the newest, for compose.yaml alone
    if options.network:
        command += ["--network", options.network]
    if options.ca_bundle:
        command += ["--secret", f"id=ca,src={options.ca_bundle}"]
    for name, value in _build_arguments(options, root):
        command += ["--build-arg", f"{name}={value}"]
    for name in (*_mirrors(options), *dict(options.passed_on)):
        command += ["--build-arg", name]
    return (*command, str(root))


def build_variables(options: BuildOptions) -> dict[str, str]:
    """What the build needs in its environment: BuildKit, and the values of arguments."""
    return {"DOCKER_BUILDKIT": "1", **_mirrors(options), **dict(options.passed_on)}


def shown_variables(options: BuildOptions) -> dict[str, str]:
    """The same for people and their shells, which have the values in variables of their own.

    pip's and the proxy's are there under the same names.
    """
    return {"DOCKER_BUILDKIT": "1", **{name: f"${_MIRRORS[name]}" for name in _mirrors(options)}}


def _mirrors(options: BuildOptions) -> dict[str, str]:
    given = {"APT_MIRROR": options.apt_mirror, "UPSTREAM_MIRROR": options.upstream_mirror}
    return {name: value for name, value in given.items() if value}


def _build_arguments(options: BuildOptions, root: Path) -> Iterator[tuple[str, str]]:
    lock = read_lock(root / "kit.lock")
    yield "KIT_VERSION", kit.__version__
    yield "UPSTREAM_REPOSITORY", lock.repository
    yield "UPSTREAM_COMMIT", lock.commit
    yield "REWRITE_DIGEST", rewrite_digest(select())
    if options.base_image:
        yield "BASE_IMAGE", options.base_image


def _inputs(root: Path) -> Iterator[tuple[str, bytes]]:
    """The files that an image is made of, by their path in the checkout, in order."""
    for top in INPUTS:
        path = root / top
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(root).as_posix(), file.read_bytes()
