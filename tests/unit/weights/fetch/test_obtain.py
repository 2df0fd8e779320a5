"""Fetching sets: from which source, into which folder, with room for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights import preflight
from kit.weights.folder import known_digest
from kit.weights.layers import read_layers
from tests.home import CONTENT, SHA, TOKENIZER, Home


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


def test_room_is_checked_before_any_byte(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PROGRAM_RAM_BYTES", 1 << 60)
    with pytest.raises(EnvironmentNotReady, match="not enough RAM for this command") as caught:
        home.get()
    assert "--no-preflight" in caught.value.hint
    assert not home.read("/one/w.pt")
    assert home.get(preflight=False).source == "first"
