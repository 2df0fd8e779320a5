"""`kit weights` as a user runs it: real processes, a real server, a real (tiny) checkpoint."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.file_server import Exchange, FileServer, Served

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "a"
CHECKPOINT = "mp_rank_00_model_states.pt"
CATALOGUE = """
[licences.own]
title = "Own licence"
summary = ["Be nice."]
url = "https://example.org/licence"
text_url = "{url}/licence.md"

[sources.ours]
kind = "https"
what = "our server"
base = "{url}/files"

[weights.tiny]
what = "a tiny Spark"
sources = ["ours"]
licence = "own"
checkpoint = "mp_rank_00_model_states.pt"
files."mp_rank_00_model_states.pt" = "mp_rank_00_model_states.pt"
files."config.json" = "config.json"
files."Tokenizer/tokenizer.model" = "Tokenizer/tokenizer.model"
"""


@dataclass
class User:
    """Somebody at a shell, with a home and a catalogue of their own."""

    home: Path
    server: FileServer
    catalogue: Path

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "kit", *map(str, arguments)]

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KIT_", "XDG_"))}
        own = {"HOME": str(self.home), "KIT_WEIGHTS_CATALOGUE": str(self.catalogue)}
        return kept | own | {"PYTHONPATH": str(Path.cwd())}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def data(self) -> Path:
        return self.home / ".local" / "share" / "spark-kit"

    @property
    def folder(self) -> Path:
        return self.data / "checkpoints" / "tiny"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    names = {CHECKPOINT: "ckpt", "config.json": "", "Tokenizer/tokenizer.model": "tokenizer"}
    with FileServer({"/licence.md": Served(b"all of the text")}) as server:
        for name, folder in names.items():
            path = GOLDEN / folder / Path(name).name
            server.files[f"/files/{name}"] = Served(path.read_bytes())
        catalogue = tmp_path / "own.toml"
        catalogue.write_text(CATALOGUE.format(url=server.url()))
        (tmp_path / "home").mkdir()
        yield User(tmp_path / "home", server, catalogue)


def test_from_nothing_to_a_verified_model_and_to_another_machine(user: User) -> None:
    done = user.run("weights", "fetch", "tiny", "--accept-license", "--convert", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["source"] == "ours"
    assert found["files"][CHECKPOINT]["basis"] == "observed"
    assert "Own licence" in done.stderr
    assert "100%" in done.stderr
    model = Path(found["converted"])
    assert (model / "config.json").is_file()

    [listed] = [
        entry
        for entry in json.loads(user.run("weights", "list", "--json").stdout)["weights"]
        if entry["name"] == "tiny"
    ]
    assert listed["verified"] and listed["converted"] == [str(model)]
    assert listed["licence_accepted"]

    verified = user.run("weights", "verify")
    assert verified.returncode == 0, verified.stderr
    assert f"{user.folder / CHECKPOINT}: ok" in verified.stdout
    assert f"{model / 'model.safetensors'}: ok" in verified.stdout

    bundle = user.home / "b.tar"
    assert user.run("weights", "bundle", "tiny", model.name, "-o", bundle).returncode == 0
    other = User(user.home / "other", user.server, user.catalogue)
    user.server.requests.clear()
    done = other.run("weights", "unbundle", bundle)
    assert done.returncode == 0, done.stderr
    assert other.run("weights", "verify").returncode == 0
    assert user.server.requests == []


def test_without_a_terminal_the_licence_has_to_be_accepted_by_option(user: User) -> None:
    done = user.run("weights", "fetch", "tiny")
    assert done.returncode == 3
    assert "Be nice." in done.stderr
    assert "hint: read it at https://example.org/licence" in done.stderr
    assert "kit weights fetch tiny --accept-license" in done.stderr
    assert [request.path for request in user.server.requests] == ["/licence.md"]


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 3)])
def test_on_a_terminal_it_is_asked(user: User, answer: bytes, code: int) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        user.command("pull", "tiny"),
        env=user.environ | {"TERM": "dumb"},
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(master, 1000)
    os.write(master, answer)
    with open(master, "rb", buffering=0) as rest:  # noqa: PTH123 - a file descriptor
        try:
            while rest.read(1000):
                pass
        except OSError:
            pass  # how a terminal says that its other side is closed
    assert process.wait() == code
    assert (user.folder / CHECKPOINT).is_file() is (code == 0)
    assert (user.data / "licences.json").exists() is (code == 0)


def test_a_damaged_file_is_named_with_exit_code_4(user: User) -> None:
    assert user.run("weights", "fetch", "tiny", "--accept-license").returncode == 0
    path = user.folder / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = user.run("weights", "verify", "tiny", "--json")
    assert done.returncode == 4
    assert f"error: {path} has sha256" in done.stderr
    [problem] = [f for f in json.loads(done.stdout)["files"] if f["problem"]]
    assert problem["path"] == str(path)


def slowly(user: User) -> threading.Event:
    """Let the server hold the checkpoint back until the event is set."""
    released = threading.Event()

    def hold(exchange: Exchange) -> None:
        if exchange.request.range != (0, 512):
            released.wait(20)
        exchange.send()

    user.server.always[f"/files/{CHECKPOINT}"] = hold
    return released


def start(user: User) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        user.command("weights", "fetch", "tiny", "--accept-license"),
        env=user.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (user.folder / f".{CHECKPOINT}.journal").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_the_same_command_goes_on(user: User, number: signal.Signals) -> None:
    released = slowly(user)
    process = start(user)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in errors
    released.set()
    assert not (user.folder / CHECKPOINT).exists()
    done = user.run("weights", "fetch", "tiny")
    assert done.returncode == 0, done.stderr
    assert user.run("weights", "verify", "tiny").returncode == 0


def test_two_at_once_exclude_each_other(user: User) -> None:
    released = slowly(user)
    process = start(user)
    second = user.run("weights", "fetch", "tiny")
    assert second.returncode == 3
    assert "another process is fetching" in second.stderr
    released.set()
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_colleagues_lock_and_files_from_a_disk(user: User, tmp_path: Path) -> None:
    assert user.run("weights", "fetch", "tiny", "--accept-license").returncode == 0
    lock = tmp_path / "team.lock"
    lock.write_text(user.run("weights", "lock").stdout)
    other = User(user.home / "other", user.server, user.catalogue)
    done = other.run("weights", "lock", "--from", lock)
    assert (done.returncode, done.stdout.startswith("tiny: ")) == (0, True)
    assert other.run("weights", "lock").stdout == lock.read_text()
    done = other.run("weights", "import", user.folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiny"]["missing"] == []
    assert other.run("weights", "verify", "tiny").returncode == 0
    (user.folder / CHECKPOINT).write_bytes(b"something else")
    assert other.run("weights", "import", user.folder).returncode == 4


def test_sizes_carry_their_unit(user: User) -> None:
    done = user.run("weights", "fetch", "tiny", "--accept-license", "--gpu-memory", "24G")
    assert done.returncode == 2
    assert "not a size: '24G'" in done.stderr


def test_the_list_is_readable(user: User) -> None:
    done = user.run("weights", "list")
    assert done.returncode == 0
    for word in ("tiny", "spark-13b-chat", "gitee", "about 49.59 GiB", "non-commercial"):
        assert word in done.stdout
