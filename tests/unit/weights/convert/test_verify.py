import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import read_record
from kit.weights.convert.verify import (
    Checked,
    require_sound,
    verify_all,
    verify_conversion,
    verify_one,
    verify_set,
)
from kit.weights.fetch.transfer import Watch
from kit.weights.folder import checkpoint_dir, digest_of, known_digest
from kit.weights.layers import lock_files, record
from tests.held_back import held_back, open_folder

FILES = ("w.pt", "Tokenizer/t.model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = checkpoint_dir(tmp_path, "tiny")
    for file in FILES:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(os.urandom(1000))
    record(tmp_path, "tiny", lock_files(directory, FILES))
    return directory


def problems(name: str, data_dir: Path) -> list[str]:
    found = verify_one(name, Path(name), data_dir, Watch())
    return [f"{r.path.name} {r.problem}" for r in found if r.problem]


def test_a_sound_set_is_remembered(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    results = verify_one("tiny", Path("x"), tmp_path, Watch(lambda *done: seen.append(done)))
    assert [result.problem for result in results] == [None, None]
    assert sorted(set(seen)) == [(0, 2000), (1000, 2000), (2000, 2000)]
    content = (folder / "w.pt").read_bytes()
    assert known_digest(folder, "w.pt") == hashlib.sha256(content).hexdigest()
    require_sound(results, "…")


def test_a_flipped_byte_is_found_although_the_file_looks_unchanged(
    folder: Path, tmp_path: Path
) -> None:
    digest_of(folder, "w.pt")
    before = (folder / "w.pt").stat()
    content = bytearray((folder / "w.pt").read_bytes())
    content[500] ^= 1
    (folder / "w.pt").write_bytes(content)
    os.utime(folder / "w.pt", ns=(before.st_atime_ns, before.st_mtime_ns))
    [problem] = problems("tiny", tmp_path)
    assert problem.startswith("w.pt has sha256 ")
    assert known_digest(folder, "w.pt") is None


def test_every_wrong_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "w.pt").write_bytes(b"short")
    (folder / "Tokenizer" / "t.model").unlink()
    assert problems("tiny", tmp_path) == ["t.model is missing", "w.pt has 5 bytes, 1000 expected"]
    with pytest.raises(IntegrityError, match=r"t\.model is missing\n.*w\.pt has 5 bytes") as caught:
        require_sound(verify_all(tmp_path, Watch()), "do this")
    assert caught.value.exit_code == 4
    assert caught.value.hint == "do this"


def test_a_set_elsewhere(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "usb"
    folder.rename(moved)
    assert problems(str(moved), tmp_path) == []


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="neither"):
        problems("tiny", tmp_path)
    with pytest.raises(EnvironmentNotReady, match="no weights"):
        verify_all(tmp_path, Watch())


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    convert_checkpoint(source, tmp_path / "data" / "out")
    return tmp_path / "data" / "out"


def conversion_problems(directory: Path) -> list[str]:
    found = read_record(directory)
    assert found is not None
    results = verify_conversion(directory, found, lambda done, total: None)
    return [f"{r.path.name} {r.problem}" for r in results if r.problem]


def test_a_sound_conversion(converted: Path) -> None:
    assert conversion_problems(converted) == []
    (converted.parent / "again").symlink_to(converted)
    seen: list[tuple[int, int]] = []
    watch = Watch(lambda *done: seen.append(done))
    assert not [r.problem for r in verify_all(converted.parent, watch) if r.problem]
    assert seen == sorted(seen)
    total = 2 * (converted / "model.safetensors").stat().st_size
    assert seen[-1] == (total, total)
    assert problems("out", converted.parent) == []


def test_one_flipped_bit_of_a_tensor(converted: Path) -> None:
    path = converted / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    [problem] = conversion_problems(converted)
    assert "model.safetensors has other bytes in model." in problem


def test_a_changed_header_and_changed_code(converted: Path) -> None:
    path = converted / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"model.norm.bias"', b'"model.norm.bibs"'))
    (converted / "modeling_spark.py").write_text("import os\n")
    (converted / "config.json").unlink()
    found = set(conversion_problems(converted))
    assert "modeling_spark.py was changed since the conversion" in found
    assert "config.json is missing" in found
    assert any("model.norm.bibs, of which" in problem for problem in found)
    path.write_bytes(b"\xff" * len(content))
    assert any("damaged header" in problem for problem in conversion_problems(converted))


def test_a_tensor_that_was_left_out(converted: Path) -> None:
    path = converted / "model.safetensors"
    content = path.read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    start = header.index(b'"model.norm.bias"')
    stop = header.index(b"}", start) + 1
    cut = header[:start].rstrip(b", ") + header[stop:]
    if header[:start].endswith(b"{"):
        cut = header[:start] + header[stop:].lstrip(b", ")
    path.write_bytes(content[:8] + cut.ljust(len(header)) + content[8 + len(header) :])
    assert conversion_problems(converted) == [
        "conversion.json tensors are missing: model.norm.bias"
    ]


def test_a_damaged_record_is_named_among_the_others(converted: Path, folder: Path) -> None:
    text = (converted / "conversion.json").read_text()
    (converted / "conversion.json").write_text(text[:-20])
    with pytest.raises(IntegrityError, match=r"conversion\.json is damaged"):
        verify_one(str(converted), converted, folder, Watch())
    [result] = verify_all(converted.parent, Watch())
    assert (result.path, result.problem) == (converted / "conversion.json", "is damaged")
    with pytest.raises(IntegrityError):
        require_sound((result,), "…")


def test_tensors_that_lie_outside_of_their_file(converted: Path) -> None:
    path = converted / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for change in (-1, 1 << 70):
        header = json.loads(content[8 : 8 + length])
        header["model.norm.bias"]["data_offsets"][0 if change < 0 else 1] = change
        new = json.dumps(header, separators=(",", ":")).encode()
        new = new.ljust(length) if len(new) <= length else new
        whole = len(new).to_bytes(8, "little") + new + content[8 + length :]
        path.write_bytes(whole[: len(content)])
        assert any("lies outside of the file" in each for each in conversion_problems(converted))
    path.write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(len(content) - 10))
    assert any("damaged header" in each for each in conversion_problems(converted))


def test_what_cannot_be_read_is_not_damaged(converted: Path, folder: Path) -> None:
    with open_folder() as data:
        shutil.copytree(converted, data / "out")
        shutil.copytree(folder, checkpoint_dir(data, "tiny"))
        record(data, "tiny", lock_files(folder, FILES))
        shutil.copytree(converted, data / "unknown")
        closed = ("out/model.safetensors", "out/config.json", "unknown/conversion.json")
        for path in (*closed, "checkpoints/tiny/w.pt"):
            (data / path).chmod(0)
        (data / "lost+found").mkdir(0o700)
        with held_back():
            found = verify_all(data, Watch())
        problems = {str(each.path.relative_to(data)): each.problem for each in found}
        unreadable = {path for path, problem in problems.items() if problem}
        assert unreadable == {*closed, "checkpoints/tiny/w.pt"}
        assert {problems[path] for path in unreadable} == {"cannot be read: Permission denied"}
        with pytest.raises(EnvironmentNotReady, match=r"model\.safetensors cannot be read") as told:
            require_sound(found, "…")
        assert "permissions" in told.value.hint
        with pytest.raises(IntegrityError, match="is damaged"):
            require_sound((*found, Checked(data, 0, "is damaged")), "…")


def test_the_locks_files_only(folder: Path) -> None:
    locked = lock_files(folder, ["w.pt"])
    assert len(verify_set(folder, locked, lambda done, total: None)) == 1
