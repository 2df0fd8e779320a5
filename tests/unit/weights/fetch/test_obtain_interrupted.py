"""A fetch that broke off goes on, and has decided nothing."""

import signal
import subprocess
import sys

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.fetch.fetch import ARRIVING_NAME
from tests.file_server import Served
from tests.home import CONTENT, SHA, Home


def test_a_broken_fetch_keeps_finished_files(home: Home) -> None:
    home.lose("/one/t.model")
    with pytest.raises(EnvironmentNotReady, match=r"has no t\.model"):
        home.get()
    assert home.locked() == {}
    home.server.requests.clear()
    home.server.always.clear()
    home.get()
    assert not home.read("/one/w.pt")
    assert home.locked()["w.pt"].sha256 == SHA
    assert home.locked().keys() == {"w.pt", "Tokenizer/t.model"}
    assert not (home.folder / ARRIVING_NAME).exists()


def test_a_mirror_of_the_wrong_files_leaves_nothing_in_the_lock(home: Home) -> None:
    home.server.files["/one/w.pt"] = Served(CONTENT[:-1] + b"?")
    home.lose("/one/t.model")
    with pytest.raises(EnvironmentNotReady, match=r"has no t\.model"):
        home.get(mirror=home.server.url("/one/"))
    assert (home.folder / "w.pt").exists()
    assert home.locked() == {}
    home.get(source="second")
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert home.locked()["w.pt"].source == home.server.url("/two/w.pt")


def test_a_finished_file_that_was_changed_meanwhile_is_fetched_again(home: Home) -> None:
    home.lose("/one/t.model")
    with pytest.raises(EnvironmentNotReady):
        home.get()
    (home.folder / "w.pt").write_bytes(b"something else")
    home.server.always.clear()
    home.get()
    assert (home.folder / "w.pt").read_bytes() == CONTENT


CHILD = """
import os, signal, sys
from pathlib import Path
import kit.weights.fetch.fetch as fetch
from kit.settings import Settings
from kit.weights.fetch.obtain import Wish, obtain
from kit.weights.fetch.transfer import Watch

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

owner, _, name = sys.argv[1].partition(" ")
setattr(fetch if owner == "fetch" else getattr(fetch, owner), name, die)
settings = Settings(Path(sys.argv[2]), Path(sys.argv[2]), weights_catalogue=Path(sys.argv[3]))
obtain(Wish("tiny"), settings, {}, lambda terms: "option", Watch())
"""


@pytest.mark.parametrize(
    "where", ["fetch add_arrived", "folder remember", "layers record", "fetch clear_arrived"]
)
def test_kill_9_around_the_naming_of_a_file(home: Home, where: str) -> None:
    data_dir, catalogue = home.settings.data_dir, home.settings.weights_catalogue
    command = [sys.executable, "-c", CHILD, where, str(data_dir), str(catalogue)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (home.folder / "w.pt").exists() is (where != "fetch add_arrived")
    assert bool(home.locked()) is (where == "fetch clear_arrived")
    home.server.requests.clear()
    home.get()
    assert not home.read("/one/w.pt")
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert home.locked()["w.pt"].sha256 == SHA
    assert not (home.folder / ARRIVING_NAME).exists()
