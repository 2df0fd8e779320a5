import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from filelock import FileLock

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights import partial as partial_module
from kit.weights.download import download
from kit.weights.http import Location
from kit.weights.partial import arrived_bytes
from kit.weights.remote import Tuning
from kit.weights.transfer import Arrived, Expected, Watch
from tests.file_server import Exchange, FileServer, Served

BLOCK = 4096
CONTENT = os.urandom(50 * BLOCK + 123)
SHA = hashlib.sha256(CONTENT).hexdigest()
FAST = Tuning(
    block_bytes=BLOCK,
    stall_s=0.2,
    tries=4,
    first_pause_s=0.001,
    longest_pause_s=0.002,
)
ONE = Tuning(**{**FAST.__dict__, "connections": 1})


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/w.pt": Served(CONTENT)}) as running:
        yield running


def get(
    server: FileServer,
    target: Path,
    expected: Expected | None = None,
    tuning: Tuning = FAST,
    notices: list[str] | None = None,
    headers: dict[str, str] | None = None,
) -> Arrived:
    location = Location(server.url("/w.pt"), headers or {}, "SOME_TOKEN")
    watch = Watch(notice=(notices if notices is not None else []).append)
    return download(lambda: location, target, expected, tuning=tuning, watch=watch)


def data_requests(server: FileServer) -> list[tuple[int, int] | None]:
    return [r.range for r in server.requests if r.range != (0, 512)]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_arrives_in_ranges(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "new" / "w.pt"
    seen: list[tuple[int, int]] = []
    watch = Watch(progress=lambda done, total: seen.append((done, total)))
    arrived = download(lambda: Location(server.url("/w.pt")), target, tuning=FAST, watch=watch)
    assert arrived == Arrived(len(CONTENT), SHA)
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"w.pt"}
    assert target.stat().st_mode & 0o777 == 0o644
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(data_requests(server)) == 13  # 51 blocks in spans of 4
    assert server.sent_bytes == len(CONTENT) + 512


@pytest.mark.parametrize("size", [0, 1, 511, BLOCK, BLOCK + 1, 4 * BLOCK])
def test_sizes_at_the_edges(server: FileServer, tmp_path: Path, size: int) -> None:
    server.files["/w.pt"] = Served(CONTENT[:size])
    digest = hashlib.sha256(CONTENT[:size]).hexdigest()
    assert get(server, tmp_path / "w.pt") == Arrived(size, digest)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT[:size]


def test_a_server_that_ignores_ranges_is_read_in_one_stream(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["/w.pt"].ranges = False
    notices: list[str] = []
    assert get(server, tmp_path / "w.pt", notices=notices).sha256 == SHA
    assert (tmp_path / "w.pt").read_bytes() == CONTENT
    assert "cannot resume" in notices[0]
    assert left_in(tmp_path) == {"w.pt"}


def test_a_server_that_begins_to_ignore_ranges(server: FileServer, tmp_path: Path) -> None:
    def forget(exchange: Exchange) -> None:
        server.files["/w.pt"].ranges = False
        exchange.send()

    server.acts = [Exchange.send, forget]
    assert get(server, tmp_path / "w.pt", tuning=ONE).sha256 == SHA
    assert (tmp_path / "w.pt").read_bytes() == CONTENT


def test_no_length_at_all(server: FileServer, tmp_path: Path) -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.handler.send_response(200)
        exchange.handler.send_header("Transfer-Encoding", "chunked")
        exchange.handler.end_headers()
        exchange.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))

    server.always["/w.pt"] = chunked
    assert get(server, tmp_path / "w.pt", Expected(sha256=SHA)).size_bytes == len(CONTENT)


def test_a_stream_that_is_cut_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.files["/w.pt"].ranges = False
    server.acts = [lambda exchange: exchange.send(most=9000)]
    assert get(server, tmp_path / "w.pt").sha256 == SHA


def test_a_cut_range_goes_on_where_it_was_cut(server: FileServer, tmp_path: Path) -> None:
    server.acts = [lambda exchange: exchange.send(most=5000)]
    notices: list[str] = []
    assert get(server, tmp_path / "w.pt", tuning=ONE, notices=notices).sha256 == SHA
    assert data_requests(server)[:2] == [(0, 4 * BLOCK), (5000, 4 * BLOCK)]
    assert "next try in" in notices[0]


def test_a_stalled_connection_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.acts = [lambda exchange: exchange.send(most=100, stall_s=1.0)]
    notices: list[str] = []
    assert get(server, tmp_path / "w.pt", tuning=ONE, notices=notices).sha256 == SHA
    assert notices == [notices[0]]
    assert "no data for 0.2 s" in notices[0]


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(server: FileServer, tmp_path: Path, code: int) -> None:
    server.acts = [lambda exchange: exchange.status(code)] * 3
    assert get(server, tmp_path / "w.pt", tuning=ONE).sha256 == SHA


