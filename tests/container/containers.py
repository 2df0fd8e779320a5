"""Running containers for a test, with Docker's own command line, and looking at them."""

import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--init",
)  # fmt: skip
"""As compose.yaml runs it."""

PATIENCE_SECONDS = 300.0
_TROUBLE = re.compile(r"\b(error|exception|traceback|critical|fatal)\b", re.IGNORECASE)


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the Docker client; output as text, stderr joined to stdout."""
    return subprocess.run(
        ("docker", *arguments),
        check=check,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def labelled(key: str, value: str) -> list[str]:
    """The ids of all containers, running or not, with that label."""
    found = docker("ps", "--all", "--quiet", "--filter", f"label={key}={value}").stdout
    return found.split()


@dataclass(frozen=True)
class Container:
    """A container, running or ended."""

    name: str

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.name).stdout)
        return found[0]

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def health(self) -> str:
        return str(self.state["Health"]["Status"])

    @property
    def logs(self) -> str:
        return docker("logs", self.name).stdout

    @property
    def url(self) -> str:
        """Of its published port, as programs outside reach it."""
        (bindings,) = self.inspect()["NetworkSettings"]["Ports"].values()
        return f"http://127.0.0.1:{bindings[0]['HostPort']}"

    def signal(self, name: str) -> None:
        docker("kill", "--signal", name, self.name)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition`` holds; a container that ends before fails the test."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.state["Running"], f"it ended before it was {what}:\n{self.logs}"
            assert time.monotonic() < deadline, f"it was never {what}:\n{self.logs}"
            time.sleep(0.2)

    def wait_ready(self) -> None:
        """Wait until its /health/ready says so, asked from outside."""
        self.wait_for(lambda: answers(f"{self.url}/health/ready"), "ready")

    def wait_healthy(self) -> None:
        """Wait until Docker calls it healthy."""
        self.wait_for(lambda: self.health == "healthy", "healthy")

    def wait_ended(self) -> int:
        """Wait until it has ended; its exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.state["Running"]:
            assert time.monotonic() < deadline, f"it did not end:\n{self.logs}"
            time.sleep(0.2)
        return int(self.state["ExitCode"])

    def require_quiet_log(self) -> None:
        """Fail if it logged trouble that no test has provoked."""
        log = self.logs
        assert not _TROUBLE.search(log), f"{self.name} logged:\n{log}"


def answers(url: str) -> bool:
    """Whether a GET of ``url`` gives 200."""
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def started(
    image: str, *options: str, model: Path | None, command: Sequence[str] = (), quiet: bool = True
) -> Iterator[Container]:
    """A hardened container of ``image`` that serves ``model``, with a port on the loopback.

    It is removed in the end, when first its log is looked through, if it is to be ``quiet``.
    """
    container = Container(f"spark-kit-test-{uuid.uuid4().hex[:12]}")
    mount = ("--volume", f"{model}:/model:ro") if model else ()
    publish = () if "--network" in options else ("--publish", "127.0.0.1:0:8000")
    names = ("--detach", "--name", container.name, "--env", "KIT_MODEL_NAME=demo")
    docker("run", *names, *HARDENED, *publish, *mount, *options, image, *command)
    try:
        yield container
        if quiet:
            container.require_quiet_log()
    finally:
        docker("rm", "--force", "--volumes", container.name, check=False)
