import pytest

from kit.cli.dry_run_report import _command
from kit.runtime.protocol import Launch


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("$(reboot)", "'$(reboot)'"),
        ("$KIT_APT_MIRROR", '"$KIT_APT_MIRROR"'),
    ],
)
def test_commands_can_be_pasted(value, shown):
    lines = list(_command(Launch(("docker", "build", "."), {"NAME": value}), with_key=False))
    assert lines == ["", f"  NAME={shown} \\", "  docker build ."]
