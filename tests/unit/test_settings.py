"""KIT_ variables that are more than a word or a path."""

import pytest

from kit.errors import UsageError
from kit.settings import Settings, authority


def read(**environ: str) -> Settings:
    return Settings.from_environ({"HOME": "/root"} | environ)


def test_who_may_ask_the_server() -> None:
    settings = read(
        KIT_ALLOW_ORIGINS=" http://localhost:3000/ , https://Chat.example.org,",
        KIT_ALLOW_HOSTS="chat.Example.org, *.example.com,[fd00::1]",
    )
    assert settings.allow_origins == ("http://localhost:3000", "https://chat.example.org")
    assert settings.allow_hosts == ("chat.example.org", "*.example.com", "[fd00::1]")
    anyone = read(KIT_ALLOW_ORIGINS="*", KIT_ALLOW_HOSTS="*")
    assert (anyone.allow_origins, anyone.allow_hosts) == (("*",), ("*",))
    nobody = read(KIT_ALLOW_ORIGINS="", KIT_ALLOW_HOSTS="")
    assert (nobody.allow_origins, nobody.allow_hosts) == ((), ())


@pytest.mark.parametrize("origin", ["localhost:3000", "http://x/page", "http://", "null"])
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="KIT_ALLOW_ORIGINS has ") as refusal:
        read(KIT_ALLOW_ORIGINS=f"http://a.example,{origin}")
    assert "http://localhost:3000" in refusal.value.hint


@pytest.mark.parametrize("host", ["http://x", "x:8000", "x/y", "a.*.b", "*x"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError, match="KIT_ALLOW_HOSTS has "):
        read(KIT_ALLOW_HOSTS=host)


def test_how_long_idle_connections_stay() -> None:
    assert read().keep_alive_seconds == 75
    assert read(KIT_KEEP_ALIVE="5").keep_alive_seconds == 5
    for wrong in ("0", "-1", "1.5", "75s"):
        with pytest.raises(UsageError, match="KIT_KEEP_ALIVE"):
            read(KIT_KEEP_ALIVE=wrong)


def test_unknown_parameters_are_refused_unless_the_user_says_otherwise() -> None:
    assert read().unknown_parameters == "refuse"
    assert read(KIT_UNKNOWN_PARAMETERS="ignore").unknown_parameters == "ignore"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("localhost", "localhost:80")],
)
def test_addresses_in_urls(host: str, expected: str) -> None:
    assert authority(host, 80) == expected


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "api key"


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
    assert str(read().state_dir) == "/root/.local/state/spark-kit"
    assert str(read(KIT_INSTANCE="b").state_dir) == "/root/.local/state/spark-kit/instances/b"
    with pytest.raises(UsageError, match="cannot be called"):
        read(KIT_INSTANCE="../b")


def test_what_a_server_does_that_cannot_start():
    assert [read(KIT_ON_FAILURE=each).on_failure for each in ("", "stay")] == ["exit", "stay"]
    with pytest.raises(UsageError, match="KIT_ON_FAILURE is 'loop'"):
        read(KIT_ON_FAILURE="loop")
