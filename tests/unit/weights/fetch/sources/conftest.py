"""A server that offers files, asked again without long pauses."""

from collections.abc import Iterator

import pytest

from kit.weights.fetch import ask
from tests.file_server import FileServer


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSES_S", (0.001,))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running
