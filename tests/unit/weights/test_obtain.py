"""Fetching sets: licence, lock, room, sources, in their order."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile
from kit.settings import Settings
from kit.weights import http, preflight
from kit.weights.catalogue import read_catalogue
from kit.weights.fetch import Fetched
from kit.weights.folder import checkpoint_dir, known_digest
from kit.weights.layers import adopt, read_layers, record
from kit.weights.licence import How, Terms, read_acceptances
from kit.weights.listing import list_sets
from kit.weights.obtain import Wish, obtain
from kit.weights.remote import Tuning
from kit.weights.transfer import Watch
from tests.file_server import FileServer, Served

CONTENT = os.urandom(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
TOKENIZER = b"tokenizer"
CATALOGUE = """
[licences.own]
title = "Own licence"
summary = ["Be nice."]
url = "https://example.org/licence"
text_url = "{url}/licence.md"

[sources.first]
kind = "https"
what = ""
base = "{url}/one"

[sources.second]
kind = "https"
what = ""
base = "{url}/two"
token = "SECOND_TOKEN"

[weights.tiny]
what = ""
sources = ["first", "second"]
licence = "own"
checkpoint = "w.pt"
files."w.pt" = "w.pt"
files."Tokenizer/t.model" = "t.model"
"""


@dataclass
class Home:
    """A user with a data folder, a server that offers what they want, and a way to answer."""

    server: FileServer
    settings: Settings
    answers: list[Terms] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def accept(self, terms: Terms) -> How:
        self.answers.append(terms)
        return "terminal"

    def get(self, **wish: object) -> Fetched:
        tuning = Tuning(tries=1, first_pause_s=0.001)
        wanted = replace(Wish("tiny", tuning=tuning), **wish)  # type: ignore[arg-type]
        watch = Watch(notice=self.notices.append)
        return obtain(wanted, self.settings, {}, self.accept, watch)

    @property
    def folder(self) -> Path:
        return checkpoint_dir(self.settings.data_dir, "tiny")

    @property
    def asked(self) -> list[str]:
        return [request.path for request in self.server.requests]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(http, "PAUSES_S", ())
    with FileServer() as server:
        server.files = {
            "/licence.md": Served(b"all of the text"),
            "/one/w.pt": Served(CONTENT),
            "/one/t.model": Served(TOKENIZER),
            "/two/w.pt": Served(CONTENT),
            "/two/t.model": Served(TOKENIZER),
        }
        catalogue = tmp_path / "own.toml"
        catalogue.write_text(CATALOGUE.format(url=server.url()))
        yield Home(server, Settings(tmp_path / "data", tmp_path, weights_catalogue=catalogue))


def test_a_set_arrives_and_is_on_record(home: Home) -> None:
    fetched = home.get()
    assert fetched.source == "first"
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert (home.folder / "Tokenizer" / "t.model").read_bytes() == TOKENIZER
    entry = read_layers(home.settings.data_dir).weights["tiny"]["w.pt"]
    assert (entry.sha256, entry.size_bytes, entry.basis) == (SHA, len(CONTENT), "observed")
    assert entry.source == home.server.url("/one/w.pt")
    assert entry.date is not None and len(entry.date) == 10
    assert known_digest(home.folder, "w.pt") == SHA


def test_a_second_time_asks_nobody(home: Home) -> None:
    first = home.get()
    lock = (home.settings.data_dir / "kit.lock").read_bytes()
    home.server.requests.clear()
    again = home.get()
    assert again == replace(first, source=None)
    assert home.asked == ["/licence.md"]
    assert (home.settings.data_dir / "kit.lock").read_bytes() == lock


def test_the_licence_comes_before_any_byte(home: Home) -> None:
    def refuse(terms: Terms) -> How:
        raise EnvironmentNotReady("not accepted", hint="…")

    with pytest.raises(EnvironmentNotReady, match="not accepted"):
        obtain(Wish("tiny"), home.settings, {}, refuse, Watch())
    assert home.asked == ["/licence.md"]
    assert not home.folder.exists()
    assert read_acceptances(home.settings.data_dir) == {}


def test_an_acceptance_is_recorded_and_holds_until_the_text_changes(home: Home) -> None:
    home.get()
    accepted = read_acceptances(home.settings.data_dir)["own"]
    assert accepted.text_sha256 == hashlib.sha256(b"all of the text").hexdigest()
    assert (accepted.how, accepted.shown) == ("terminal", "text")
    assert accepted.url == "https://example.org/licence"
    [terms] = home.answers
    assert terms.text_path is not None and terms.text_path.read_bytes() == b"all of the text"
    del home.server.files["/licence.md"]
    home.get()
    assert len(home.answers) == 1
    home.server.files["/licence.md"] = Served(b"other terms")
    home.get()
    assert home.answers[1].earlier == accepted
    assert read_acceptances(home.settings.data_dir)["own"] != accepted


@pytest.mark.parametrize("page", [None, Served(b"<html>login"), Served(b"  ")])
def test_without_the_text_the_summary_is_accepted(home: Home, page: Served | None) -> None:
    home.server.files = {k: v for k, v in home.server.files.items() if k != "/licence.md"}
    if page:
        home.server.files["/licence.md"] = page
    home.get()
    accepted = read_acceptances(home.settings.data_dir)["own"]
    assert (accepted.shown, accepted.text_sha256) == ("summary", None)
    home.server.files["/licence.md"] = Served(b"all of the text")
    home.get()
    assert len(home.answers) == 1


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
    assert "/one/t.model" not in home.asked


def test_a_colleagues_lock_is_held_against_the_first_fetch(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "colleague"
    wrong = LockedFile(len(CONTENT), "0" * 64, "observed", "their disk", "2024-01-01")
    record(other, "tiny", {"w.pt": wrong})
    assert adopt(home.settings.data_dir, other / "kit.lock") == {"tiny": ("w.pt",)}
    with pytest.raises(IntegrityError, match="0000 is expected"):
        home.get()


def test_the_next_source_steps_in(home: Home, tmp_path: Path) -> None:
    catalogue = tmp_path / "own.toml"
    openi = 'kind = "openi"\nwhat = ""\nrepository = "a/b"\nendpoint'
    text = catalogue.read_text().replace('kind = "https"\nwhat = ""\nbase', openi, 1)
    catalogue.write_text(text)
    assert home.get().source == "second"
    assert "first: OpenI has no" in home.notices[0]
    with pytest.raises(EnvironmentNotReady, match="OpenI has no"):
        home.get(source="first", directory=tmp_path / "elsewhere")


def test_unknown_names(home: Home) -> None:
    with pytest.raises(UsageError, match="not offered by 'third'") as caught:
        home.get(source="third")
    assert "first, second" in caught.value.hint
    with pytest.raises(UsageError, match="no weights named"):
        home.get(name="tinny")


def test_a_folder_of_ones_own_and_a_mirror(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "usb"
    fetched = home.get(directory=elsewhere, mirror=home.server.url("/two"))
    assert fetched.source == home.server.url("/two")
    assert (elsewhere / "w.pt").read_bytes() == CONTENT


def test_a_mirror_in_a_folder_needs_no_network(home: Home, tmp_path: Path) -> None:
    mirror = tmp_path / "share"
    (mirror / "tiny" / "Tokenizer").mkdir(parents=True)
    (mirror / "tiny" / "w.pt").write_bytes(CONTENT)
    (mirror / "tiny" / "Tokenizer" / "t.model").write_bytes(TOKENIZER)
    home.get(mirror=mirror.as_uri())
    assert home.asked == []
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert (home.folder / "w.pt").stat().st_ino != (mirror / "tiny" / "w.pt").stat().st_ino
    entry = read_layers(home.settings.data_dir).weights["tiny"]["w.pt"]
    assert entry.source == (mirror / "tiny" / "w.pt").as_uri()


def test_a_broken_fetch_keeps_finished_files(home: Home) -> None:
    del home.server.files["/one/t.model"]
    with pytest.raises(EnvironmentNotReady, match=r"has no t\.model"):
        home.get()
    home.server.requests.clear()
    home.server.files["/one/t.model"] = Served(TOKENIZER)
    home.get()
    assert "/one/w.pt" not in home.asked


def test_room_is_checked_before_any_byte(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PROGRAM_RAM_BYTES", 1 << 60)
    with pytest.raises(EnvironmentNotReady, match="not enough RAM for this command") as caught:
        home.get()
    assert "--no-preflight" in caught.value.hint
    assert home.asked == ["/licence.md"]
    assert home.get(preflight=False).source == "first"


def test_the_list_follows(home: Home) -> None:
    data_dir = home.settings.data_dir

    def state() -> tuple[object, ...]:
        catalogue = read_catalogue(home.settings.weights_catalogue)
        found = {s.name: s for s in list_sets(catalogue, read_layers(data_dir), data_dir)}["tiny"]
        return found.complete, found.verified, found.here_bytes, found.exact

    assert state() == (False, False, 0, False)
    home.get()
    total = len(CONTENT) + len(TOKENIZER)
    assert state() == (True, True, total, True)
    os.utime(home.folder / "w.pt", ns=(1, 1))
    assert state() == (True, False, total, True)
    home.get()
    assert state() == (True, True, total, True)
    (data_dir / "out").mkdir()
    made = {
        "kit_version": "1",
        "sources": [
            {
                "name": "w.pt",
                "size_bytes": 1,
                "mtime_ns": 1,
                "fingerprint": "",
                "digest": f"sha256:{SHA}",
            }
        ],
        "lora": None,
        "precision": "bf16",
        "tensors": {},
        "files": {},
        "support": {},
        "nonfinite": {},
    }
    (data_dir / "out" / "conversion.json").write_text(json.dumps(made))
    catalogue = read_catalogue(home.settings.weights_catalogue)
    [tiny] = [s for s in list_sets(catalogue, read_layers(data_dir), data_dir) if s.name == "tiny"]
    assert tiny.converted == (data_dir / "out",)
    assert tiny.licence_accepted is not None


CHILD = """
import os, signal, sys
from pathlib import Path
import kit.weights.fetch as fetch
from kit.settings import Settings
from kit.weights.obtain import Wish, obtain
from kit.weights.transfer import Watch

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

owner, _, name = sys.argv[1].partition(" ")
setattr(getattr(fetch, owner), name, die)
settings = Settings(Path(sys.argv[2]), Path(sys.argv[2]), weights_catalogue=Path(sys.argv[3]))
obtain(Wish("tiny"), settings, {}, lambda terms: "option", Watch())
"""


@pytest.mark.parametrize("where", ["layers record", "folder remember"])
def test_kill_9_around_the_naming_of_a_file(home: Home, where: str) -> None:
    data_dir, catalogue = home.settings.data_dir, home.settings.weights_catalogue
    command = [sys.executable, "-c", CHILD, where, str(data_dir), str(catalogue)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (home.folder / "w.pt").exists() is (where == "folder remember")
    home.server.requests.clear()
    home.get()
    spans = [r for r in home.server.requests if r.path == "/one/w.pt" and r.range != (0, 512)]
    assert spans == []
    assert (home.folder / "w.pt").read_bytes() == CONTENT
