import re
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.convert.locate import find_checkpoint, find_tokenizer


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def shard(folder: Path, rank: int) -> Path:
    return touch(folder / f"mp_rank_{rank:02d}_model_states.pt")


def test_a_checkpoint_is_a_file_or_its_folder(tmp_path: Path) -> None:
    path = shard(tmp_path, 0)
    other = touch(tmp_path / "renamed.pt")
    assert find_checkpoint(tmp_path) == (path,)
    assert find_checkpoint(path) == (path,)
    assert find_checkpoint(other) == (other,)


def test_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "x.pt"):
        with pytest.raises(EnvironmentNotReady, match="no checkpoint"):
            find_checkpoint(path)


@pytest.mark.parametrize("count", [2, 12, 101])
def test_shards_are_in_the_order_of_their_ranks(tmp_path: Path, count: int) -> None:
    shards = tuple(shard(tmp_path, rank) for rank in range(count))
    for path in (tmp_path, shards[0], shards[-1]):
        assert find_checkpoint(path) == shards


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    for rank in (1, 2, 5):
        shard(tmp_path, rank)
    missing = "lacks mp_rank_00, mp_rank_03, mp_rank_04$"
    with pytest.raises(EnvironmentNotReady, match=missing) as caught:
        find_checkpoint(tmp_path)
    assert "one folder" in caught.value.hint


@pytest.mark.parametrize("name", ["00_000", "001", "1", "xx"])
def test_other_ways_of_cutting_are_refused(tmp_path: Path, name: str) -> None:
    shard(tmp_path, 0)
    touch(tmp_path / f"mp_rank_{name}_model_states.pt")
    with pytest.raises(UsageError, match=rf"mp_rank_{name}_model_states\.pt is no tensor"):
        find_checkpoint(tmp_path)


def test_deepspeeds_folder_leads_to_its_latest_checkpoint(tmp_path: Path) -> None:
    shard(tmp_path / "global_step5", 0)
    shards = tuple(shard(tmp_path / "global_step10", rank) for rank in range(2))
    (tmp_path / "latest").write_text("global_step10\n")
    assert find_checkpoint(tmp_path) == shards
    for tag in ("../elsewhere", "/etc", "", "global_step7"):
        (tmp_path / "latest").write_text(tag)
        with pytest.raises(EnvironmentNotReady, match="no checkpoint"):
            find_checkpoint(tmp_path)


def test_a_folder_with_one_mindspore_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "iflytekspark_13b_chat_bf16.ckpt")
    assert find_checkpoint(tmp_path) == (path,)
    touch(tmp_path / "iflytekspark_13b_chat_fp32.ckpt")
    with pytest.raises(UsageError, match="2 checkpoints"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(path) == (path,)


@pytest.mark.parametrize(
    "place",
    [
        "chat/tokenizer.model",
        "chat/tokenizer/tokenizer.model",
        "chat/Tokenizer/tokenizer.model",
        "tokenizer.model",
        "tokenizer/tokenizer.model",
        "Tokenizer/tokenizer.model",
    ],
)
def test_the_tokenizer_is_found_in_upstreams_layouts(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = touch(tmp_path / "chat" / "mp_rank_00_model_states.pt")
    model = touch(tmp_path / place)
    assert find_tokenizer(None, checkpoint) == model
    monkeypatch.chdir(checkpoint.parent)
    assert find_tokenizer(None, Path(checkpoint.name)).samefile(model)


def test_the_nearest_tokenizer_is_taken(tmp_path: Path) -> None:
    checkpoint = touch(tmp_path / "chat" / "mp_rank_00_model_states.pt")
    touch(tmp_path / "Tokenizer" / "tokenizer.model")
    near = touch(tmp_path / "chat" / "tokenizer.model")
    assert find_tokenizer(None, checkpoint) == near


def test_a_tokenizer_is_given_as_file_folder_or_upstreams_prefix(tmp_path: Path) -> None:
    model = touch(tmp_path / "tokenizer" / "tokenizer.model")
    for given in (model, model.parent, model.with_suffix("")):
        assert find_tokenizer(given, tmp_path / "x.pt") == model


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"no tokenizer\.model near"):
        find_tokenizer(None, tmp_path / "a" / "x.pt")
    with pytest.raises(EnvironmentNotReady, match="no tokenizer at"):
        find_tokenizer(tmp_path / "t", tmp_path / "x.pt")


def test_megatrons_own_layout(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000010"
    names = [folder / f"mp_rank_{rank:02d}" / "model_optim_rng.pt" for rank in range(2)]
    paths = tuple(touch(name) for name in names)
    touch(tmp_path / "iter_0000020" / "mp_rank_00" / "model_optim_rng.pt")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10")
    for given in (tmp_path, folder, paths[1]):
        assert find_checkpoint(given) == paths
    touch(folder / "mp_rank_00_001" / "model_optim_rng.pt")
    with pytest.raises(UsageError, match="is no tensor-parallel"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "said", "hint"),
    [
        ({}, "the folder is empty", "mp_rank_00"),
        (
            {"latest": "global_step9", "global_step10/mp_rank_00_model_states.pt": ""},
            "its latest says 'global_step9'.*holds global_step10",
            "global_step10",
        ),
        (
            {"latest": "s", "s/zero_pp_rank_0_mp_rank_00_model_states.pt": ""},
            "ZeRO stage 3",
            "zero_to_fp32.py",
        ),
        ({"latest_checkpointed_iteration.txt": "7"}, "leads to no iter_", "iter_… folder"),
        ({"iter_0000001/__0_0.distcp": ""}, "distributed format", "--ckpt-format torch"),
        ({"archive/data.pkl": "", "archive/data/0": ""}, "an unpacked .pt file", "zip -0 -D -r"),
        ({"data.pkl": "", "data/0": ""}, "an unpacked .pt file", "zip -0 -D -r"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "PEFT", "merge_and_unl"),
        ({"spark 13b.pt": ""}, "the folder holds spark 13b.pt", "spark 13b.pt'$"),
        ({"model.safetensors": ""}, "holds safetensors", "kit up --model"),
        ({"s/mp_rank_00_model_states.pt": ""}, "the folder holds s", "/s$"),
        ({"a": "", "b": "", "c": "", "d": "", "e": ""}, "holds a, b, c and 2 more", "MindSpore"),
    ],
)
def test_what_is_there_is_named(
    tmp_path: Path, files: dict[str, str], said: str, hint: str
) -> None:
    for name, text in files.items():
        touch(tmp_path / name).write_text(text)
    with pytest.raises(EnvironmentNotReady, match=f"there is no checkpoint at .*: .*{said}") as e:
        find_checkpoint(tmp_path)
    assert re.search(hint, e.value.hint)
