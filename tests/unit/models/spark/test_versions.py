"""A converted directory on the oldest, the pinned and the newest transformers, without the kit.

The pinned one is this Python's. The others run where KIT_TEST_TRANSFORMERS names Pythons that have
them, separated by colons: `make transformers` sets them up.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from kit.models.spark import configuration_spark
from kit.models.spark.configuration_spark import TRIED_TRANSFORMERS, require_tried
from kit.weights.convert.support_files import TRANSFORMERS_VERSION

PROGRAM = Path(__file__).with_name("open_directory.py")
OTHERS = [python for python in os.environ.get("KIT_TEST_TRANSFORMERS", "").split(":") if python]
MISSING = "KIT_TEST_TRANSFORMERS names no Pythons with other versions: make transformers"


def open_directory(python: str, directory: Path, home: Path) -> dict:
    ran = subprocess.run(
        [python, "-I", str(PROGRAM), str(directory)],
        env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": ""},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def directory(make_model) -> Path:
    return make_model()


@pytest.fixture(scope="module")
def pinned(directory, tmp_path_factory) -> dict:
    return open_directory(sys.executable, directory, tmp_path_factory.mktemp("pinned"))


def test_every_way_to_keep_a_cache_gives_the_same_text(pinned):
    answers = pinned["answers"]
    assert answers["cache"] == answers["static cache"] == answers["no cache"]
    assert answers["beams"] == answers["beams, no cache"]
    assert len(set(answers["cache"])) > 4, "a constant answer would agree with anything"


@pytest.mark.parametrize("python", OTHERS or [pytest.param("", marks=pytest.mark.skip(MISSING))])
def test_another_version_gives_the_same(python, directory, pinned, tmp_path):
    other = open_directory(python, directory, tmp_path)
    assert other["ids"] == pinned["ids"]
    assert other["mask"] == pinned["mask"]
    assert other["answers"] == pinned["answers"]
    assert other["loss"] == pytest.approx(pinned["loss"], abs=1e-4)


def test_the_pinned_version_is_the_one_that_is_installed_and_written():
    assert TRIED_TRANSFORMERS[1] == TRANSFORMERS_VERSION == version("transformers")


@pytest.mark.parametrize("found", ["4.57.6", "5.0.0", "5.3.0", "6.0.0", "6.0.0.dev0"])
def test_a_version_that_cannot_run_is_refused_with_a_hint(found):
    with pytest.raises(ImportError, match=re.escape(f"does not run on {found}.")) as refusal:
        require_tried(found)
    assert f"pip install 'transformers=={TRIED_TRANSFORMERS[1]}'" in str(refusal.value)


@pytest.mark.parametrize("found", [*TRIED_TRANSFORMERS, "5.10.4", "5.19.0.dev0"])
def test_a_version_that_was_tried_or_lies_between_is_taken_without_a_word(found, monkeypatch):
    monkeypatch.setattr(configuration_spark.logging, "get_logger", pytest.fail)
    require_tried(found)


def test_a_newer_version_is_warned_of(monkeypatch):
    class Logger:
        said: list[str] = []  # noqa: RUF012

        def warning_once(self, text: str) -> None:
            self.said.append(text)

    monkeypatch.setattr(configuration_spark.logging, "get_logger", lambda name: Logger())
    require_tried("5.99.1")
    assert "not on 5.99.1" in Logger.said[0]
