"""Certificates: a company's own authority, an unknown one, and no way down from https to http."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.fetch.ask import read_start
from kit.weights.fetch.download import download
from kit.weights.fetch.http import Location
from tests.file_server import FileServer, Served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "both.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-nodes", "-days", "2", "-keyout", folder / "key", "-out", folder / "cert"]
    subprocess.run([*request, *subject, *files], check=True, capture_output=True)
    path.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[FileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FileServer({"/w": Served(b"weights")}, context=context) as running:
        yield running


def test_an_unknown_authority_is_refused_at_once(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="certificate of 127") as caught:
        download(lambda: Location(server.url("/w")), tmp_path / "w")
    assert "SSL_CERT_FILE" in caught.value.hint
    with pytest.raises(EnvironmentNotReady, match="certificate of 127"):
        read_start(Location(server.url("/w")), 10)


def test_an_own_authority_is_believed(
    server: FileServer, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(certificate))
    download(lambda: Location(server.url("/w")), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"weights"
    assert read_start(Location(server.url("/w")), 3) == b"wei"


def test_no_redirect_gives_up_tls(
    server: FileServer, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(certificate))
    with FileServer({"/w": Served(b"weights")}) as plain:
        onward = {"Location": plain.url("/w")}
        server.always["/w"] = lambda exchange: exchange.status(302, onward)
        with pytest.raises(EnvironmentNotReady, match="redirects from https to http"):
            download(lambda: Location(server.url("/w")), tmp_path / "w")
        with pytest.raises(EnvironmentNotReady, match="redirects from https to http"):
            read_start(Location(server.url("/w")), 3)
        assert plain.requests == []


def test_a_proxy_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer({"http://weights.example/w": Served(b"by proxy")}) as proxy:
        monkeypatch.setitem(os.environ, "HTTP_PROXY", proxy.url())
        download(lambda: Location("http://weights.example/w"), tmp_path / "w")
        assert (tmp_path / "w").read_bytes() == b"by proxy"
        assert {request.headers["Host"] for request in proxy.requests} == {"weights.example"}
