import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import units
from kit.checkpoint.source import Checksum, Request, SourceFile, Sweep
from kit.errors import IntegrityError

SIZE = 300_000
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
DIGEST = f"blake3:{blake3(CONTENT).hexdigest()}"
CHUNK = 10_000


@pytest.fixture
def file(tmp_path: Path) -> SourceFile:
    (tmp_path / "x").write_bytes(CONTENT)
    return SourceFile(tmp_path / "x", SIZE, 0, "")


def request(file: SourceFile, offset: int, nbytes: int) -> Request:
    return Request(file.path, offset, min(nbytes, SIZE - offset))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(
    offsets=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, CHUNK)), max_size=12),
    expected=st.integers(0, 12),
    known=st.booleans(),
)
def test_any_reads_expected_or_not(
    file: SourceFile, offsets: list[tuple[int, int]], expected: int, known: bool
) -> None:
    """Gaps of all sizes, overlaps, and only the first so many reads announced."""
    requests = [request(file, *pair) for pair in sorted(offsets)]
    calls: list[tuple[int, int]] = []
    digests = {file.path: "known"} if known else {}
    with Sweep(
        [file], CHUNK, lambda *call: calls.append(call), requests[:expected], digests
    ) as sweep:
        for path, offset, nbytes in requests:
            assert sweep.read(path, offset, nbytes).tobytes() == CONTENT[offset : offset + nbytes]
        assert sweep.finish() == ("known" if known else DIGEST,)
    assert calls == sorted(calls)
    assert calls[-1] == (SIZE, SIZE)


def test_several_files_in_turn(file: SourceFile) -> None:
    second = SourceFile(file.path.with_name("y"), SIZE, 0, "")
    second.path.write_bytes(CONTENT[::-1])
    requests = [
        request(one, offset, CHUNK) for offset in range(0, SIZE, CHUNK) for one in (file, second)
    ]
    with Sweep([file, second], CHUNK, None, requests) as sweep:
        for path, offset, nbytes in requests:
            content = CONTENT if path == file.path else CONTENT[::-1]
            assert sweep.read(path, offset, nbytes).tobytes() == content[offset : offset + nbytes]
        assert sweep.finish() == (DIGEST, f"blake3:{blake3(CONTENT[::-1]).hexdigest()}")


def test_only_what_was_expected_can_be_read(file: SourceFile) -> None:
    with (
        Sweep([file], CHUNK, None, [request(file, 0, 10)]) as sweep,
        pytest.raises(ValueError, match="expected"),
    ):
        sweep.read(file.path, 0, 20)


def test_a_known_file_is_not_read_where_no_one_asks(
    file: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    requests = [request(file, 200_000, 10)]
    with Sweep([file], CHUNK, None, requests, {file.path: DIGEST}) as sweep:
        reader = next(iter(sweep._passes.values())).reader
        original = reader.read
        monkeypatch.setattr(
            reader, "read", lambda *args: (read.append(args[2]), original(*args))[1]
        )
        sweep.read(*requests[0])
        sweep.finish()
    assert read == [10, 0]


def checked(file: SourceFile, damaged: int | None = None) -> SourceFile:
    """The file with checksums of three parts, of which one (by number) is wrong."""
    spans = [(10, 5000), (5010, 0), (5010, 200_000), (205_010, SIZE - 205_010)]
    sums = [
        Checksum(
            f"part {number}", start, n, zlib.crc32(CONTENT[start : start + n]) ^ (number == damaged)
        )
        for number, (start, n) in enumerate(spans)
    ]
    return replace(file, checksums=tuple(sums))


@pytest.mark.parametrize("chunk", [CHUNK, 2 * units.MIB])
def test_checksums_that_are_right(file: SourceFile, chunk: int) -> None:
    with Sweep([checked(file)], chunk) as sweep:
        sweep.read(file.path, 1000, 77)
        assert sweep.finish() == (DIGEST,)


@pytest.mark.parametrize("chunk", [CHUNK, 2 * units.MIB])
@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_checksum_that_is_wrong(file: SourceFile, part: int, chunk: int) -> None:
    with (
        Sweep([checked(file, damaged=part)], chunk) as sweep,
        pytest.raises(IntegrityError, match=f"part {part} is damaged"),
    ):
        sweep.finish()


def test_a_known_file_is_not_checked_again(file: SourceFile) -> None:
    with Sweep([checked(file, damaged=2)], CHUNK, known={file.path: "known"}) as sweep:
        assert sweep.finish() == ("known",)


def test_a_file_that_is_shorter_than_it_was(file: SourceFile) -> None:
    with Sweep([file], CHUNK) as sweep, file.path.open("r+b") as opened:
        opened.truncate(SIZE // 2)
        with pytest.raises(IntegrityError, match="shorter"):
            sweep.finish()
