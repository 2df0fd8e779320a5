import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kit.runtime.protocol import ImageRef, ServeSpec
from kit.service.recall import FILE_NAME, Proven, before, read_history, remember

SPEC = ServeSpec(Path("/models/spark"), "spark", "127.0.0.1", 8000, 4096, 1, "cpu")
LOCAL = Proven("local", SPEC)
CONTAINER = Proven("container", replace(SPEC, image=ImageRef("spark-kit:cpu", "sha256:1")))


def test_the_newest_comes_first_and_each_once(tmp_path):
    for entry in (LOCAL, CONTAINER, LOCAL):
        remember(tmp_path, entry)
    assert read_history(tmp_path) == (LOCAL, CONTAINER)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_only_the_last_five_are_kept(tmp_path):
    entries = [Proven("local", replace(SPEC, port=8000 + n)) for n in range(7)]
    for entry in entries:
        remember(tmp_path, entry)
    assert read_history(tmp_path) == tuple(reversed(entries[2:]))


def test_what_was_before(tmp_path):
    assert before(tmp_path, SPEC) is None
    remember(tmp_path, LOCAL)
    assert before(tmp_path, SPEC) is None
    remember(tmp_path, CONTAINER)
    assert before(tmp_path, CONTAINER.spec) == LOCAL
    assert before(tmp_path, SPEC) == CONTAINER


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "proven": [1]}']
)
def test_unreadable_history_is_none(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    assert read_history(tmp_path) == ()


def test_an_earlier_version_of_the_kit_is_no_other_service(tmp_path):
    newer = Proven("local", replace(SPEC, kit_version="0.2.0"))
    remember(tmp_path, Proven("local", replace(SPEC, kit_version="0.1.0")))
    remember(tmp_path, newer)
    assert read_history(tmp_path) == (newer,)
    assert before(tmp_path, SPEC) is None
