"""What arrives is checked against the lock, and against what the catalogue knows of its size."""

from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.lock import LockedFile
from kit.weights.layers import adopt, forget, record
from tests.file_server import Served
from tests.home import CONTENT, SHA, TOKENIZER, Home


def test_the_lock_decides(home: Home) -> None:
    home.get()
    (home.folder / "w.pt").unlink()
    home.server.files["/one/w.pt"] = Served(CONTENT[:-1] + b"?")
    with pytest.raises(IntegrityError, match=f"{SHA} is expected"):
        home.get()
    assert not (home.folder / "w.pt").exists()
    assert home.get(source="second").source == "second"


def test_a_file_that_was_damaged_here_is_fetched_again(home: Home) -> None:
    home.get()
    (home.folder / "w.pt").write_bytes(CONTENT[:-1] + b"?")
    home.server.requests.clear()
    home.get()
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert "fetched again" in home.notices[0]
    assert home.read("/one/w.pt")
    assert not home.read("/one/t.model")


def test_a_colleagues_lock_is_held_against_the_first_fetch(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "colleague"
    wrong = LockedFile(len(CONTENT), "0" * 64, "observed", "their disk", "2024-01-01")
    record(other, "tiny", {"w.pt": wrong})
    assert adopt(home.settings.data_dir, other / "kit.lock") == {"tiny": ("w.pt",)}
    with pytest.raises(IntegrityError, match="0000 is expected"):
        home.get()


def test_a_lock_that_comes_meanwhile_wins(home: Home, tmp_path: Path) -> None:
    home.lose("/one/t.model")
    with pytest.raises(EnvironmentNotReady):
        home.get()
    right = LockedFile(len(CONTENT), "0" * 64, "observed", "their disk", "2024-01-01")
    record(tmp_path / "colleague", "tiny", {"w.pt": right})
    adopt(home.settings.data_dir, tmp_path / "colleague" / "kit.lock")
    home.server.always.clear()
    with pytest.raises(IntegrityError, match="0000 is expected") as caught:
        home.get()
    assert "from their disk on 2024-01-01" in caught.value.hint
    assert "kit weights lock --forget tiny" in caught.value.hint
    assert home.locked() == {"w.pt": right}
    forget(home.settings.data_dir, "tiny")
    home.get()
    assert home.locked()["w.pt"].sha256 == SHA


def test_another_size_than_the_locks_is_refused_before_any_byte(home: Home) -> None:
    home.get()
    (home.folder / "w.pt").unlink()
    (home.folder / "Tokenizer" / "t.model").unlink()
    home.server.files["/one/t.model"] = Served(TOKENIZER + b"!")
    home.server.requests.clear()
    with pytest.raises(IntegrityError, match=r"10 bytes for t\.model, 9 are expected"):
        home.get()
    assert not home.read("/one/w.pt")


@pytest.mark.parametrize(
    ("parameters", "right"), [(75_000, True), (76_000, False), (10_000, False)]
)
def test_a_checkpoint_of_another_size_class_is_refused(
    home: Home, tmp_path: Path, parameters: int, right: bool
) -> None:
    """300 000 bytes: 75 000 parameters in fp32, which 76 000 cannot be."""
    catalogue = tmp_path / "own.toml"
    shape = "[shapes.s]\nlayers = 1\nhidden = 8\nintermediate = 8\nvocabulary = 8\n"
    shape += f"max_context = 8\nwindow = 8\nparameters = {parameters}\n"
    text = catalogue.read_text() + 'shape = "s"\nparameter_bytes = 4\n'
    catalogue.write_text(shape + text)
    wish = {"mirror": home.server.url("/one"), "preflight": False}
    if right:
        home.get(**wish)
        return
    with pytest.raises(IntegrityError, match=rf"300000 bytes for w\.pt, {4 * parameters} to"):
        home.get(**wish)
    assert not home.read("/one/t.model")
    assert not home.read("/one/w.pt")
    assert home.locked() == {}
