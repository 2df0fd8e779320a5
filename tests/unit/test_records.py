"""JSON that is damaged or hostile gives ValueError or OSError, soon, whatever it is."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.records import MAX_DEPTH, parse_json, parse_object, read_json, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_json_writes_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@given(st.binary(max_size=60))
def test_anything_else_is_a_value_error(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "data",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "9" * 5000,
        b"\xff\xfe",
        "",
        " " * 9_000_000 + "1",
    ],
)
def test_hostile_json_is_refused(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_depth_up_to_the_limit_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize("data", ["[]", "3", "null", '"text"'])
def test_an_object_is_asked_for(data: str) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_object(data)


def test_pipes_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            read_json(path)


def test_a_file_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="at most 100 are read"):
        read_object(tmp_path / "large", limit_bytes=100)
