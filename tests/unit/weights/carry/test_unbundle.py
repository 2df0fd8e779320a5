"""Bundles that are damaged or mean harm."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.carry.bundle import bundle
from kit.weights.carry.unbundle import unbundle
from kit.weights.fetch.transfer import Watch
from kit.weights.layers import read_layers
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


@pytest.mark.parametrize(
    "names",
    [
        ("kit.lock/x",),
        ("kit.lock/x", "kit.lock/conversion.json"),
        ("licences.json/x", "licences.json/conversion.json"),
        ("tiny-bf16/config.json",),
        ("checkpoints/x",),
        ("licences/x.sh",),
        ("x-bf16/conversion.json", "x-bf16/deep/er"),
        ("checkpoints/x/a", "checkpoints/x/a/b"),
    ],
)
def test_only_the_places_of_weights_are_filled(tmp_path: Path, names: tuple[str, ...]) -> None:
    members = [(plain(name), b"x") for name in names]
    path = evil_tar(tmp_path / "b.tar", *members, names=dict.fromkeys(names, b"x"))
    with pytest.raises(IntegrityError, match="no place for weights"):
        unbundle(path, tmp_path / "other", Watch())
    assert not (tmp_path / "other").exists()


def bundled_lock(made: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((made / "MANIFEST.json").read_text())
    change(manifest["lock"]["tiny"])
    (made / "MANIFEST.json").write_text(json.dumps(manifest))


def test_a_bundles_lock_speaks_of_its_own_files_and_for_no_repository(
    data: Path, tmp_path: Path
) -> None:
    made = bundle(["tiny"], tmp_path / "b", data, Watch()).path
    bundled_lock(made, lambda lock: lock["w.pt"].update(basis="pointer"))
    unbundle(made, tmp_path / "other", Watch())
    assert read_layers(tmp_path / "other").weights["tiny"]["w.pt"].basis == "observed"
    bundled_lock(made, lambda lock: lock.update(more=lock["w.pt"]))
    with pytest.raises(IntegrityError, match="speaks of tiny/more, which the bundle does not"):
        unbundle(made, tmp_path / "third", Watch())


def hostile_tar(size: bytes, pax: bytes = b"") -> bytes:
    def header(name: bytes, kind: bytes, size: bytes) -> bytes:
        field = size if size[:1] in (b"\x80", b"\xff") else size.rjust(11, b"0") + b"\0"
        block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"0" * 11 + b"\0"
        block = (block + b" " * 8 + kind).ljust(257, b"\0") + b"ustar\x0000"
        block = block.ljust(512, b"\0")
        return block[:148] + b"%06o\0 " % sum(block) + block[156:]

    extended = header(b"p", b"x", b"%o" % len(pax)) + pax.ljust(512 * -(-len(pax) // 512), b"\0")
    return (extended if pax else b"") + header(b"checkpoints/x/w", b"0", size) + b"\0" * 1024


def pax(text: bytes) -> bytes:
    length = next(n for n in range(len(text), len(text) + 9) if len(b"%d " % n) + len(text) == n)
    return b"%d " % length + text


@pytest.mark.parametrize(
    "content",
    [
        hostile_tar(b"\x80" + (2**88 - 1).to_bytes(11, "big")),
        hostile_tar(b"\xff" * 12),
        hostile_tar(b"1", pax(b"size=" + b"9" * 5000 + b"\n")),
        hostile_tar(b"1", pax(b"size=99999999999999999999999\n")),
        hostile_tar(b"1", pax(b"size=-512\n")),
        hostile_tar(b"1", pax(b"path=\x1b[2J\n")),
        hostile_tar(b"1", b"9" * 5000 + b" size=1\n"),
    ],
)
def test_numbers_that_no_tar_has(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises((IntegrityError, EnvironmentNotReady)) as caught:
        unbundle(tmp_path / "b.tar", tmp_path / "other", Watch())
    assert caught.value.message.isprintable() and len(caught.value.message) < 500
    assert not (tmp_path / "other").exists()


def test_a_size_that_no_file_has(data: Path, tmp_path: Path) -> None:
    made = bundle(["tiny"], tmp_path / "b", data, Watch()).path
    bundled_lock(made, lambda lock: lock["w.pt"].update(size=2**88))
    with pytest.raises(IntegrityError, match="a size is expected"):
        unbundle(made, tmp_path / "other", Watch())


def test_a_pipe_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(IntegrityError, match="it is a pipe"):
        unbundle(tmp_path / "b.tar", tmp_path / "other", Watch())
