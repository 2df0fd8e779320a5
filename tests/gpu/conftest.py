"""The command line on a machine with a pretended GPU, one machine a test."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))  # importlib mode adds no paths

from kit_process import Kit, free_port

from tests.gpu.pretended_machine import Card, put_in


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[float], tuple[Kit, Card]]]:
    """Makes a machine with a card of so many GiB; the service on it is ended with the test."""
    made: list[Kit] = []

    def make(gib: float) -> tuple[Kit, Card]:
        card = put_in(tmp_path / "machine", gib)
        hidden = ("KIT_", "XDG_", "CUDA_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        port = free_port()
        environ = kept | {
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "KIT_PORT": str(port),
            "KIT_RUNTIME": "local",
            "NO_COLOR": "1",
            "COLUMNS": "80",
        }
        made.append(Kit(tmp_path, port, environ | card.environ, ("-m", "kit")))
        return made[-1], card

    yield make
    for kit in made:
        kit("down")
