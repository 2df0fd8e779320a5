import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location
from kit.weights.fetch.partial import arrived_bytes
from kit.weights.fetch.transfer import Arrived, Expected, Watch
from tests.downloads import BLOCK, CONTENT, FAST, ONE, SHA, data_requests, get, interrupt, left_in
from tests.file_server import Exchange, FileServer, Served


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/w.pt": Served(CONTENT)}) as running:
        yield running


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
    assert left_in(tmp_path) == {"w.pt"}


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
