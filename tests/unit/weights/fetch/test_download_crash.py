"""Downloads that are killed, kept out, or run out of room."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from kit.errors import EnvironmentNotReady
from kit.weights.fetch import partial as partial_module
from kit.weights.fetch.partial import arrived_bytes
from tests.downloads import BLOCK, CONTENT, ONE, SHA, data_requests, get, interrupt
from tests.file_server import Exchange, FileServer, Served


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/w.pt": Served(CONTENT)}) as running:
        yield running


def test_two_downloads_exclude_each_other(server: FileServer, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".w.pt.lock"),
        pytest.raises(EnvironmentNotReady, match="another process is downloading"),
    ):
        get(server, tmp_path / "w.pt")
    assert server.requests == []


def test_a_damaged_journal_costs_only_time(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "w.pt")
    (tmp_path / ".w.pt.journal").write_text('{"done": [[0,')
    assert get(server, tmp_path / "w.pt").sha256 == SHA


CHILD = """
import sys
from pathlib import Path
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location
from kit.weights.fetch.remote import Tuning

tuning = Tuning(connections=2, block_bytes=4096, commit_s=0.0, first_pause_s=0.01)
download(lambda: Location(sys.argv[1]), Path(sys.argv[2]), tuning=tuning)
"""


@pytest.mark.parametrize("spans", [0, 4, 11])
def test_kill_9_at_any_moment(server: FileServer, tmp_path: Path, spans: int) -> None:
    """The server falls silent after some spans; when the journal holds them, the kill comes."""
    silence = threading.Event()
    allowed = threading.Semaphore(spans)

    def reluctant(exchange: Exchange) -> None:
        if exchange.request.range != (0, 512) and not allowed.acquire(blocking=False):
            silence.wait(20)
        exchange.send()

    server.always["/w.pt"] = reluctant
    target, journal = tmp_path / "w.pt", tmp_path / ".w.pt.journal"
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url("/w.pt"), str(target)])
    try:
        while not journal.exists() or arrived_bytes(target) < spans * 4 * BLOCK:
            assert child.poll() is None
            time.sleep(0.005)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    silence.set()
    server.always.clear()
    server.requests.clear()
    assert not target.exists()
    assert get(server, target).sha256 == SHA
    asked = sum(stop - start for start, stop in filter(None, data_requests(server)))
    assert asked == len(CONTENT) - spans * 4 * BLOCK


MEASURE = """
import re, sys
from pathlib import Path
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = anonymous()
most = []
from kit.weights.fetch.transfer import Watch
watch = Watch(progress=lambda done, total: most.append(anonymous()))
download(lambda: Location(sys.argv[1]), Path(sys.argv[2]), watch=watch)
print(max(most) - before)
"""


def test_memory_does_not_grow_with_the_file(server: FileServer, tmp_path: Path) -> None:
    server.files["/w.pt"] = Served(bytes(160 << 20))
    command = [sys.executable, "-c", MEASURE, server.url("/w.pt"), str(tmp_path / "w.pt")]
    grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert grown < 48 << 20
    assert (tmp_path / "w.pt").stat().st_size == 160 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"cannot mount a file system: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_shows_before_the_data(server: FileServer, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(200 * 1024))
    with pytest.raises(EnvironmentNotReady, match=r"no room.*No space left") as caught:
        get(server, small_disk / "w.pt")
    assert "make room, then run the same command" in caught.value.hint
    assert data_requests(server) == []
    (small_disk / "filler").unlink()
    assert get(server, small_disk / "w.pt").sha256 == SHA


def test_a_disk_that_fills_up_on_the_way(
    server: FileServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system cannot reserve room, the error comes from a write."""
    monkeypatch.setattr(partial_module, "_reserve", os.ftruncate)
    (small_disk / "filler").write_bytes(bytes(100 * 1024))
    with pytest.raises(EnvironmentNotReady, match="No space left"):
        get(server, small_disk / "w.pt", tuning=ONE)
    kept = arrived_bytes(small_disk / "w.pt")
    assert kept > 0
    (small_disk / "filler").unlink()
    server.sent_bytes = 0
    assert get(server, small_disk / "w.pt", tuning=ONE).sha256 == SHA
    assert server.sent_bytes == len(CONTENT) - kept + 512


def test_a_limit_on_the_size_of_files(server: FileServer, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * BLOCK, before[1]))
    try:
        with pytest.raises(EnvironmentNotReady, match="File too large"):
            get(server, tmp_path / "w.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert get(server, tmp_path / "w.pt").sha256 == SHA
