"""Bundles that are damaged or mean harm."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.bundle import bundle
from kit.weights.transfer import Watch
from kit.weights.unbundle import unbundle
from tests.bundles import contents


def evil_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], names: dict[str, bytes]) -> Path:
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in names.items()
    }
    manifest = json.dumps({"version": 1, "files": files, "lock": {}}).encode()
    with tarfile.open(path, "w") as tar:
        for info, content in (*members, (tarfile.TarInfo("MANIFEST.json"), manifest)):
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def plain(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("checkpoints/x/w")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "checkpoints/../../evil",
        "/tmp/evil-absolute",
        "checkpoints/x/../../../evil",
        "kit.lock",
        "checkpoints/x/.verified.json",
        ".ssh/authorized_keys",
        "x/",
        "a//b",
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    other = tmp_path / "deep" / "other"
    path = evil_tar(tmp_path / "b.tar", (plain(name), b"evil"), names={name: b"evil"})
    with pytest.raises(IntegrityError):
        unbundle(path, other, Watch())
    assert not other.exists() or not contents(other)
    assert not list(tmp_path.rglob("evil*"))
    folder = tmp_path / "b"
    folder.mkdir()
    with tarfile.open(path) as tar:
        manifest = tar.extractfile("MANIFEST.json")
        assert manifest is not None
        (folder / "MANIFEST.json").write_bytes(manifest.read())
    (tmp_path / "evil").write_bytes(b"evil")
    with pytest.raises(IntegrityError):
        unbundle(folder, other, Watch())


@pytest.mark.parametrize(
    "member",
    [
        link(tarfile.SYMTYPE, "/etc/passwd"),
        link(tarfile.LNKTYPE, "../../../etc/passwd"),
        link(tarfile.FIFOTYPE, ""),
        link(tarfile.CHRTYPE, ""),
    ],
)
def test_links_and_devices(tmp_path: Path, member: tarfile.TarInfo) -> None:
    path = evil_tar(tmp_path / "b.tar", (member, b""), names={"checkpoints/x/w": b""})
    with pytest.raises(IntegrityError, match="not a plain file"):
        unbundle(path, tmp_path / "other", Watch())


def test_a_link_in_a_folder(data: Path, tmp_path: Path) -> None:
    made = bundle(["tiny"], tmp_path / "b", data, Watch()).path
    victim = made / "checkpoints" / "tiny" / "w.pt"
    victim.rename(tmp_path / "outside")
    victim.symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="is a link"):
        unbundle(made, tmp_path / "other", Watch())


def test_members_twice_and_members_unknown(tmp_path: Path) -> None:
    twice = [(plain("a/b"), b"x"), (plain("a/b"), b"y")]
    path = evil_tar(tmp_path / "b.tar", *twice, names={"a/b": b"y"})
    with pytest.raises(IntegrityError, match="there twice"):
        unbundle(path, tmp_path / "other", Watch())
    path = evil_tar(
        tmp_path / "c.tar", (plain("a/b"), b"x"), (plain("a/c"), b"y"), names={"a/b": b"x"}
    )
    with pytest.raises(IntegrityError, match="is not in its MANIFEST"):
        unbundle(path, tmp_path / "other", Watch())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"version": 2},
        lambda m: {},
        lambda m: [],
        lambda m: m | {"files": {"a/b": {"size": -1, "sha256": "0" * 64}}},
        lambda m: m | {"files": {"a/b": {"size": 1}}},
        lambda m: m | {"lock": []},
    ],
)
def test_damaged_manifests(data: Path, tmp_path: Path, change: Callable[..., object]) -> None:
    made = bundle(["tiny"], tmp_path / "b", data, Watch()).path
    manifest = json.loads((made / "MANIFEST.json").read_text())
    (made / "MANIFEST.json").write_text(json.dumps(change(manifest)))
    with pytest.raises(IntegrityError, match=r"MANIFEST\.json of the bundle is damaged"):
        unbundle(made, tmp_path / "other", Watch())


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no tar at all" * 100)
    with pytest.raises(IntegrityError, match="not a tar"):
        unbundle(tmp_path / "x", tmp_path / "other", Watch())
    with pytest.raises(EnvironmentNotReady, match="there is no"):
        unbundle(tmp_path / "y", tmp_path / "other", Watch())
