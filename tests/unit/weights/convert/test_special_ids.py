"""Special ids are the tokenizer model's own, and those that upstream reads from ``.vocab``."""

import shutil
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.weights.convert.support_files import special_ids


@pytest.fixture
def model(tokenizer_model: Path, tmp_path: Path) -> Path:
    shutil.copy(tokenizer_model, tmp_path)
    shutil.copy(tokenizer_model.with_suffix(".vocab"), tmp_path)
    return tmp_path / tokenizer_model.name


def test_bytes_that_are_no_text_do_not_move_the_special_tokens(model: Path) -> None:
    ids = special_ids(model, 64)
    vocab = model.with_suffix(".vocab")
    vocab.write_bytes(vocab.read_bytes() + b"\xff\xfe\t-1\n")
    assert special_ids(model, 64) == ids


def test_a_vocab_that_counts_otherwise_is_refused(model: Path) -> None:
    vocab = model.with_suffix(".vocab")
    vocab.write_bytes(b"more\t0\n" + vocab.read_bytes())
    with pytest.raises(IntegrityError, match=r"has <\w+> as number \d+, its \.model has it as"):
        special_ids(model, 64)
