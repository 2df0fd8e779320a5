"""One file into the weights folder: linked where that can be, else copied."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.fetch.take_in import LINK_FROM_BYTES, place
from kit.weights.fetch.transfer import Expected, Watch
from kit.weights.folder import known_digest
from tests.held_back import NOBODY, held_back, open_folder

CONTENT = os.urandom(LINK_FROM_BYTES)
SHA = hashlib.sha256(CONTENT).hexdigest()


def put(source: Path, directory: Path, expected: Expected | None = None) -> str:
    return place(source, directory, "w.pt", expected or Expected(), link=True, watch=Watch()).sha256


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


def hidden(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"w.pt", ".verified.json", ".w.pt.lock"}


def test_large_files_are_linked_again_and_again(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert put(source, tmp_path / "set") == SHA
        assert (tmp_path / "set" / "w.pt").samefile(source)
    assert put(tmp_path / "set" / "w.pt", tmp_path / "set") == SHA
    assert hidden(tmp_path / "set") == set()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK])
def test_copied_where_no_link_can_be_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert put(source, tmp_path / "set") == SHA
    assert not (tmp_path / "set" / "w.pt").samefile(source)
    assert (tmp_path / "set" / "w.pt").read_bytes() == CONTENT
    assert known_digest(tmp_path / "set", "w.pt") == SHA
    with pytest.raises(IntegrityError, match="is expected"):
        put(source, tmp_path / "other", Expected(sha256="0" * 64))


def test_wrong_content_leaves_what_was_there(source: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "w.pt").write_bytes(b"earlier")
    with pytest.raises(IntegrityError, match=f"has sha256 {SHA}, 0000"):
        put(source, tmp_path / "set", Expected(sha256="0" * 64))
    assert (tmp_path / "set" / "w.pt").read_bytes() == b"earlier"
    assert hidden(tmp_path / "set") == set()


def test_what_belongs_to_another_user(source: Path) -> None:
    """The kernel lets nobody link others' files (fs.protected_hardlinks); reading is enough."""
    with open_folder() as folder:
        theirs = Path(shutil.copyfile(source, folder / "theirs"))
        with held_back():
            assert put(theirs, folder / "set") == SHA
        assert (folder / "set" / "w.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("own", [True, False])
def test_what_cannot_be_read(source: Path, own: bool) -> None:
    with open_folder() as folder:
        secret = Path(shutil.copyfile(source, folder / "secret"))
        if own and os.geteuid() == 0:
            os.chown(secret, NOBODY, -1)
        secret.chmod(0)
        with held_back(), pytest.raises(EnvironmentNotReady, match="cannot read /") as told:
            put(secret, folder / "set")
        assert "permissions" in told.value.hint
        assert hidden(folder / "set") == set()


def test_a_folder_without_writing(source: Path) -> None:
    with open_folder() as folder:
        theirs = Path(shutil.copyfile(source, folder / "theirs"))
        (folder / "closed").mkdir(0o555)
        for directory in (folder / "closed", folder / "closed" / "set"):
            for link in (True, False):
                with held_back(), pytest.raises(EnvironmentNotReady, match="cannot write to") as e:
                    place(theirs, directory, "w", Expected(), link=link, watch=Watch())
                assert e.value.hint
