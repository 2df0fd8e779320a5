import os
from pathlib import Path

import pytest

from kit.memory.probes.pagecache import cached_bytes, evict
from kit.serve.native import loader
from kit.serve.native.loader import _advise, read_ahead


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files, on the disk and not in the page cache."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        with path.open("wb") as file:
            file.write(os.urandom(5_000_000))
            os.fsync(file.fileno())
        if evict(path):
            pytest.skip("this file system keeps its files in memory")
    return paths


def test_the_files_are_in_the_page_cache_afterwards(files: list[Path]) -> None:
    thread = read_ahead(files)
    assert thread is not None
    thread.join()
    assert all(cached_bytes(path) >= 5_000_000 for path in files)


def test_what_would_not_fit_is_left_alone(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_free_bytes", lambda: 9_999_999)
    assert read_ahead(files) is None
    assert [cached_bytes(path) for path in files] == [0, 0]


def test_a_file_that_goes_meanwhile_is_no_concern_of_it(files: list[Path]) -> None:
    _advise([files[0].with_name("gone"), files[1]])
    assert cached_bytes(files[1]) >= 5_000_000
