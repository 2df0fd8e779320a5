import os
import subprocess

import pytest

from kit.containers.compose import container_user, require_self_contained
from kit.errors import EnvironmentNotReady


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


@pytest.fixture
def snapshot(tmp_path):
    """As the hub's cache keeps a model: its files are links to blobs beside it."""
    folder, blobs = tmp_path / "snapshots" / "it's a revision", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "ab12").write_text("tensors")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to("../../blobs/ab12")
    return folder


def test_links_that_lead_out_are_refused_and_the_hint_helps(snapshot):
    with pytest.raises(EnvironmentNotReady, match=r"model\.safetensors is a link out") as caught:
        require_self_contained(snapshot)
    assert str(snapshot.parents[1] / "blobs/ab12") in caught.value.message
    command = caught.value.hint.partition(": ")[2].partition(" (")[0]
    subprocess.run(["sh", "-c", command.replace("-rL", "-rLl")], check=True)
    copy = snapshot.with_name(f"{snapshot.name}-files")
    require_self_contained(copy)
    assert (copy / "model.safetensors").samefile(snapshot / "model.safetensors")


def test_links_within_are_none_of_our_business(snapshot):
    (snapshot / "model.safetensors").unlink()
    (snapshot / "other").symlink_to("config.json")
    require_self_contained(snapshot)
    (snapshot.parent / "link").symlink_to(snapshot)
    require_self_contained(snapshot.parent / "link")


def test_a_link_that_leads_nowhere_is_named(snapshot):
    (snapshot.parents[1] / "blobs/ab12").unlink()
    with pytest.raises(EnvironmentNotReady, match=r"a link to \.\./\.\./blobs/ab12, which is not"):
        require_self_contained(snapshot)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_key_that_one_user_can_read_is_read_as_that_user(model, tmp_path):
    key_file = tmp_path / "api key"
    key_file.write_text("k")
    key_file.chmod(0o600)
    with pytest.raises(EnvironmentNotReady, match=r"only root can read .*api key") as caught:
        container_user(model, key_file)
    assert caught.value.hint.endswith(f"chown UID '{key_file}'")
    os.chown(key_file, 1234, 56)
    assert container_user(model, key_file) == "1234:56"
    os.chown(model / "config.json", 77, 77)
    (model / "config.json").chmod(0o600)
    with pytest.raises(EnvironmentNotReady, match="no user but root can read both") as caught:
        container_user(model, key_file)
    assert f"chown 77 '{key_file}'" in caught.value.hint
