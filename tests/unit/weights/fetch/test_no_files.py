"""Pipes, sockets and devices where a file is expected: never waited for, and said what they are."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.checkpoint.model import read_model
from kit.checkpoint.shards import index_directory
from kit.errors import IntegrityError, KitError, printable
from kit.weights.convert.record import read_record
from kit.weights.fetch.partial import copy_file

READERS: dict[str, Callable[[Path], object]] = {
    "mp_rank_00_model_states.pt": lambda path: read_model([path]),
    "model.safetensors": lambda path: index_directory(path.parent),
    "conversion.json": lambda path: read_record(path.parent),
    "w.pt": lambda path: copy_file(path, path.with_name("copy")),
}


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a pipe", os.mkfifo),
        ("a socket", make_socket),
        ("a device", lambda path: path.symlink_to("/dev/zero")),
    ],
)
def test_what_is_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, make: object
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes only
    make(Path(name))  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=f"{name}: it is {kind}, not a file"):
        READERS[name](tmp_path / name)


def test_no_message_moves_a_cursor() -> None:
    error = KitError("a\x1b[2J\r\x00\u202eb\nc", hint="\x07d")
    assert (error.message, error.hint) == ("a [2J   b\nc", " d")
    assert printable("a\nb" * 200) == ("a b" * 100)[:299] + "…"
