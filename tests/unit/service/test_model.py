import os

import pytest

from kit.errors import EnvironmentNotReady
from kit.service.model import Wish, resolve


class Silence:
    def say(self, text): ...

    def progress(self, phase, fraction): ...


def test_a_converted_directory(tmp_path, monkeypatch):
    folder = tmp_path / "spark-13b"
    folder.mkdir()
    (folder / "config.json").touch()
    (folder / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    model = resolve(Wish("spark-13b", tmp_path, True), Silence())
    assert (model.name, model.directory, model.demo) == ("spark-13b", folder, False)


def test_on_a_gpu_the_demo_is_never_a_silent_choice(tmp_path):
    with pytest.raises(EnvironmentNotReady) as caught:
        resolve(Wish(None, tmp_path, True), Silence())
    for part in ("kit weights fetch", "kit weights convert", "kit up --model", "--model demo"):
        assert part in caught.value.hint


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda path: None, "there is no", "kit weights convert"),
        (lambda path: path.touch(), "is a file", "convert it first"),
        (lambda path: path.mkdir(), "holds no converted model", "kit weights convert"),
    ],
)
def test_not_a_model(tmp_path, make, message, hint):
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(EnvironmentNotReady, match=message) as caught:
        resolve(Wish(str(path), tmp_path, False), Silence())
    assert hint in caught.value.hint


def test_upstreams_checkpoint_is_to_be_converted(tmp_path):
    shard = tmp_path / "chat/mp_rank_00_model_states.pt"
    shard.parent.mkdir()
    shard.touch()
    with pytest.raises(EnvironmentNotReady) as caught:
        resolve(Wish(str(tmp_path), tmp_path, False), Silence())
    assert f"kit weights convert {shard}" in caught.value.hint


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(tmp_path):
    folder = tmp_path / "spark-13b"
    folder.mkdir(mode=0o000)
    try:
        with pytest.raises(EnvironmentNotReady, match=f"cannot be read by user {os.getuid()}"):
            resolve(Wish(str(folder), tmp_path, False), Silence())
    finally:
        folder.chmod(0o700)
