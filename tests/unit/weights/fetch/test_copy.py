import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.fetch import partial
from kit.weights.fetch.partial import Partial, arrived_bytes, copy_file
from kit.weights.fetch.transfer import Arrived, Expected, Watch

BLOCK = 4096
CONTENT = os.urandom(10 * BLOCK + 5)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_a_file_or_a_part_of_one(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "w"
    assert copy_file(source, target, Expected(len(CONTENT), SHA), block_bytes=BLOCK) == Arrived(
        len(CONTENT), SHA
    )
    assert target.read_bytes() == CONTENT
    copy_file(source, target, extent=range(100, 9000), block_bytes=BLOCK)
    assert target.read_bytes() == CONTENT[100:9000]
    copy_file(source, target, extent=range(7, 7))
    assert target.read_bytes() == b""


def test_what_is_not_expected_leaves_nothing(source: Path, tmp_path: Path) -> None:
    for expected in (Expected(1), Expected(sha256="0" * 64)):
        with pytest.raises(IntegrityError):
            copy_file(source, tmp_path / "d" / "w", expected)
    assert not [p for p in (tmp_path / "d").iterdir() if not p.name.endswith(".lock")]


def test_a_source_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="cannot read"):
        copy_file(tmp_path / "none", tmp_path / "w")


def test_a_source_that_changes_meanwhile(source: Path, tmp_path: Path) -> None:
    def touch(done: int, total: int) -> None:
        os.utime(source, ns=(done, done))

    with pytest.raises(IntegrityError, match="was changed while"):
        copy_file(source, tmp_path / "w", watch=Watch(progress=touch))
    with pytest.raises(IntegrityError, match="became shorter"):
        copy_file(source, tmp_path / "w", extent=range(10, len(CONTENT) + 10))


CHILD = """
import os, signal, sys
from pathlib import Path
from kit.weights.fetch import partial
from kit.weights.fetch.transfer import Watch

partial.COMMIT_S = 0.0

def die(done, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

partial.copy_file(Path(sys.argv[1]), Path(sys.argv[2]), block_bytes=4096, watch=Watch(die))
"""


@pytest.mark.parametrize("blocks", [1, 7])
def test_kill_9_keeps_finished_blocks(
    source: Path, tmp_path: Path, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "w"
    command = [sys.executable, "-c", CHILD, source, target, str(blocks * BLOCK)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert arrived_bytes(target) == blocks * BLOCK
    written: list[int] = []
    write = Partial.write
    monkeypatch.setattr(
        Partial,
        "write",
        lambda self, data, offset: (written.append(offset), write(self, data, offset))[1],
    )
    assert copy_file(source, target, block_bytes=BLOCK).sha256 == SHA
    assert written == [block * BLOCK for block in range(blocks, 11)]
    assert target.read_bytes() == CONTENT


def test_another_source_does_not_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "COMMIT_S", 0.0)

    def stop(done: int, total: int) -> None:
        if done >= 3 * BLOCK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_file(source, tmp_path / "w", block_bytes=BLOCK, watch=Watch(stop))
    assert arrived_bytes(tmp_path / "w") == 3 * BLOCK
    other = bytes(len(CONTENT))
    source.write_bytes(other)
    copy_file(source, tmp_path / "w", block_bytes=BLOCK)
    assert (tmp_path / "w").read_bytes() == other
