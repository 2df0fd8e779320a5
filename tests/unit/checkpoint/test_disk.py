import errno
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.files import full_disk_explained, require_space


def test_space_is_asked_for(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "the test", "nothing is kept")
    with pytest.raises(EnvironmentNotReady, match=r"free; the test needs 1048576") as caught:
        require_space(tmp_path, 1 << 50, "the test", "nothing is kept")
    assert "nothing is kept" in caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_explained(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(EnvironmentNotReady, match=r"no room in .*: 2\.00 GiB more .* \(oh\)"),
        full_disk_explained(tmp_path, "all is kept", 2 << 30),
    ):
        raise OSError(number, "oh")
    with (
        pytest.raises(EnvironmentNotReady, match=r"no room in \S+ \(oh\)") as caught,
        full_disk_explained(tmp_path, "all is kept"),
    ):
        raise OSError(number, "oh")
    assert caught.value.hint.endswith("all is kept")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="oh"), full_disk_explained(tmp_path, "all is kept"):
        raise OSError(errno.EIO, "oh")
