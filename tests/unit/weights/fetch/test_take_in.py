import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.lock import LockedFile
from kit.weights.catalogue import Catalogue, read_catalogue
from kit.weights.fetch.take_in import take_in
from kit.weights.fetch.transfer import Watch
from kit.weights.folder import checkpoint_dir, known_digest
from kit.weights.layers import read_layers, record
from tests.held_back import held_back, open_folder

SHIPPED: Catalogue = read_catalogue()
CATALOGUE = replace(  # of no certain size
    SHIPPED, weights={name: replace(each, shape=None) for name, each in SHIPPED.weights.items()}
)
SHIPPED_SHAPE = next(each.shape for each in SHIPPED.weights.values() if each.shape)
BIG = os.urandom((1 << 20) + 1)
SHA = hashlib.sha256(BIG).hexdigest()
CHECKPOINT = "mp_rank_00_model_states.pt"


def put(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(BIG if file.endswith((".pt", ".ckpt")) else b"small")
    return root


UPSTREAM = (
    f"iFlytekSpark_13B_chat_fp32/{CHECKPOINT}",
    "Tokenizer/tokenizer.model",
    "Tokenizer/tokenizer.vocab",
)


def test_progress_counts_all_sets_together(tmp_path: Path) -> None:
    usb, seen = put(tmp_path / "usb", *UPSTREAM), []
    watch = Watch(lambda *done: seen.append(done))
    take_in([usb], CATALOGUE, tmp_path / "data", watch=watch)
    total = len(BIG) + 4 * len(b"small")
    assert seen == sorted(seen)
    assert {of for _, of in seen} == {total}
    assert seen[-1] == (total, total)


def test_upstreams_layout_is_recognised_and_linked(tmp_path: Path) -> None:
    usb = put(tmp_path / "usb", *UPSTREAM)
    taken = {each.name: each for each in take_in([usb], CATALOGUE, tmp_path / "data")}
    assert taken.keys() == {"spark-13b-chat", "spark-13b-tokenizer"}
    chat = taken["spark-13b-chat"]
    assert chat.missing == ()
    assert (chat.directory / CHECKPOINT).samefile(usb / UPSTREAM[0])
    assert (chat.directory / "Tokenizer" / "tokenizer.model").read_bytes() == b"small"
    assert not (chat.directory / UPSTREAM[1]).samefile(usb / UPSTREAM[1])
    entry = read_layers(tmp_path / "data").weights["spark-13b-chat"][CHECKPOINT]
    assert (entry.sha256, entry.basis) == (SHA, "observed")
    assert str(tmp_path) not in str(entry.source)
    assert known_digest(chat.directory, CHECKPOINT) == SHA


@pytest.mark.parametrize("path", ["", "spark-13b-base", f"spark-13b-base/{CHECKPOINT}"])
def test_the_weights_folder_of_another_machine(tmp_path: Path, path: str) -> None:
    usb = put(tmp_path / "usb", f"spark-13b-base/{CHECKPOINT}")
    [base] = take_in([usb / path], CATALOGUE, tmp_path / "data")
    assert base.name == "spark-13b-base"
    assert base.missing == ("Tokenizer/tokenizer.model", "Tokenizer/tokenizer.vocab")


def test_mindspores_file_names_tell(tmp_path: Path) -> None:
    usb = put(tmp_path / "x", "iflytekspark_13b_chat_bf16.ckpt", "tokenizer.model")
    taken = take_in([usb], CATALOGUE, tmp_path / "data")
    assert "spark-13b-chat-ms-bf16" in {each.name for each in taken}


def test_a_file_that_does_not_tell_needs_a_name(tmp_path: Path) -> None:
    usb = put(tmp_path / "x", CHECKPOINT)
    with pytest.raises(UsageError, match="no weights are recognised") as caught:
        take_in([usb], CATALOGUE, tmp_path / "data")
    assert "--as NAME" in caught.value.hint
    [base] = take_in([usb / CHECKPOINT], CATALOGUE, tmp_path / "data", name="spark-13b-base")
    assert base.name == "spark-13b-base"
    with pytest.raises(UsageError, match="no weights named"):
        take_in([usb], CATALOGUE, tmp_path / "data", name="spark")


def test_copies_on_demand(tmp_path: Path) -> None:
    usb = put(tmp_path / "usb", *UPSTREAM)
    take_in([usb], CATALOGUE, tmp_path / "data", link=False)
    target = checkpoint_dir(tmp_path / "data", "spark-13b-chat") / CHECKPOINT
    assert not target.samefile(usb / UPSTREAM[0])
    assert target.read_bytes() == BIG


def test_again_costs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    usb = put(tmp_path / "usb", *UPSTREAM)
    first = take_in([usb], CATALOGUE, tmp_path / "data")
    lock = (tmp_path / "data" / "kit.lock").read_bytes()
    assert take_in([usb], CATALOGUE, tmp_path / "data") == first
    assert (tmp_path / "data" / "kit.lock").read_bytes() == lock


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("size", [len(BIG), 77])
def test_what_the_lock_contradicts_is_not_taken(tmp_path: Path, link: bool, size: int) -> None:
    usb = put(tmp_path / "usb", *UPSTREAM)
    wrong = LockedFile(size, "0" * 64, "observed", "x", "2024-01-01")
    record(tmp_path / "data", "spark-13b-chat", {CHECKPOINT: wrong})
    with pytest.raises(IntegrityError, match="expected"):
        take_in([usb], CATALOGUE, tmp_path / "data", link=link)
    assert not (checkpoint_dir(tmp_path / "data", "spark-13b-chat") / CHECKPOINT).exists()


def test_two_candidates(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        put(tmp_path / "usb" / folder, *UPSTREAM)
    with pytest.raises(UsageError, match="could be"):
        take_in([tmp_path / "usb"], CATALOGUE, tmp_path / "data")


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="there is no"):
        take_in([tmp_path / "usb"], CATALOGUE, tmp_path / "data")


@pytest.mark.parametrize("parameters", [SHIPPED_SHAPE.parameters, 10_000])
def test_a_checkpoint_of_another_size_class_is_refused(tmp_path: Path, parameters: int) -> None:
    """Smaller than its tensors, or larger than the training state of a model of that size."""
    usb, shape = put(tmp_path / "usb", *UPSTREAM), replace(SHIPPED_SHAPE, parameters=parameters)
    known = {name: replace(each, shape=shape) for name, each in SHIPPED.weights.items()}
    with pytest.raises(IntegrityError, match="are expected") as caught:
        take_in([usb], replace(SHIPPED, weights=known), tmp_path / "data")
    assert f"kit weights convert {usb / UPSTREAM[0]}" in caught.value.hint
    assert "spark-13b-chat" not in read_layers(tmp_path / "data").weights
    assert not (checkpoint_dir(tmp_path / "data", "spark-13b-chat") / CHECKPOINT).exists()


def test_a_data_folder_without_writing_and_files_without_reading(tmp_path: Path) -> None:
    with open_folder() as folder:
        usb = put(folder / "usb", *UPSTREAM)
        (folder / "data").mkdir(0o555)
        for link in (True, False):
            with held_back(), pytest.raises(EnvironmentNotReady, match="cannot write to") as told:
                take_in([usb], CATALOGUE, folder / "data", link=link)
            assert "KIT_DATA_DIR" in told.value.hint
        (folder / "data").chmod(0o777)
        (usb / UPSTREAM[0]).chmod(0)
        with held_back(), pytest.raises(EnvironmentNotReady, match=r"cannot read .*\.pt: Perm"):
            take_in([usb], CATALOGUE, folder / "data")
        (usb / "Tokenizer").chmod(0)
        with held_back(), pytest.raises(EnvironmentNotReady, match=r"cannot read .*: Perm"):
            take_in([usb / UPSTREAM[1]], CATALOGUE, folder / "data")
