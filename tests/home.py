"""A user with a data folder, a server that offers a small set, and a way to answer."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit.lock import LockedFile
from kit.settings import Settings
from kit.weights.fetch.fetch import Fetched
from kit.weights.fetch.obtain import Wish, obtain
from kit.weights.fetch.remote import Tuning
from kit.weights.fetch.transfer import Watch
from kit.weights.folder import checkpoint_dir
from kit.weights.layers import read_layers
from kit.weights.licence import How, Terms
from tests.file_server import Exchange, FileServer

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
