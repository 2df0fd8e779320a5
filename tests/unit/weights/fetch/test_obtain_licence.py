"""The licence comes before any byte, and its acceptance is kept."""

import hashlib

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.fetch.obtain import Wish, obtain
from kit.weights.fetch.transfer import Watch
from kit.weights.licence import How, Terms, read_acceptances
from tests.file_server import Served
from tests.home import Home


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
