import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from kit.runtime.orphan import orphaned_server, owner_of

LISTENS = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
input()
"""


@contextmanager
def listening(*words: str, **environ: str):
    """A process with these words on its command line; its port and process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS, *words],
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield int(process.stdout.readline()), process.pid
        process.communicate("\n")


@pytest.fixture
def ours(tmp_path):
    return owner_of(tmp_path / "ours")


def test_a_server_that_was_started_by_hand_or_by_us_is_a_stray(ours):
    for environ in ({}, {"KIT_OWNER": ours}):
        with listening("/venv/bin/kit", "serve", "DIR", **environ) as (port, pid):
            found = orphaned_server(port, ours)
            assert found is not None
            assert (found.pid, found.remedy) == (pid, f"kill {pid}")


def test_one_of_another_kit_is_none_of_ours(ours, tmp_path):
    theirs = owner_of(tmp_path / "theirs")
    with listening("/venv/bin/kit", "serve", "DIR", KIT_OWNER=theirs) as (port, _):
        assert orphaned_server(port, ours) is None
        assert orphaned_server(port, theirs) is not None


def test_another_program_is_none(ours):
    with listening("nginx") as (port, _):
        assert orphaned_server(port, ours) is None
