import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile, lock_text, read_lock, write_lock
from kit.settings import bundled
from kit.weights import layers
from kit.weights.layers import adopt, forget, read_layers, record

A = LockedFile(3, "aa" * 32, "observed", "https://example.org/a", "2024-05-01")
B = LockedFile(4, "bb" * 32, "pointer", "https://example.org/b", "2024-05-02")


def test_without_an_own_lock_the_kits_holds(tmp_path: Path) -> None:
    shipped = read_lock(bundled("kit.lock"))
    assert read_layers(tmp_path) == replace(shipped, upstream_files={})
    assert not list(tmp_path.iterdir())


def test_what_is_recorded_is_found_again_in_stable_bytes(tmp_path: Path) -> None:
    record(tmp_path, "x", {"f": A, "g": B})
    first = (tmp_path / "kit.lock").read_bytes()
    assert read_layers(tmp_path).weights["x"] == {"f": A, "g": B}
    record(tmp_path, "x", {"g": B})
    record(tmp_path, "x", {"f": replace(A, date="2030-01-01", source="elsewhere")})
    assert (tmp_path / "kit.lock").read_bytes() == first
    assert lock_text(read_lock(tmp_path / "kit.lock")).encode() == first


def test_a_pointer_tells_more_than_an_observation(tmp_path: Path) -> None:
    record(tmp_path, "x", {"f": A})
    better = replace(A, basis="pointer", source="git")
    record(tmp_path, "x", {"f": better})
    assert read_layers(tmp_path).weights["x"]["f"] == better
    record(tmp_path, "x", {"f": A})
    assert read_layers(tmp_path).weights["x"]["f"] == better


def test_the_kits_lock_wins_and_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped.lock"
    write_lock(shipped, replace(read_lock(bundled("kit.lock")), weights={"x": {"f": B}}))
    monkeypatch.setattr(layers, "bundled", lambda name: shipped)
    before = shipped.read_bytes()
    record(tmp_path, "x", {"f": replace(B, size_bytes=9), "g": A})
    assert read_layers(tmp_path).weights["x"] == {"f": B, "g": A}
    offered = tmp_path / "offered.lock"
    write_lock(offered, replace(read_lock(shipped), weights={"x": {"f": A}}))
    with pytest.raises(IntegrityError, match="the kit's lock says bbbb"):
        adopt(tmp_path, offered, overwrite=True)
    assert shipped.read_bytes() == before


def offer(path: Path, **files: LockedFile) -> Path:
    write_lock(path, replace(read_lock(bundled("kit.lock")), weights={"x": files}))
    return path


def test_a_colleagues_lock_is_taken_in(tmp_path: Path) -> None:
    path = offer(tmp_path / "theirs", f=A, g=B)
    assert adopt(tmp_path / "data", path) == {"x": ("f", "g")}
    assert adopt(tmp_path / "data", path) == {}
    assert read_layers(tmp_path / "data").weights["x"] == {"f": A, "g": B}


def test_a_contradiction_takes_nothing_unless_asked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    record(data, "x", {"f": A})
    other = replace(A, sha256="cc" * 32)
    path = offer(tmp_path / "theirs", f=other, g=B)
    with pytest.raises(IntegrityError, match=r"sha256 cccc.* for x/f.*says aaaa") as caught:
        adopt(data, path)
    assert "--overwrite" in caught.value.hint
    assert read_layers(data).weights["x"] == {"f": A}
    assert adopt(data, path, overwrite=True) == {"x": ("f", "g")}
    assert read_layers(data).weights["x"] == {"f": other, "g": B}


def test_a_set_is_forgotten(tmp_path: Path) -> None:
    record(tmp_path, "x", {"f": A, "g": B})
    record(tmp_path, "y", {"f": A})
    assert forget(tmp_path, "x") == ("f", "g")
    with pytest.raises(UsageError, match="x is not in your lock") as caught:
        forget(tmp_path, "x")
    assert caught.value.hint == "it holds y"
    known = read_layers(tmp_path).weights
    assert "x" not in known
    assert known["y"] == {"f": A}
    assert "demo" in known
    with pytest.raises(UsageError, match="demo is not in your lock"):
        forget(tmp_path, "demo")
    with pytest.raises(UsageError) as caught:
        forget(tmp_path / "new", "x")
    assert caught.value.hint == "it holds nothing yet"


def test_files_of_another_kit_are_left_out(tmp_path: Path) -> None:
    path = offer(tmp_path / "theirs", f=LockedFile(1, "dd" * 32))
    assert adopt(tmp_path / "data", path) == {}
    assert (
        "x" not in read_layers(tmp_path / "data").weights
        or not read_layers(tmp_path / "data").weights["x"]
    )


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1}'])
def test_a_damaged_lock_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "kit.lock").write_text(content)
    with pytest.raises(IntegrityError, match="missing or damaged"):
        read_layers(tmp_path)
    with pytest.raises(IntegrityError, match="is no lock, or damaged") as caught:
        adopt(tmp_path / "data", tmp_path / "kit.lock")
    assert caught.value.hint.endswith("kit weights lock > kit.lock")


def test_a_colleagues_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"there is no .*team\.lock") as caught:
        adopt(tmp_path, tmp_path / "team.lock")
    assert caught.value.hint.endswith("kit weights lock > team.lock")
    with pytest.raises(EnvironmentNotReady, match=r"cannot read .*: Is a directory"):
        adopt(tmp_path, tmp_path)


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        record(tmp_path, f"set-{number}", {"f": replace(A, size_bytes=number)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_layers(tmp_path).weights
    assert {f"set-{number}" for number in range(8)} <= found.keys()
