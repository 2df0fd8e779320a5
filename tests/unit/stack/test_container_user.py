import os

import pytest

from kit.errors import EnvironmentNotReady
from kit.stack.container_user import container_user


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").touch()
    folder.chmod(0o755)
    (folder / "config.json").chmod(0o644)
    return folder


def test_what_everybody_can_read_needs_no_user(model):
    assert container_user(model) is None


@pytest.mark.parametrize("private", ["config.json", "."])
def test_what_one_user_can_read_is_read_as_that_user(model, private):
    if os.getuid() == 0:
        for path in (model, *model.iterdir()):
            os.chown(path, 1234, 56)
    (model / private).chmod(0o700)
    owner = (model / private).stat()
    assert container_user(model) == f"{owner.st_uid}:{owner.st_gid}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of root's")
def test_what_only_root_can_read_is_refused(model):
    (model / "config.json").chmod(0o600)
    with pytest.raises(EnvironmentNotReady, match=r"only root can read .*config\.json") as caught:
        container_user(model)
    assert caught.value.hint == f"let others read it: chmod -R a+rX {model}"
