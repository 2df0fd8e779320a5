from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.files import exclusive


def test_one_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    with exclusive(target, "writing"):
        with (
            pytest.raises(EnvironmentNotReady, match=f"another process is writing {target}"),
            exclusive(target, "writing"),
        ):
            pass
        with exclusive(tmp_path / "new" / "other", "writing"):
            pass
    with exclusive(target, "writing"):
        pass


def test_no_writing_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EnvironmentNotReady, match="cannot write to"),
        exclusive(tmp_path / "file" / "out", "writing"),
    ):
        pass
    with (
        pytest.raises(EnvironmentNotReady, match="cannot write to /proc"),
        exclusive(Path("/proc/out"), "writing"),
    ):
        pass
