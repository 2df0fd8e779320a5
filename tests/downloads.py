"""What the tests of downloads share: a file to fetch, and a way to fetch it quickly."""

import hashlib
import os
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location
from kit.weights.fetch.remote import Tuning
from kit.weights.fetch.transfer import Arrived, Expected, Watch
from tests.file_server import Exchange, FileServer

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


def interrupt(server: FileServer, target: Path, expected: Expected | None = None) -> None:
    """Leave a download with its first four blocks done."""
    server.acts = [Exchange.send, *[lambda exchange: exchange.status(503)] * 4]
    with pytest.raises(EnvironmentNotReady):
        get(server, target, expected, tuning=ONE)
    server.requests.clear()