def test_what_does_not_pass_ends_with_the_rest_kept(server: FileServer, tmp_path: Path) -> None:
    server.acts = [Exchange.send, *[lambda exchange: exchange.status(503)] * 4]
    with pytest.raises(EnvironmentNotReady, match=r"w\.pt.*broke off: HTTP 503") as caught:
        get(server, tmp_path / "w.pt", tuning=ONE)
    assert "run the same command again" in caught.value.hint
    assert arrived_bytes(tmp_path / "w.pt") == 4 * BLOCK
    server.requests.clear()
    assert get(server, tmp_path / "w.pt").sha256 == SHA
    assert (0, 4 * BLOCK) not in data_requests(server)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_obeyed(server: FileServer, tmp_path: Path, as_date: bool) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=900), usegmt=True)
    value = when if as_date else "900"
    server.acts = [lambda exchange: exchange.status(429, {"Retry-After": value})]
    with pytest.raises(EnvironmentNotReady, match=r"asks to wait for (900|89\d) s"):
        get(server, tmp_path / "w.pt", tuning=ONE)
    server.acts = [lambda exchange: exchange.status(429, {"Retry-After": "0"})]
    assert get(server, tmp_path / "w.pt", tuning=ONE).sha256 == SHA


OTHER = os.urandom(len(CONTENT))


@pytest.mark.parametrize("served", [Served(OTHER, '"v2"'), Served(OTHER + b"x", '"v1"')])
def test_a_file_that_changes_while_it_is_read(
    server: FileServer, tmp_path: Path, served: Served
) -> None:
    def change(exchange: Exchange) -> None:
        server.files["/w.pt"] = served
        exchange.send()

    server.acts = [Exchange.send, change]
    notices: list[str] = []
    get(server, tmp_path / "w.pt", tuning=ONE, notices=notices)
    assert (tmp_path / "w.pt").read_bytes() == served.content
    assert "has changed" in notices[0]


def test_a_file_that_never_stops_changing(server: FileServer, tmp_path: Path) -> None:
    def change(exchange: Exchange) -> None:
        server.files["/w.pt"] = Served(OTHER, f'"v{len(server.requests)}"')
        exchange.send()

    server.always["/w.pt"] = change
    with pytest.raises(IntegrityError, match="keeps changing"):
        get(server, tmp_path / "w.pt", tuning=ONE)


def interrupt(server: FileServer, target: Path, expected: Expected | None = None) -> None:
    """Leave a download with its first four blocks done."""
    server.acts = [Exchange.send, *[lambda exchange: exchange.status(503)] * 4]
    with pytest.raises(EnvironmentNotReady):
        get(server, target, expected, tuning=ONE)
    server.requests.clear()


