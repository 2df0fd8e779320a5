import pytest

from kit.cli.main import load_dotenv
from kit.errors import UsageError

TEXT = """\
# how this server runs
KIT_PORT=9000
export KIT_MODEL_DIR="/data/my models" # quoted
KIT_MODEL_NAME='星火 # 13B'
KIT_MAX_RAM=6GiB # enough
KIT_HOST=127.0.0.1
  COMPOSE_PROJECT_NAME = two
PATH=/evil
KIT_BROKEN
"""


def test_what_compose_reads_holds_for_the_kit(tmp_path):
    path = tmp_path / ".env"
    path.write_text(TEXT, encoding="utf-8")
    environ = {"KIT_HOST": "0.0.0.0", "PATH": "/bin"}  # noqa: S104
    load_dotenv(environ, path)
    assert environ == {
        "KIT_HOST": "0.0.0.0",  # noqa: S104
        "PATH": "/bin",
        "KIT_PORT": "9000",
        "KIT_MODEL_DIR": "/data/my models",
        "KIT_MODEL_NAME": "星火 # 13B",
        "KIT_MAX_RAM": "6GiB",
        "COMPOSE_PROJECT_NAME": "two",
    }


def test_there_need_be_no_file(tmp_path):
    environ = {}
    load_dotenv(environ, tmp_path / ".env")
    assert environ == {}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KIT_API_KEY=old\nKIT_API_KEY=new", "new"),
        (r'KIT_API_KEY="a\"b"', 'a"b'),
        ("KIT_API_KEY=${HOME}/m", "/home/u/m"),
    ],
)
def test_it_is_read_as_compose_reads_it(tmp_path, monkeypatch, line, value):
    monkeypatch.setenv("HOME", "/home/u")
    (tmp_path / ".env").write_text(line, encoding="utf-8")
    environ = {}
    load_dotenv(environ, tmp_path / ".env")
    assert environ == {"KIT_API_KEY": value}


def test_what_is_no_text_is_an_error(tmp_path):
    (tmp_path / ".env").write_bytes("KIT_API_KEY=k".encode("utf-16"))
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_dotenv({}, tmp_path / ".env")
