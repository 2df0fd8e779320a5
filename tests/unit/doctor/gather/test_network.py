import socket
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kit.doctor.facts import Docker, Facts
from kit.doctor.gather import network
from kit.doctor.gather.network import ask, registry_host
from kit.doctor.request import Request
from kit.memory.unavailable import Unavailable
from kit.settings import Settings

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextmanager
def serving(status: int = 200, date: str | None = formatdate(NOW, usegmt=True)):
    """A real server that answers every HEAD so; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("status", [200, 204, 302, 401, 403, 404, 405])
def test_any_answer_will_do(status):
    with serving(status) as url:
        reply = ask(f"{url}/x?secret=1", "a test", clock=lambda: NOW)
    assert (reply.url, reply.why, reply.problem) == (f"{url}/x", "a test", None)
    assert reply.server_ahead_seconds == 0.0


@pytest.mark.parametrize("status", [407, 500, 502, 503])
def test_errors_of_gateways_and_servers(status):
    with serving(status) as url:
        assert ask(url, "a test").problem == f"HTTP {status}"


@pytest.mark.parametrize("ahead", [-300.0, 300.0])
def test_the_clock_is_compared(ahead):
    with serving() as url:
        reply = ask(url, "a test", clock=lambda: NOW - ahead)
    assert reply.server_ahead_seconds == ahead


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_no_date(date):
    with serving(date=date) as url:
        assert isinstance(ask(url, "a test").server_ahead_seconds, Unavailable)


def test_nobody_there(closed_port):
    reply = ask(f"http://user:secret@127.0.0.1:{closed_port}/x", "a test")
    assert reply.url == f"http://127.0.0.1:{closed_port}/x"
    assert "refused" in reply.problem


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reply = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", "a test")
    assert reply.problem == "timed out"


@pytest.mark.parametrize("url", ["http://[", "nonsense", "http://127.0.0.1:99999999"])
def test_an_address_that_is_none(url):
    assert ask(url, "a test").problem


def test_a_folder_as_a_mirror(tmp_path):
    assert ask(f"file://{tmp_path}", "a test").problem is None
    assert ask(f"file://{tmp_path}/none", "a test").problem == "there is nothing at that place"


@pytest.fixture
def request_(tmp_path):
    return Request(Settings(tmp_path, tmp_path), environ={"PATH": "/usr/bin:/bin"})


def test_the_mirror_comes_instead_of_the_sources(request_):
    with serving() as url:
        settings = replace(request_.settings, weights_mirror=url)
        replies = network.look_at_weights_sources(replace(request_, settings=settings), Facts())
    assert [(reply.url, reply.why) for reply in replies] == [(url, "KIT_WEIGHTS_MIRROR")]


CATALOGUE = """
[sources.gitee]
kind = "lfs"
what = "a test"
repository = "{url}/one"
[sources.openi]
kind = "openi"
what = "a test"
endpoint = "{url}/two"
repository = "x/y"
"""


def test_every_source_of_the_catalogue_and_the_hub(request_, tmp_path):
    with serving() as url:
        own = tmp_path / "own.toml"
        own.write_text(CATALOGUE.format(url=url))
        asked = replace(
            request_,
            settings=replace(request_.settings, weights_catalogue=own),
            environ={"HF_ENDPOINT": f"{url}/hub"},
        )
        replies = network.look_at_weights_sources(asked, Facts())
    assert [(reply.url.removeprefix(url), reply.why) for reply in replies] == [
        ("/one", "source gitee"),
        ("/two", "source openi"),
        ("/hub", "HF_ENDPOINT"),
    ]
    assert all(reply.problem is None for reply in replies)


def test_offline_nothing_is_asked(request_, tmp_path):
    offline = replace(request_, offline=True)
    for look in (
        network.look_at_weights_sources,
        network.look_at_index,
        network.look_at_registry,
    ):
        assert isinstance(look(offline, Facts()), Unavailable)
    settings = replace(request_.settings, weights_mirror=f"file://{tmp_path}")
    local = network.look_at_weights_sources(replace(offline, settings=settings), Facts())
    assert local[0].problem is None


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("", None),
        ("debian", None),
        ("nvidia/cuda:12.8", None),
        ("ghcr.example/team/spark-kit:1", "ghcr.example"),
        ("localhost/spark-kit", "localhost"),
        ("registry:5000/spark-kit", "registry:5000"),
    ],
)
def test_registry_host(image, host):
    assert registry_host(image) == host


def test_the_registry_is_the_engines(request_):
    with serving() as url:
        facts = Facts(docker=Docker("28", registries=(f"{url}/v1/", "https://other.example/")))
        reply = network.look_at_registry(request_, facts)
    assert (reply.url, reply.problem) == (f"{url}/v2/", None)


def test_the_registry_of_an_image_that_is_named(request_, closed_port):
    image = f"127.0.0.1:{closed_port}/spark-kit:1"
    asked = replace(request_, environ={"KIT_IMAGE": image})
    reply = network.look_at_registry(asked, Facts(docker=Docker("28")))
    assert (reply.url, reply.why) == (f"https://127.0.0.1:{closed_port}/v2/", "KIT_IMAGE")
    assert reply.problem


def test_no_registry_is_known(request_):
    assert isinstance(network.look_at_registry(request_, Facts()), Unavailable)
    assert isinstance(network.look_at_registry(request_, Facts(docker=Docker("28"))), Unavailable)


def test_pip_is_asked_with_its_own_configuration(request_, tmp_path, closed_port, monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 60.0)  # of a busy machine
    pytest.importorskip("pip", reason="pip is not installed here")
    nowhere = {
        "PATH": "/usr/bin:/bin",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"http://127.0.0.1:{closed_port}/simple",
    }
    reply = network.look_at_index(replace(request_, environ=nowhere), Facts())
    assert reply.why == "PIP_INDEX_URL"
    assert "No matching distribution found for torch" in reply.problem
    (tmp_path / "torch-99.0-py3-none-any.whl").write_bytes(b"")
    there = nowhere | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    assert network.look_at_index(replace(request_, environ=there), Facts()).problem is None


def test_without_pip(request_, monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2; exit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    assert network.look_at_index(request_, Facts()) == Unavailable(
        "pip is not installed beside the kit"
    )
