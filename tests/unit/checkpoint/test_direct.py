import errno
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint import pages
from kit.checkpoint.pages import PAGE_BYTES, Buffer, NewFile, SourceReader, read_into, write_at

SIZE = 5 * PAGE_BYTES + 123
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
anywhere = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@pytest.fixture(params=["direct", "refused when opened", "refused when used"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file system takes O_DIRECT."""
    if request.param == "refused when opened":
        monkeypatch.setattr(pages, "_open_direct", lambda path, flags: None)
    elif request.param == "refused when used":
        refused: set[int] = set()

        def open_direct(path: Path, flags: int) -> int:
            refused.add(fd := os.open(path, flags))
            return fd

        def refuse(way):  # type: ignore[no-untyped-def]
            def checked(fd: int, *rest: object) -> object:
                if fd in refused:
                    raise OSError(errno.EINVAL, "Invalid argument")
                return way(fd, *rest)

            return checked

        monkeypatch.setattr(pages, "_open_direct", open_direct)
        monkeypatch.setattr(pages, "read_into", refuse(read_into))
        monkeypatch.setattr(pages, "write_at", refuse(write_at))
    return str(request.param)


@anywhere
@given(offset=st.integers(0, SIZE), nbytes=st.integers(0, SIZE))
def test_reads_any_bytes(way: str, tmp_path: Path, offset: int, nbytes: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT.tobytes())
    reader, buffer = SourceReader(path), Buffer(SIZE)
    found = reader.read(buffer.bytes, offset, nbytes)
    reader.close()
    assert np.array_equal(found, CONTENT[offset : offset + nbytes])


@anywhere
@given(cuts=st.lists(st.integers(0, SIZE), max_size=6), shift=st.sampled_from([0, 0, 1, 100]))
def test_writes_any_bytes(way: str, tmp_path: Path, cuts: list[int], shift: int) -> None:
    """Whatever the pieces, their order, and where they lie in memory (``shift``: not as they
    should).
    """
    edges = [0, *sorted(cuts), SIZE]
    memory = Buffer(SIZE + PAGE_BYTES).bytes
    file = NewFile(tmp_path / "x", SIZE)
    for first, last in reversed(list(pairwise(edges))):
        place = first % PAGE_BYTES + shift
        memory[place : place + last - first] = CONTENT[first:last]
        file.write(memory[place : place + last - first], first)
    file.finish()
    file.close()
    assert (tmp_path / "x").read_bytes() == CONTENT.tobytes()


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = NewFile(tmp_path / "x", SIZE)
    memory = Buffer(SIZE).bytes[:SIZE]
    monkeypatch.setattr(pages, "write_at", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(memory, 0)
    file.close()
