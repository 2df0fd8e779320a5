"""A Hugging Face repository, from a stand-in of the Hub that the real huggingface_hub talks to."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.errors import UsageError
from kit.weights.fetch.obtain import snapshot
from tests.file_server import Exchange, FileServer

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

COMMIT = "c0ffee" + "0" * 34
BIG = os.urandom((1 << 20) + 7)
SHA = hashlib.sha256(BIG).hexdigest()
FILES = {
    "model.safetensors": BIG,
    "config.json": b'{"model_type": "iflytekspark"}',
    "sub/tokenizer.model": b"pieces",
    "pytorch_model.bin": b"a pickle",
}
CHILD = """
import json, os, sys
from pathlib import Path
from kit.errors import KitError
from kit.weights.fetch.obtain import fetch_repository
from kit.weights.fetch.transfer import Watch

try:
    found = fetch_repository(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Watch())
except KitError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
entries = {f: [e.sha256, e.basis, e.size_bytes] for f, e in found.files.items()}
print(json.dumps({"name": found.name, "files": entries}))
"""


def hub(content: dict[str, bytes]) -> FileServer:
    """The routes of huggingface.co that a snapshot needs."""
    server = FileServer()

    def info(exchange: Exchange) -> None:
        siblings = [{"rfilename": name} for name in content]
        body = {"id": "me/spark", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        exchange.status(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def tree(exchange: Exchange) -> None:
        body = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
            | ({"lfs": {"oid": SHA, "size": len(data), "pointerSize": 134}} if data is BIG else {})
            for name, data in content.items()
        ]
        exchange.status(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def resolve(exchange: Exchange) -> None:
        name = exchange.request.path.partition("?")[0].split(f"/resolve/{COMMIT}/")[1]
        data = content[name]
        etag = SHA if name == "model.safetensors" else hashlib.sha1(data).hexdigest()  # noqa: S324
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if exchange.request.method == "HEAD":
            exchange.handler.send_response(200)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                exchange.handler.send_header(key, value)
            exchange.handler.end_headers()
        else:
            exchange.status(200, headers, data)

    server.always["/api/models/me/spark"] = info
    server.always["/api/models/me/spark/revision/main"] = info
    server.always[f"/api/models/me/spark/tree/{COMMIT}"] = tree
    for name in content:
        server.always[f"/me/spark/resolve/{COMMIT}/{name}"] = resolve
    return server


@pytest.fixture
def server() -> Iterator[FileServer]:
    with hub(dict(FILES)) as running:
        yield running


def fetch(server: FileServer, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": server.url(),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", CHILD, "hf:me/spark", tmp_path / "out", tmp_path / "data"]
    return subprocess.run(
        command, env=kept | settings | environ, capture_output=True, text=True, check=False
    )


def test_a_conversion_arrives_through_the_hubs_cache(server: FileServer, tmp_path: Path) -> None:
    done = fetch(server, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["name"] == f"hf:me/spark@{COMMIT}"
    assert found["files"]["model.safetensors"] == [SHA, "pointer", len(BIG)]
    assert found["files"]["config.json"][1] == "observed"
    assert "pytorch_model.bin" not in found["files"]
    out = tmp_path / "out"
    assert (out / "model.safetensors").read_bytes() == BIG
    assert (out / "sub" / "tokenizer.model").read_bytes() == b"pieces"
    [blob] = (tmp_path / "hf").rglob(f"blobs/{SHA}")
    assert (out / "model.safetensors").samefile(blob)
    server.requests.clear()
    offline = fetch(server, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout)["files"].keys() == found["files"].keys()
    assert server.requests == []


def test_content_that_is_not_what_the_hub_says(server: FileServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path).returncode == 0
    [blob] = (tmp_path / "hf").rglob(f"blobs/{SHA}")
    blob.write_bytes(bytes(len(BIG)))
    done = fetch(server, tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert f"{SHA} is expected" in done.stderr


def test_offline_and_not_in_the_cache(server: FileServer, tmp_path: Path) -> None:
    done = fetch(server, tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "HF_HUB_OFFLINE" in done.stderr
    assert server.requests == []


@pytest.mark.parametrize("name", ["hf:spark", "hf:me/spark@", "hf:me/spark/x", "hf:../x y"])
def test_names_of_no_repository(name: str) -> None:
    with pytest.raises(UsageError, match="names no repository"):
        snapshot(name)
