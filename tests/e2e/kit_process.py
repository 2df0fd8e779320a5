"""The command line in processes of its own, and looking at processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
WITH_STAND_IN = (str(HERE / "kit_with_stand_in.py"),)


@dataclass
class Kit:
    """The command line with folders and a port of its own."""

    home: Path
    port: int
    environ: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = WITH_STAND_IN

    @property
    def state_file(self) -> Path:
        return self.home / "state/spark-kit/service.json"

    @property
    def log_file(self) -> Path:
        return self.home / "state/spark-kit/service.log"

    @property
    def pid(self) -> int:
        return int(json.loads(self.state_file.read_text())["process"]["pid"])

    def start(self, *arguments: str, prefix: str = "", **environ: str) -> subprocess.Popen[str]:
        command = ("sh", "-c", f'{prefix} exec "$@"', "sh", sys.executable, *self.program)
        return subprocess.Popen(
            (*command, *arguments),
            env={**self.environ, **environ},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(
        self, *arguments: str, prefix: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, prefix=prefix, **environ)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def up(
        self, *arguments: str, prefix: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return self("up", *arguments, prefix=prefix, **environ)


def write_tiny_model(folder: Path) -> Path:
    """The headers of a tiny model: all that the stand-in and the plan look at."""
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    (folder / "model.safetensors").write_bytes(data)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    shape |= {"vocab_size": 100, "max_position_embeddings": 256, "sliding_window": 128}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited state never came"
        time.sleep(0.05)


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie, which waits for its parent to notice, does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
