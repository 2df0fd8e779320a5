"""What git is not to be led astray by."""

import io
import tarfile
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.upstream.git import TOPS, head, read_commit, shown
from tests.upstream_tree import MEGATRON, StandIn, commit_all, git


def files(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {
            member.name: data.read()
            for member in archive
            if member.isreg() and (data := archive.extractfile(member))
        }


def test_no_git(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentNotReady, match="git is not installed") as caught:
        read_commit(str(stand_in.repository), stand_in.commit, ["LICENSE"])
    assert "--from FILE.tar.gz" in caught.value.hint
    assert head(stand_in.repository) is None


def test_the_bytes_are_upstreams_own(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, tmp_path: Path
) -> None:
    """Whatever a user has git do to line ends."""
    (tmp_path / ".gitconfig").write_text("[core]\n autocrlf = true\n eol = crlf\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    found = files(read_commit(str(stand_in.repository), stand_in.commit, TOPS))
    assert found["LICENSE"] == (stand_in.repository / "LICENSE").read_bytes()
    assert found.keys() == stand_in.lock.upstream_files.keys()


def test_called_from_a_hook_of_another_repository(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert files(read_commit(str(stand_in.repository), stand_in.commit, ["LICENSE"]))
    assert head(stand_in.repository) == stand_in.commit
    assert not list(tmp_path.iterdir())


def test_a_commit_on_no_branch(stand_in: StandIn, tmp_path: Path) -> None:
    """It is asked for by its name, so it need not be the tip of anything."""
    repository = tmp_path / "more"
    git(tmp_path, "clone", "--quiet", str(stand_in.repository), str(repository))
    (repository / "LICENSE").write_text("later")
    commit_all(repository)
    found = files(read_commit(str(repository), stand_in.commit, ["LICENSE"]))
    assert found["LICENSE"] == (stand_in.repository / "LICENSE").read_bytes()


def test_a_server_that_gives_only_what_it_advertises(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, tmp_path: Path
) -> None:
    """As servers of the first protocol do; the commit comes with the branch that it is on."""
    git(tmp_path, "clone", "--quiet", str(stand_in.repository), str(tmp_path / "more"))
    (tmp_path / "more" / "LICENSE").write_text("later")
    commit_all(tmp_path / "more")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")
    found = files(read_commit(f"file://{tmp_path}/more", stand_in.commit, ["LICENSE"]))
    assert found["LICENSE"] == (stand_in.repository / "LICENSE").read_bytes()


def test_head(stand_in: StandIn, tmp_path: Path) -> None:
    assert head(stand_in.repository) == stand_in.commit
    assert head(stand_in.repository / MEGATRON) is None
    assert head(tmp_path) is None
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    assert head(tmp_path) is None


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("https://user:word@host:8/x.git", "https://host:8/x.git"),
        ("https://host/x@y", "https://host/x@y"),
        ("git@host:x/y.git", "git@host:x/y.git"),
        ("/a/b@c", "/a/b@c"),
    ],
)
def test_passwords_are_not_shown(address: str, text: str) -> None:
    assert shown(address) == text
