"""The folder in which ranks meet, after orderly and other ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kit.serve.megatron.ranks import MeetingPlace

HOLDS = """
import sys
from kit.serve.megatron.ranks import MeetingPlace
place = MeetingPlace()
print(place.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_this_users_alone_and_removed_in_the_end(temporary: Path) -> None:
    place = MeetingPlace()
    assert list(temporary.iterdir()) == [place.folder]
    assert place.folder.stat().st_mode & 0o777 == 0o700
    (place.folder / "rendezvous").touch()
    place.remove()
    place.remove()
    assert not list(temporary.iterdir())


def test_that_of_a_killed_server_goes_at_the_next_start_and_that_of_a_running_one_stays(
    temporary: Path,
) -> None:
    (temporary / "kit-ranks-file").touch()
    (temporary / "kit-ranks-link").symlink_to(temporary)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        (folder / "rendezvous").touch()
        MeetingPlace().remove()
        assert folder.is_dir()
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert folder.is_dir()
    MeetingPlace().remove()
    assert {path.name for path in temporary.iterdir()} == {"kit-ranks-file", "kit-ranks-link"}
