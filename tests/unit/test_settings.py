"""Settings that come out of files, and such that cannot be understood."""

import pytest

from kit.errors import UsageError
from kit.settings import Settings


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "api key"


def read(**environ):
    return Settings.from_environ({"HOME": "/home/x", **environ})


def test_the_api_key_may_stand_in_a_file(key_file):
    key_file.write_text("s3cret\n")
    assert read(KIT_API_KEY_FILE=str(key_file)).api_key == "s3cret"
    assert read(KIT_API_KEY_FILE=str(key_file), KIT_API_KEY="").api_key == "s3cret"
    assert read(KIT_API_KEY_FILE=str(key_file), KIT_API_KEY="s3cret").api_key == "s3cret"


def test_an_empty_file_is_no_key():
    """As compose.yaml mounts it where there is none."""
    assert read(KIT_API_KEY_FILE="/dev/null").api_key is None
    assert read(KIT_API_KEY_FILE="/dev/null", KIT_API_KEY="k").api_key == "k"


def test_a_file_that_cannot_be_read_is_not_no_key(key_file, tmp_path):
    for content in (b"two\nlines\n", b"\xff\xfe"):
        key_file.write_bytes(content)
        with pytest.raises(UsageError, match="KIT_API_KEY_FILE"):
            read(KIT_API_KEY_FILE=str(key_file))
    with pytest.raises(UsageError, match="No such file"):
        read(KIT_API_KEY_FILE=str(tmp_path / "none"))


def test_two_different_keys_are_not_chosen_between(key_file):
    key_file.write_text("s3cret")
    with pytest.raises(UsageError, match="different keys"):
        read(KIT_API_KEY_FILE=str(key_file), KIT_API_KEY="other")


def test_an_instance_has_a_state_folder_of_its_own():
    assert str(read().state_dir) == "/home/x/.local/state/spark-kit"
    assert str(read(KIT_INSTANCE="b").state_dir) == "/home/x/.local/state/spark-kit/instances/b"
    with pytest.raises(UsageError, match="cannot be called"):
        read(KIT_INSTANCE="../b")


def test_what_a_server_does_that_cannot_start():
    assert [read(KIT_ON_FAILURE=each).on_failure for each in ("", "stay")] == ["exit", "stay"]
    with pytest.raises(UsageError, match="KIT_ON_FAILURE is 'loop'"):
        read(KIT_ON_FAILURE="loop")
