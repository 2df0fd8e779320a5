import json
import stat
import tarfile

import pytest

from kit.errors import EnvironmentNotReady, ServiceError
from kit.runtime.local import LocalRuntime
from kit.service.support_bundle import parts_of, write_bundle
from kit.settings import Settings


def fail(error):
    raise error


PARTS = {
    "a.txt": lambda: "key abcd-1234",
    "b.json": lambda: fail(ServiceError("nobody answers", hint="kit up")),
    "c.txt": lambda: fail(OSError("no such file")),
}


def test_every_part_is_there_redacted_or_explained(tmp_path):
    path = tmp_path / "b.tar.gz"
    sizes = write_bundle(path, PARTS, {"KIT_API_KEY": "abcd-1234", "HOME": "/home/x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        texts = {m.name: archive.extractfile(m).read().decode() for m in archive}
    assert texts["b/a.txt"] == "key <KIT_API_KEY>"
    assert texts["b/b.json"] == "could not be had: nobody answers (kit up)\n"
    assert "no such file" in texts["b/c.txt"]
    for name, size in sizes.items():
        assert name == "contents.txt" or f"{size:>9}  {name}\n" in texts["b/contents.txt"]


def test_an_older_file_becomes_private(tmp_path):
    path = tmp_path / "b.tar.gz"
    path.write_text("older and longer than what comes now" * 1000)
    path.chmod(0o644)
    write_bundle(path, {"a.txt": lambda: "x"}, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tarfile.open(path).close()


def test_where_nothing_can_be_written(tmp_path):
    for path in (tmp_path / "no" / "b.tar.gz", tmp_path):
        with pytest.raises(EnvironmentNotReady, match="cannot write") as caught:
            write_bundle(path, PARTS, {})
        assert caught.value.hint == "choose another --output"


def test_settings_name_secrets_and_no_more(tmp_path):
    environ = {"KIT_API_KEY": "a", "HF_TOKEN": 'long"token"rest', "KIT_PORT": "80", "PATH": "x"}
    settings = parts_of(Settings(tmp_path, tmp_path), {"local": LocalRuntime(tmp_path)}, environ)
    assert json.loads(settings["settings.json"]()) == {
        "KIT_API_KEY": "<KIT_API_KEY>",
        "HF_TOKEN": "<HF_TOKEN>",
        "KIT_PORT": "80",
    }