CHANGES = {
    "etag": (Served(CONTENT, '"1"'), Served(OTHER, '"2"'), False),
    "date": (
        Served(CONTENT, None, "Mon, 01 Jan 2024 00:00:00 GMT"),
        Served(OTHER, None, "Tue, 02 Jan 2024 00:00:00 GMT"),
        False,
    ),
    "size": (Served(CONTENT, None), Served(CONTENT[:-1], None), False),
    "no telling": (Served(CONTENT, None), Served(OTHER, None), False),
    "weak tag": (Served(CONTENT, 'W/"1"'), Served(OTHER, 'W/"1"'), False),
    "same": (Served(CONTENT, '"1"'), Served(CONTENT, '"1"'), True),
    "same date": (
        Served(CONTENT, None, "Mon, 01 Jan 2024 00:00:00 GMT"),
        Served(CONTENT, None, "Mon, 01 Jan 2024 00:00:00 GMT"),
        True,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changed_between_two_runs(
    server: FileServer, tmp_path: Path, name: str
) -> None:
    before, after, goes_on = CHANGES[name]
    server.files["/w.pt"] = before
    interrupt(server, tmp_path / "w.pt")
    server.files["/w.pt"] = after
    get(server, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == after.content
    assert ((0, 4 * BLOCK) in data_requests(server)) is not goes_on


def test_with_a_known_digest_another_server_goes_on(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "w.pt", Expected(sha256=SHA))
    server.files["/w.pt"].etag = '"of another mirror"'
    get(server, tmp_path / "w.pt", Expected(sha256=SHA))
    assert (0, 4 * BLOCK) not in data_requests(server)


def test_a_wrong_digest_is_refused_and_removed(server: FileServer, tmp_path: Path) -> None:
    wanted = "0" * 64
    with pytest.raises(IntegrityError, match=f"{SHA}, {wanted} is expected"):
        get(server, tmp_path / "w.pt", Expected(sha256=wanted))
    server.files["/w.pt"].ranges = False
    with pytest.raises(IntegrityError):
        get(server, tmp_path / "w.pt", Expected(sha256=wanted))
    assert left_in(tmp_path) == set()


def test_a_flipped_byte_left_by_an_earlier_run_is_found(server: FileServer, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "w.pt", Expected(sha256=SHA))
    with (tmp_path / ".w.pt.partial").open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    with pytest.raises(IntegrityError):
        get(server, tmp_path / "w.pt", Expected(sha256=SHA))
    assert get(server, tmp_path / "w.pt", Expected(sha256=SHA)).sha256 == SHA


def test_another_size_is_refused_before_any_data(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"{len(CONTENT)} bytes .* 77 are expected"):
        get(server, tmp_path / "w.pt", Expected(77, SHA))
    assert data_requests(server) == []


HTML = b"\n <!DOCTYPE html><html>please log in</html>"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_data(server: FileServer, tmp_path: Path, kind: str) -> None:
    server.files["/w.pt"] = Served(HTML, ranges=False, content_type=kind)
    with pytest.raises(EnvironmentNotReady, match=r"a web page instead of w\.pt"):
        get(server, tmp_path / "w.pt")
    assert left_in(tmp_path) == set()


def test_a_web_page_in_the_middle_is_tried_again(server: FileServer, tmp_path: Path) -> None:
    page = {"Content-Type": "text/html"}
    server.acts = [lambda exchange: exchange.status(200, page, HTML)]
    notices: list[str] = []
    assert get(server, tmp_path / "w.pt", tuning=ONE, notices=notices).sha256 == SHA
    assert "a web page came" in notices[0]


def test_a_pointer_is_not_taken_for_data(server: FileServer, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 3\n" % SHA.encode()
    server.files["/w.pt"] = Served(pointer)
    with pytest.raises(EnvironmentNotReady, match="only the git LFS pointer"):
        get(server, tmp_path / "w.pt")


def test_a_compressed_answer_is_refused(server: FileServer, tmp_path: Path) -> None:
    gzip = {"Content-Encoding": "gzip"}
    server.always["/w.pt"] = lambda exchange: exchange.status(200, gzip, b"x")
    with pytest.raises(EnvironmentNotReady, match="compressed"):
        get(server, tmp_path / "w.pt")


def test_a_range_that_was_not_asked_for(server: FileServer, tmp_path: Path) -> None:
    wrong = {"Content-Range": f"bytes 7-9/{len(CONTENT)}"}
    server.acts = [lambda exchange: exchange.status(206, wrong, b"abc")] * 4
    with pytest.raises(EnvironmentNotReady, match="another range"):
        get(server, tmp_path / "w.pt", tuning=ONE)


@pytest.mark.parametrize("code", [401, 403])
def test_no_access_names_the_variable(server: FileServer, tmp_path: Path, code: int) -> None:
    server.always["/w.pt"] = lambda exchange: exchange.status(code)
    with pytest.raises(EnvironmentNotReady, match=f"refuses access.*{code}") as caught:
        get(server, tmp_path / "w.pt")
    assert "set SOME_TOKEN" in caught.value.hint


def test_what_is_not_there(server: FileServer, tmp_path: Path) -> None:
    del server.files["/w.pt"]
    with pytest.raises(EnvironmentNotReady, match=r"has no w\.pt .HTTP 404"):
        get(server, tmp_path / "w.pt")


def test_a_token_reaches_its_host_and_no_other(server: FileServer, tmp_path: Path) -> None:
    with FileServer({"/signed": Served(CONTENT)}) as other:
        onward = {"Location": other.url("/signed")}
        server.always["/w.pt"] = lambda exchange: exchange.status(302, onward)
        secret = {"Authorization": "Bearer hush"}
        assert get(server, tmp_path / "w.pt", headers=secret).sha256 == SHA
        assert {r.headers["Authorization"] for r in server.requests} == {"Bearer hush"}
        assert {r.headers["Authorization"] for r in other.requests} == {None}
        assert not any("hush" in str(r.headers) for r in other.requests)


def test_redirects_that_never_end(server: FileServer, tmp_path: Path) -> None:
    server.always["/w.pt"] = lambda exchange: exchange.status(302, {"Location": "/w.pt"})
    with pytest.raises(EnvironmentNotReady, match="leads nowhere"):
        get(server, tmp_path / "w.pt")


def test_an_expired_address_is_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        server.files[f"/signed-{number}"] = Served(CONTENT)
    asked: list[str] = []

    def locate() -> Location:
        asked.append(f"/signed-{len(asked) + 1}")
        return Location(server.url(asked[-1]))

    def expire(exchange: Exchange) -> None:
        server.always[exchange.request.path] = lambda later: later.status(403)
        exchange.send()

    server.acts = [Exchange.send, expire, Exchange.send, expire]
    assert download(locate, tmp_path / "w.pt", tuning=ONE).sha256 == SHA
    assert asked == ["/signed-1", "/signed-2", "/signed-3"]


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/w.pt"
    with pytest.raises(EnvironmentNotReady, match="broke off"):
        download(lambda: Location(url), tmp_path / "w.pt", tuning=FAST)


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
from kit.weights.download import download
from kit.weights.http import Location
from kit.weights.remote import Tuning

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
from kit.weights.download import download
from kit.weights.http import Location

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = anonymous()
most = []
from kit.weights.transfer import Watch
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
