"""Every way that upstream may come in, with real git and a real HTTP server."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.upstream.source import read_source
from tests.upstream_tree import MEGATRON, StandIn, commit_all, git

STRAY = f"{MEGATRON}/tools/stand_in.py"


@pytest.fixture
def clone(tmp_path: Path, stand_in: StandIn) -> Path:
    shutil.copytree(stand_in.repository, tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def tarball(tmp_path: Path, stand_in: StandIn) -> Callable[[str], Path]:
    def make(prefix: str = "stand-in-master/") -> Path:
        path = tmp_path / "stand-in.tar.gz"
        git(stand_in.repository, "archive", f"--prefix={prefix}", f"--output={path}", "HEAD")
        return path

    return make


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Serves the folder ``www``: its address. A git server of the dumb protocol, too."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(source: str | Path, stand_in: StandIn) -> dict[str, bytes]:
    content = read_source(str(source), stand_in.lock)
    assert content.keys() == stand_in.lock.upstream_files.keys()
    return content


def test_a_git_address(stand_in: StandIn) -> None:
    content = read(f"file://{stand_in.repository}", stand_in)
    assert content[STRAY] == (stand_in.repository / STRAY).read_bytes()
    assert "README.md" not in content


def test_a_git_server_that_gives_no_commit_by_name(
    stand_in: StandIn, served: str, tmp_path: Path
) -> None:
    """Over http, without git's own protocol: neither shallow nor by the commit's name."""
    bare = tmp_path / "www" / "spark.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(stand_in.repository), str(bare))
    git(bare, "update-server-info")
    read(f"{served}/spark.git", stand_in)


@pytest.mark.parametrize("prefix", ["", "stand-in-master/"])
def test_a_tarball(prefix: str, stand_in: StandIn, tarball: Callable[[str], Path]) -> None:
    read(tarball(prefix), stand_in)


def test_a_tarball_at_a_server(
    stand_in: StandIn, served: str, tmp_path: Path, tarball: Callable[[], Path]
) -> None:
    shutil.move(tarball(), tmp_path / "www" / "x.tar.gz")
    read(f"{served}/x.tar.gz?ref=1", stand_in)
    with pytest.raises(EnvironmentNotReady, match=r"no tarball at .*/y\.tar\.gz: .* 404") as caught:
        read(f"{served}/y.tar.gz", stand_in)
    assert "--from" in caught.value.hint


def test_a_folder_without_git(stand_in: StandIn, clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    read(clone, stand_in)


def test_a_clone_that_is_at_the_commit(stand_in: StandIn, clone: Path) -> None:
    (clone / "README.md").write_text("what the kit does not take may differ")
    read(clone, stand_in)


def test_a_clone_that_is_at_another_commit(stand_in: StandIn, clone: Path) -> None:
    (clone / STRAY).write_text("later")
    commit_all(clone)
    content = read(clone, stand_in)
    assert content[STRAY] == (stand_in.repository / STRAY).read_bytes()


def test_a_bare_clone(stand_in: StandIn, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(stand_in.repository), str(tmp_path / "bare"))
    read(tmp_path / "bare", stand_in)


@pytest.mark.parametrize("keeps_git", [True, False])
def test_a_local_tree_that_differs_is_refused_by_name(
    keeps_git: bool, stand_in: StandIn, clone: Path
) -> None:
    (clone / STRAY).write_text("changed")
    (clone / MEGATRON / "new.py").write_text("")
    if not keeps_git:
        shutil.rmtree(clone / ".git")
    with pytest.raises(IntegrityError) as caught:
        read(clone, stand_in)
    assert f"{STRAY} differs; {MEGATRON}/new.py does not belong" in caught.value.message


def test_a_tarball_that_differs_is_refused_by_name(stand_in: StandIn, clone: Path) -> None:
    (clone / "LICENSE").unlink()
    path = clone.parent / "x.tgz"
    subprocess.run(["tar", "czf", path, "-C", clone, "."], check=True)
    with pytest.raises(IntegrityError, match=r"x\.tgz is drifted: LICENSE is missing"):
        read(path, stand_in)


def test_a_repository_without_the_commit(stand_in: StandIn, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    (other / "LICENSE").write_text("another")
    commit_all(other)
    for source in (f"file://{other}", str(other)):
        with pytest.raises(EnvironmentNotReady, match=f"has no commit {stand_in.commit}") as caught:
            read(source, stand_in)
        assert "--from" in caught.value.hint


def test_a_repository_out_of_reach_is_told_without_its_password(stand_in: StandIn) -> None:
    with pytest.raises(EnvironmentNotReady) as caught:
        read("http://user:secret@127.0.0.1:9/spark.git", stand_in)
    assert "git cannot read http://127.0.0.1:9/spark.git" in caught.value.message
    assert "secret" not in caught.value.message
    assert "KIT_UPSTREAM_MIRROR" in caught.value.hint


@pytest.mark.parametrize("source", ["/no/such/folder", "spark.tar.gz", "--upload-pack=x", "ext::x"])
def test_what_is_neither_an_address_nor_there(source: str, stand_in: StandIn) -> None:
    with pytest.raises(UsageError, match=f"there is no {source}"):
        read(source, stand_in)
