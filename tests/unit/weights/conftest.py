"""A small checkpoint with a tokenizer that fits it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

VOCAB = 64


@pytest.fixture(scope="session")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few words to learn from", "words and more words"] * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCAB - 4,
        hard_vocab_limit=False,
        user_defined_symbols=["<end>", "<ret>", "<User>", "<Bot>"],
        pad_id=0,
        unk_id=3,
        bos_id=1,
        eos_id=2,
        pad_piece="<pad>",
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture
def source(tmp_path: Path, tokenizer_model: Path, make_state: Callable[..., Any]) -> Path:
    """A checkpoint's folder in the layout of upstream's repositories."""
    folder = tmp_path / "chat"
    folder.mkdir()
    state = make_state(layers=2, hidden=16, ffn=24, vocab=VOCAB)
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4, "localsize": 128}))
    tokenizer = tmp_path / "Tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    return folder
