"""What the server needs from a tokenizer: a part of transformers' interface."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

from kit.errors import IntegrityError

_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
_ANCHOR = "a"


class Tokenizer(Protocol):
    """Text to ids and back. transformers' tokenizers are such; methods may run in any thread."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Text of ids; for people when special tokens are skipped."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> str:
        """The vocabulary's piece; ``<0xE4>`` for a single byte."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        add_generation_prompt: bool,
        tokenize: bool,
        return_dict: bool,
    ) -> list[int]:
        """Ids of a conversation, up to where the assistant's next answer begins."""
        ...


def load_tokenizer(model_dir: Path) -> Tokenizer:
    """The tokenizer of a converted directory.

    Raises:
        IntegrityError: the directory holds none, or a damaged one.
    """
    from kit.models.spark import SparkTokenizer

    try:
        return cast(Tokenizer, SparkTokenizer.from_pretrained(model_dir, local_files_only=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{model_dir} holds no tokenizer that can be loaded: {error}",
            hint="convert the weights again: kit weights convert --help",
        ) from error


@dataclass(frozen=True)
class TokenText:
    """How one token is shown in log-probabilities. ``raw`` is what it adds to the text's bytes."""

    text: str
    raw: bytes


class InContextDecoder:
    """Decodes ids as text that follows other text.

    A SentencePiece decoder drops white space where a text begins. Here a letter stands before the
    ids, so that their own white space stays, as it does in the middle of a sequence.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode(_ANCHOR)
        self._anchor_length = len(tokenizer.decode(self._anchor, skip_special_tokens=True))
        self.token = lru_cache(maxsize=65536)(self._token)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out, newlines for ``<ret>``."""
        ids = [*self._anchor, *token_ids]
        return self._tokenizer.decode(ids, skip_special_tokens=True)[self._anchor_length :]

    def _token(self, token_id: int) -> TokenText:
        """One token by itself; what has no text is shown by its piece and adds no bytes."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if byte := _BYTE_PIECE.fullmatch(piece):
            raw = bytes.fromhex(byte[1])
            return TokenText(raw.decode() if raw.isascii() else f"bytes:\\x{raw.hex()}", raw)
        text = self.text([token_id])
        return TokenText(text or piece, text.encode())
