"""A set's name in place of a directory."""

import shutil
from dataclasses import replace

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import read_shape
from kit.memory.plan.torch_build import installed_build
from kit.memory.probes.nvml import Gpu
from kit.service.model import Wish, find_here, find_set, fitting, resolve
from kit.settings import bundled
from kit.weights.catalogue import read_catalogue
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.folder import checkpoint_dir

CHAT = "spark-13b-chat"


class Silence:
    def say(self, text): ...

    def progress(self, phase, fraction): ...


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A data folder with the demo in three precisions, under the name of the 13B."""
    data = tmp_path_factory.mktemp("data")
    source = next(bundled("demo").rglob("mp_rank_*.pt"))
    for precision in ("fp32", "bf16", "int8"):
        convert_checkpoint(source, data / f"{CHAT}-{precision}", precision=precision)
    return data


def wish(data, model=CHAT, **more):
    return Wish(model, data, has_gpu=False, **more)


def test_the_best_precision_that_fits(converted):
    sizes = {p: read_shape(converted / f"{CHAT}-{p}").weights_bytes for p in ("bf16", "int8")}

    def served(limit):
        fits = lambda shape: shape.weights_bytes <= limit  # noqa: E731
        return resolve(wish(converted, fits=fits), Silence()).directory.name

    assert served(sizes["bf16"]) == f"{CHAT}-bf16"
    assert served(sizes["bf16"] - 1) == f"{CHAT}-int8"
    assert served(0) == f"{CHAT}-int8"  # the smallest; the preflight tells what lacks
    assert resolve(wish(converted), Silence()).directory.name == f"{CHAT}-bf16"


def test_the_one_that_is_there_is_taken(converted, tmp_path):
    shutil.copytree(converted / f"{CHAT}-fp32", tmp_path / f"{CHAT}-fp32")
    fits = lambda shape: False  # noqa: E731
    model = resolve(wish(tmp_path, fits=fits), Silence())
    assert (model.name, model.directory) == (f"{CHAT}-fp32", tmp_path / f"{CHAT}-fp32")


def test_a_directory_of_that_name_wins(converted, tmp_path, monkeypatch):
    shutil.copytree(converted / f"{CHAT}-bf16", tmp_path / CHAT)
    monkeypatch.chdir(tmp_path)
    assert resolve(wish(converted), Silence()).directory == tmp_path / CHAT
    shutil.rmtree(tmp_path / CHAT)
    assert resolve(wish(converted), Silence()).directory.parent == converted
    with pytest.raises(EnvironmentNotReady, match="there is no"):
        resolve(wish(converted, f"./{CHAT}"), Silence())


def test_what_is_not_here_is_told_how_to_get(tmp_path):
    with pytest.raises(EnvironmentNotReady, match=f"{CHAT} is not here") as caught:
        resolve(wish(tmp_path), Silence())
    assert f"kit weights fetch {CHAT} --convert" in caught.value.hint
    for file in read_catalogue().weights[CHAT].files:
        path = checkpoint_dir(tmp_path, CHAT) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(EnvironmentNotReady, match="is here, but not converted"):
        resolve(wish(tmp_path), Silence())
    with pytest.raises(EnvironmentNotReady, match="there is no") as caught:
        resolve(wish(tmp_path, "no-such-name"), Silence())
    assert "kit weights list" in caught.value.hint


def test_what_cannot_be_served(tmp_path):
    with pytest.raises(UsageError, match="holds no model"):
        resolve(wish(tmp_path, "spark-13b-tokenizer"), Silence())
    with pytest.raises(UsageError, match="is not"):
        resolve(wish(tmp_path, "spark-13b-chat-ms-bf16", engine="megatron"), Silence())


def test_upstreams_engine_takes_the_checkpoint(tmp_path):
    fits = lambda shape: True  # noqa: E731
    assert find_here(CHAT, tmp_path, "megatron", fits) is None
    with pytest.raises(EnvironmentNotReady) as caught:
        resolve(wish(tmp_path, engine="megatron"), Silence())
    assert caught.value.hint == f"get it: kit weights fetch {CHAT}"
    folder = checkpoint_dir(tmp_path, CHAT)
    folder.mkdir(parents=True)
    (folder / "mp_rank_00_model_states.pt").touch()
    assert find_here(CHAT, tmp_path, "megatron", fits) == folder


def test_a_set_of_ones_own(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        '[weights.ours]\nwhat = ""\nsources = ["obs"]\nlicence = "spark-13b"\n'
        'checkpoint = "w.pt"\nfiles."w.pt" = "w.pt"\n'
    )
    assert find_set("ours", None) is None
    assert find_set("ours", own) is not None
    with pytest.raises(EnvironmentNotReady, match="ours is not here"):
        resolve(wish(tmp_path, "ours", catalogue=own), Silence())


def test_fitting_is_the_plan_against_all_the_memory(converted):
    shape = read_shape(converted / f"{CHAT}-bf16")
    plan = plan_serving(shape, context=512, max_sequences=1, device="cuda", build=installed_build())
    need = plan.peak_bytes(Pool.DEVICE)
    gpu = Gpu(0, "GPU-1", "x", need, need, "1")
    assert fitting("cuda", [gpu], None, 512, 1)(shape)
    assert not fitting("cuda", [gpu], need - 1, 512, 1)(shape)
    assert not fitting("cuda", [replace(gpu, total_bytes=need - 1)], None, 512, 1)(shape)
    assert fitting("cpu", [])(shape)
    assert not fitting("cpu", [], None, 512, 1 << 40)(shape)
