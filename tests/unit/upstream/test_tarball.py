"""Tars as git, forges and tar(1) make them, and such as nobody should."""

import io
import tarfile
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.upstream.source import read_tarball

CONTENT = {"LICENSE": b"free", "code/a.py": b"a" * 5000, "code/deep/b.py": b"b"}


def tar(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, what in members.items():
            if isinstance(what, tarfile.TarInfo):
                archive.addfile(what)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(what)
            archive.addfile(info, io.BytesIO(what))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("leading", ["", "./", "Spark-10f3/", "./Spark-10f3/"])
def test_layouts_and_compressions(leading: str, mode: str, tmp_path: Path) -> None:
    other = {"README.md": b"", "mindformers/LICENSE": b"other", "code/__pycache__/a.pyc": b""}
    members = {f"{leading}{name}": data for name, data in (CONTENT | other).items()}
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar({leading or "code": folder(leading or "code"), **members}, mode))
    found = read_tarball(path, "x", CONTENT)
    assert (found.content, found.extra) == (CONTENT, ())
    assert read_tarball(path.read_bytes(), "x", CONTENT) == found


def test_what_is_extra_is_named() -> None:
    found = read_tarball(tar(CONTENT | {"code/new.py": b""}), "x", CONTENT)
    assert found.extra == ("code/new.py",)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "code/../../a", "code/..", "a\\b", "Spark/../../x"]
)
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="would lead out of its folder"):
        read_tarball(tar(CONTENT | {name: b"x"}), "x", CONTENT)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "a.py", "code/a.py"])
def test_links_are_not_followed(kind: bytes, target: str) -> None:
    members = CONTENT | {"code/deep/b.py": link("code/deep/b.py", target, kind)}
    found = read_tarball(tar(members), "x", CONTENT)
    assert found.content.keys() == {"LICENSE", "code/a.py"}
    assert found.extra == ("code/deep/b.py",)


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"<html>", tar(CONTENT)[:120]])
def test_damage_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"x\.tgz is damaged or no tar$"):
        read_tarball(path, str(path), CONTENT)


def test_damage_inside() -> None:
    content = bytearray(tar(CONTENT))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises((IntegrityError, EnvironmentNotReady)):
        read_tarball(bytes(content), "x", CONTENT)


def test_a_tar_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="cannot read it: No such file"):
        read_tarball(tmp_path / "absent", "it", CONTENT)
