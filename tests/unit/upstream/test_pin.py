"""Pinning a commit."""

import hashlib
import subprocess
import sys
from pathlib import Path

from kit.lock import LockedFile, read_lock
from kit.upstream.git import pin
from kit.upstream.render import MEGATRON
from tests.upstream_tree import StandIn

SCRIPT = Path(__file__).parents[3] / "scripts" / "lock_upstream.py"


def test_every_file_the_kit_takes_is_entered(stand_in: StandIn) -> None:
    lock = pin(stand_in.lock, str(stand_in.repository), stand_in.commit)
    assert lock == stand_in.lock
    for name, digest in lock.upstream_files.items():
        content = (stand_in.repository / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    tops = {name.split("/")[0] for name in lock.upstream_files}
    assert tops == {"LICENSE", "LICENSE_MODEL.md", MEGATRON}


def test_the_script_keeps_the_rest_of_a_lock(stand_in: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "kit.lock"
    command = [sys.executable, SCRIPT, stand_in.repository, stand_in.commit, "--lock", path]
    subprocess.run(command, check=True, capture_output=True)
    made = read_lock(path)
    assert made.repository == str(stand_in.repository)
    assert (made.commit, made.weights) == (stand_in.commit, {})
    path.write_text(path.read_text().replace('"weights": {}', f'"weights": {_WEIGHTS}'))
    subprocess.run([*command, "--repository", "https://x"], check=True, capture_output=True)
    made = read_lock(path)
    assert made.weights == {"x": {"f": LockedFile(1, "0" * 64)}}
    assert made.repository == "https://x"
    assert made.upstream_files == stand_in.lock.upstream_files


def test_the_script_says_what_it_cannot_read(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path / "no", "x", "--lock", tmp_path / "kit.lock"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "kit.lock").exists()


_WEIGHTS = f'{{"x": {{"f": {{"sha256": "{"0" * 64}", "size": 1}}}}}}'
