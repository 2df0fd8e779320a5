from pathlib import Path

import pytest

from kit.cli.serve import Serving, native_source, server_options
from kit.errors import UsageError
from kit.memory.budget import Budget
from kit.settings import Settings


def test_the_model_is_called_like_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "spark-13b"
    directory.mkdir()
    assert native_source(directory, Serving()).name == "spark-13b"
    assert native_source(directory / ".", Serving(name="mine")).name == "mine"


def test_the_settings_reach_the_server() -> None:
    environ = {
        "HOME": "/root",
        "KIT_KEEP_ALIVE": "5",
        "KIT_ALLOW_ORIGINS": "http://localhost:3000",
        "KIT_ALLOW_HOSTS": "chat.example.org",
        "KIT_UNKNOWN_PARAMETERS": "ignore",
    }
    options = server_options(Settings.from_environ(environ), None, 0, Budget())
    assert (options.host, options.port, options.keep_alive_seconds) == ("127.0.0.1", 0, 5)
    assert options.app.allow_origins == ("http://localhost:3000",)
    assert options.app.allow_hosts == {
        "127.0.0.1",
        "localhost",
        "*.localhost",
        "chat.example.org",
    }
    assert options.app.unknown_parameters == "ignore"


def test_the_host_is_looked_at_on_loopback_alone() -> None:
    settings = Settings.from_environ({"HOME": "/root"})
    everywhere = server_options(settings, "0.0.0.0", None, Budget())  # noqa: S104
    assert everywhere.app.allow_hosts is None
    assert server_options(settings, "::1", None, Budget()).app.allow_hosts is not None


@pytest.mark.parametrize(
    ("published", "checked"),
    [("127.0.0.1", True), ("[::1]", True), ("0.0.0.0", False)],  # noqa: S104
)
def test_where_a_container_is_published_decides(published: str, checked: bool) -> None:
    environ = {"HOME": "/root", "KIT_HOST": "0.0.0.0", "KIT_PUBLISHED_HOST": published}  # noqa: S104
    options = server_options(Settings.from_environ(environ), None, None, Budget())
    assert (options.app.allow_hosts is not None) is checked


def test_a_word_that_is_no_setting() -> None:
    settings = Settings.from_environ({"HOME": "/root", "KIT_UNKNOWN_PARAMETERS": "drop"})
    with pytest.raises(UsageError, match="KIT_UNKNOWN_PARAMETERS"):
        server_options(settings, None, None, Budget())
