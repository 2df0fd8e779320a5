"""Weights packed and unpacked: the same on the other side, or an error."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, KitError, UsageError
from kit.lock import LockedFile
from kit.weights.carry.bundle import bundle
from kit.weights.carry.unbundle import unbundle
from kit.weights.convert.record import read_record
from kit.weights.fetch.transfer import Watch
from kit.weights.folder import checkpoint_dir
from kit.weights.layers import read_layers, record
from tests.bundles import FILES, contents

FORMS = ("bundle", "bundle.tar")


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
from kit.weights.carry import tarball
from kit.weights.fetch import partial
from kit.weights.carry.bundle import bundle
from kit.weights.fetch.transfer import Watch
from kit.weights.carry.unbundle import unbundle

partial.COMMIT_S = tarball._COMMIT_S = 0.0
partial.copy_file.__kwdefaults__["block_bytes"] = tarball._CHUNK_BYTES = 1 << 16

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
