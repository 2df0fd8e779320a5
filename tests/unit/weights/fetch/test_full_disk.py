"""A disk that is full while the small files are written: said clearly, and it goes on later."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kit.errors import EnvironmentNotReady
from kit.weights.convert.convert import convert_checkpoint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "conversion.json"])
def test_support_files_find_no_room(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = os.fsync

    def full(fd: int) -> None:  # where a file system that allocates late says so
        if Path(f"/proc/self/fd/{fd}").readlink().name == f"{name}.new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentNotReady, match="no room in") as caught:
            convert_checkpoint(source, output)
    assert "run the same command" in caught.value.hint
    assert not output.exists()
    seen: list[Any] = []
    convert_checkpoint(source, output, progress=lambda done, total: seen.append(done))
    assert not seen  # no tensor is converted twice
    assert not list(output.glob("*.new"))
