from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.locate import find_checkpoint, find_tokenizer


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_checkpoint_is_a_file_or_its_folder(tmp_path: Path) -> None:
    path = touch(tmp_path / "mp_rank_00_model_states.pt")
    other = touch(tmp_path / "renamed.pt")
    assert find_checkpoint(tmp_path) == path
    assert find_checkpoint(path) == path
    assert find_checkpoint(other) == other


def test_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "x.pt"):
        with pytest.raises(EnvironmentNotReady, match="no checkpoint"):
            find_checkpoint(path)


def test_tensor_parallel_shards_are_refused(tmp_path: Path) -> None:
    first = touch(tmp_path / "mp_rank_00_model_states.pt")
    touch(tmp_path / "mp_rank_01_model_states.pt")
    for path in (tmp_path, first):
        with pytest.raises(UsageError, match=r"2 shards .* not supported yet") as caught:
            find_checkpoint(path)
        assert caught.value.exit_code == 2


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
