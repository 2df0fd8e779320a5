"""scripts/abuse.py with fewer requests: hostile clients beside innocent ones, on a real server."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_innocent_request_is_answered_and_nothing_grows(tmp_path: Path) -> None:
    folders = {"XDG_DATA_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    attack = subprocess.run(
        [sys.executable, "scripts/abuse.py", "--requests", "120", "--lengths", "100"],
        cwd=ROOT,
        env=os.environ | folders | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert attack.returncode == 0, attack.stdout + attack.stderr
    assert "120 answered" in attack.stdout
