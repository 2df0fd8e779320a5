import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, KitError, UsageError
from kit.lock import LockedFile
from kit.weights.bundle import bundle
from kit.weights.convert import convert_checkpoint
from kit.weights.folder import checkpoint_dir
from kit.weights.layers import read_layers, record
from kit.weights.lock import lock_files
from kit.weights.record import read_record
from kit.weights.transfer import Watch
from kit.weights.unbundle import unbundle

FILES = {"w.pt": os.urandom(3_000_000), "Tokenizer/t.model": b"tokenizer"}
FORMS = ("bundle", "bundle.tar")


@pytest.fixture
def data(tmp_path: Path, source: Path) -> Path:
    """A data folder with a fetched set, a converted directory and a licence's text."""
    data_dir = tmp_path / "data"
    directory = checkpoint_dir(data_dir, "tiny")
    for file, content in FILES.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(content)
    found = lock_files(directory, FILES)
    record(data_dir, "tiny", {f: replace(e, basis="observed") for f, e in found.items()})
    convert_checkpoint(source, data_dir / "tiny-bf16")
    (data_dir / "licences").mkdir()
    (data_dir / "licences" / "own.md").write_text("terms")
    return data_dir


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(data: Path, tmp_path: Path, form: str) -> None:
    seen: list[tuple[int, int]] = []
    watch = Watch(progress=lambda done, total: seen.append((done, total)))
    made = bundle(["tiny", "tiny-bf16"], tmp_path / form, data, watch)
    assert made.has_licence
    assert seen[-1][0] == seen[-1][1] == sum(e.size_bytes for e in made.files.values())
    other = tmp_path / "other"
    folders = unbundle(made.path, other, watch)
    assert folders == ("checkpoints/tiny", "licences", "tiny-bf16")
    for folder in folders:
        assert contents(other / folder) == contents(data / folder)
    assert read_layers(other).weights["tiny"] == read_layers(data).weights["tiny"]
    converted = read_record(other / "tiny-bf16")
    assert converted is not None and converted.is_intact(other / "tiny-bf16")
    left = [p.name for p in other.rglob(".*") if not p.name.endswith(".lock")]
    assert set(left) == {".verified.json"}
    assert unbundle(made.path, other, Watch()) == folders


def test_other_tools_can_check_and_unpack_it(data: Path, tmp_path: Path) -> None:
    bundle(["tiny"], tmp_path / "b.tar", data, Watch())
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "b.tar", "-C", out], check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    assert unbundle(out, tmp_path / "other", Watch())


@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_give_the_same_bytes(data: Path, tmp_path: Path, form: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        bundle(["tiny"], tmp_path / name / form, data, Watch())
    if form.endswith(".tar"):
        assert (tmp_path / "one" / form).read_bytes() == (tmp_path / "two" / form).read_bytes()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


CHILD = """
import os, signal, sys
from pathlib import Path
from kit.weights import copy, tarball
from kit.weights.bundle import bundle
from kit.weights.transfer import Watch
from kit.weights.unbundle import unbundle

copy.COMMIT_S = tarball._COMMIT_S = 0.0
copy.copy_file.__kwdefaults__["block_bytes"] = tarball._CHUNK_BYTES = 1 << 16

def die(done, total):
    if done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "bundle":
    bundle(["tiny", "tiny-bf16"], Path(sys.argv[2]), Path(sys.argv[3]), Watch(die))
else:
    unbundle(Path(sys.argv[2]), Path(sys.argv[3]), Watch(die))
"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [100_000, 2_900_000, 3_000_009])
def test_kill_9_on_both_ends(data: Path, tmp_path: Path, form: str, at: int) -> None:
    made, other = tmp_path / form, tmp_path / "other"
    for action, first, second in (("bundle", made, data), ("unbundle", made, other)):
        command = [sys.executable, "-c", CHILD, action, first, second, str(at)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        if action == "bundle":
            with pytest.raises(KitError):
                unbundle(made, other, Watch())
            bundle(["tiny", "tiny-bf16"], made, data, Watch())
    unbundle(made, other, Watch())
    assert contents(other / "checkpoints") == contents(data / "checkpoints")
    assert contents(other / "tiny-bf16") == contents(data / "tiny-bf16")


def test_a_tar_goes_on_where_it_was_killed(data: Path, tmp_path: Path) -> None:
    made = tmp_path / "b.tar"
    command = [sys.executable, "-c", CHILD, "bundle", made, data, "2900000"]
    subprocess.run(command, check=False)
    partial = tmp_path / ".b.tar.partial"
    written = json.loads((tmp_path / ".b.tar.journal").read_text())["written"]
    assert written > 2_800_000
    with partial.open("r+b") as file:  # what was written is left alone: this survives
        file.seek(100_000)
        file.write(b"marker")
    bundle(["tiny", "tiny-bf16"], made, data, Watch())
    assert made.read_bytes()[100_000:100_006] == b"marker"
    with pytest.raises(IntegrityError, match=r"w\.pt"):
        unbundle(made, tmp_path / "other", Watch())


@pytest.mark.parametrize("form", FORMS)
def test_damage_on_the_way_is_found(data: Path, tmp_path: Path, form: str) -> None:
    made, other = bundle(["tiny"], tmp_path / form, data, Watch()).path, tmp_path / "other"
    victim = made if made.is_file() else made / "checkpoints" / "tiny" / "w.pt"
    content = bytearray(victim.read_bytes())
    content[1_500_000] ^= 1
    victim.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"w\.pt .*sha256"):
        unbundle(made, other, Watch())
    assert not (other / "checkpoints" / "tiny" / "w.pt").exists()
    assert "tiny" not in read_layers(other).weights
    victim.write_bytes(content[: len(content) // 2])
    with pytest.raises(KitError):
        unbundle(made, other, Watch())


def test_damage_before_the_way_is_found(data: Path, tmp_path: Path) -> None:
    path = checkpoint_dir(data, "tiny") / "w.pt"
    path.write_bytes(bytes(len(FILES["w.pt"])))
    for form in FORMS:
        with pytest.raises(IntegrityError, match="sha256"):
            bundle(["tiny"], tmp_path / form, data, Watch())
        with pytest.raises(EnvironmentNotReady):
            unbundle(tmp_path / form, tmp_path / "other", Watch())


def test_what_is_not_there_is_not_bundled(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="neither a set"):
        bundle(["none"], tmp_path / "b", data, Watch())
    (checkpoint_dir(data, "tiny") / "w.pt").unlink()
    with pytest.raises(EnvironmentNotReady, match="not complete"):
        bundle(["tiny"], tmp_path / "b", data, Watch())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UsageError, match="is no bundle"):
        bundle(["tiny-bf16"], tmp_path / "photos", data, Watch())


def test_other_content_of_the_same_name_stays(data: Path, tmp_path: Path) -> None:
    made, other = bundle(["tiny-bf16"], tmp_path / "b", data, Watch()).path, tmp_path / "other"
    unbundle(made, other, Watch())
    (other / "tiny-bf16" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json is there and differs"):
        unbundle(made, other, Watch())
    assert (other / "tiny-bf16" / "config.json").read_text() == "{}"


def test_a_lock_that_says_otherwise(data: Path, tmp_path: Path) -> None:
    made, other = bundle(["tiny"], tmp_path / "b", data, Watch()).path, tmp_path / "other"
    record(other, "tiny", {"w.pt": LockedFile(3, "0" * 64, "observed", "x", "2024-01-01")})
    with pytest.raises(IntegrityError, match="the lock says 0000"):
        unbundle(made, other, Watch())
    assert not (other / "checkpoints").exists()


# --- bundles that mean harm


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
