"""The git LFS source against a real LFS server, giftless (PyPI), in a process of its own.

It runs with this Python if giftless is installed, else with the one that KIT_TEST_GIFTLESS names;
``make giftless`` makes .venv/giftless/bin/python.
"""

import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.catalogue import Source, WeightSet, read_catalogue
from kit.weights.fetch.download import download
from kit.weights.fetch.fetch import source_offers
from kit.weights.fetch.remote import Tuning
from tests.file_server import FileServer, Served

CONTENT = os.urandom(200_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
SERVE = """
import sys
from giftless.app import init_app
from werkzeug.serving import make_server

storage, port = sys.argv[1:]
basic = {"options": {"storage_options": {"path": storage}}}
app = init_app(additional_config={"TRANSFER_ADAPTERS": {"basic": basic}})
make_server("127.0.0.1", int(port), app, threaded=True).serve_forever()
"""


@pytest.fixture(scope="module")
def giftless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = os.environ.get("KIT_TEST_GIFTLESS")
    if python is None and importlib.util.find_spec("giftless") is None:
        pytest.skip("giftless is not installed, and KIT_TEST_GIFTLESS names no Python that has it")
    storage = tmp_path_factory.mktemp("lfs")
    (storage / "org" / "repo").mkdir(parents=True)
    (storage / "org" / "repo" / SHA).write_bytes(CONTENT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python or sys.executable, "-c", SERVE, str(storage), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1000):
            assert process.poll() is None, "giftless ended"
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def weights() -> WeightSet:
    licence = read_catalogue().weights["spark-13b-chat"].licence
    return WeightSet("t", "", {"w.pt": "a/w.pt"}, ("s",), licence, None, None, 0)


def test_a_file_arrives(giftless: str, weights: WeightSet, tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA}\nsize 200000\n"
    with FileServer({"/raw/a/w.pt": Served(pointer.encode())}) as git:
        lfs = f"{giftless}/org/repo.git/info/lfs"
        options = {"repository": "", "revision": "", "raw": git.url("/raw"), "lfs": lfs}
        source = Source("s", "lfs", "", None, options)
        offer = source_offers(source, weights, {})["w.pt"]
        arrived = download(offer.locate, tmp_path / "w.pt", offer.expected)
    assert (arrived.sha256, offer.basis) == (SHA, "pointer")
    assert (tmp_path / "w.pt").read_bytes() == CONTENT


def test_an_object_that_is_not_there(giftless: str, weights: WeightSet, tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7\n"
    with FileServer({"/raw/a/w.pt": Served(pointer.encode())}) as git:
        lfs = f"{giftless}/org/repo.git/info/lfs"
        options = {"repository": "", "revision": "", "raw": git.url("/raw"), "lfs": lfs}
        source = Source("s", "lfs", "", None, options)
        offer = source_offers(source, weights, {})["w.pt"]
        with pytest.raises(EnvironmentNotReady):
            download(offer.locate, tmp_path / "w.pt", offer.expected, tuning=Tuning(tries=1))
