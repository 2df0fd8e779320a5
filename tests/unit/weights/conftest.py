"""A small checkpoint with its tokenizer, a user who fetches, a data folder to bundle."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from kit.settings import Settings
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.fetch import ask
from kit.weights.folder import checkpoint_dir
from kit.weights.layers import lock_files, record
from tests.bundles import FILES
from tests.file_server import FileServer, Served
from tests.home import CATALOGUE, CONTENT, TOKENIZER, Home

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(ask, "PAUSES_S", ())
    with FileServer() as server:
        server.files = {
            "/licence.md": Served(b"all of the text"),
            "/one/w.pt": Served(CONTENT),
            "/one/t.model": Served(TOKENIZER),
            "/two/w.pt": Served(CONTENT),
            "/two/t.model": Served(TOKENIZER),
        }
        catalogue = tmp_path / "own.toml"
        catalogue.write_text(CATALOGUE.format(url=server.url()))
        yield Home(server, Settings(tmp_path / "data", tmp_path, weights_catalogue=catalogue))


@pytest.fixture
def data(tmp_path: Path, source: Path) -> Path:
    """A data folder with a fetched set, a converted directory and a licence's text."""
    data_dir = tmp_path / "data"
    directory = checkpoint_dir(data_dir, "tiny")
    for file, content in FILES.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(content)
    found = lock_files(directory, FILES)
    record(data_dir, "tiny", {f: replace(e, basis="observed") for f, e in found.items()})
    convert_checkpoint(source, data_dir / "tiny-bf16")
    (data_dir / "licences").mkdir()
    (data_dir / "licences" / "own.md").write_text("terms")
    return data_dir
