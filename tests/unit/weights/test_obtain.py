"""Fetching sets: licence, lock, room, sources, in their order."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kit.cli.weights.next_step import next_step
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile, read_lock
from kit.settings import Settings, bundled
from kit.weights import ask, preflight
from kit.weights.arriving import ARRIVING_NAME
from kit.weights.catalogue import read_catalogue
from kit.weights.fetch import Fetched
from kit.weights.folder import checkpoint_dir, known_digest
from kit.weights.layers import adopt, forget, read_layers, record
from kit.weights.licence import How, Terms, read_acceptances
from kit.weights.listing import list_sets
from kit.weights.obtain import Wish, obtain
from kit.weights.remote import Tuning
from kit.weights.transfer import Watch
from tests.file_server import Exchange, FileServer, Served

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

    def read(self, path: str) -> bool:
        """Whether more than the start of a file was asked for."""
        return any(r.path == path and r.range != (0, 512) for r in self.server.requests)

    def locked(self) -> Mapping[str, LockedFile]:
        return read_layers(self.settings.data_dir).weights.get("tiny", {})

    def lose(self, path: str) -> None:
        """From now on only the start of that file can be read."""

        def gone(exchange: Exchange) -> None:
            if exchange.request.range == (0, 512):
                exchange.send()
            else:
                exchange.status(404)

        self.server.always[path] = gone


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(ask, "PAUSES_S", ())
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
    assert home.read("/one/w.pt")
    assert not home.read("/one/t.model")


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


def test_a_source_with_a_part_of_a_set_is_passed_over(home: Home) -> None:
    del home.server.files["/one/t.model"]
    assert home.get().source == "second"
    assert "has no Tokenizer/t.model" in home.notices[0]
    assert not home.read("/one/w.pt")


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


def test_room_is_checked_before_any_byte(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PROGRAM_RAM_BYTES", 1 << 60)
    with pytest.raises(EnvironmentNotReady, match="not enough RAM for this command") as caught:
        home.get()
    assert "--no-preflight" in caught.value.hint
    assert not home.read("/one/w.pt")
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
    files, kit_lock = read_layers(data_dir).weights["tiny"], bundled("kit.lock")
    step = next_step("tiny", home.folder, files, home.settings)
    assert step == f"convert it: kit weights convert {home.folder}/w.pt {data_dir}/tiny-bf16"
    (data_dir / "out").rename(data_dir / "tiny-bf16")
    [tiny] = [s for s in list_sets(catalogue, read_lock(kit_lock), data_dir) if s.name == "tiny"]
    assert tiny.converted == (data_dir / "tiny-bf16",)  # told by its name
    step = next_step("tiny", home.folder, files, home.settings)
    assert step == f"{data_dir}/tiny-bf16 holds it in bf16: kit up --model {data_dir}/tiny-bf16"
    other = {"w.pt": replace(files["w.pt"], sha256="0" * 64)}
    assert "convert it" in str(next_step("tiny", home.folder, other, home.settings))
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


@pytest.mark.parametrize(
    "where", ["arriving add", "folder remember", "layers record", "arriving clear"]
)
def test_kill_9_around_the_naming_of_a_file(home: Home, where: str) -> None:
    data_dir, catalogue = home.settings.data_dir, home.settings.weights_catalogue
    command = [sys.executable, "-c", CHILD, where, str(data_dir), str(catalogue)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (home.folder / "w.pt").exists() is (where != "arriving add")
    assert bool(home.locked()) is (where == "arriving clear")
    home.server.requests.clear()
    home.get()
    assert not home.read("/one/w.pt")
    assert (home.folder / "w.pt").read_bytes() == CONTENT
    assert home.locked()["w.pt"].sha256 == SHA
    assert not (home.folder / ARRIVING_NAME).exists()
