"""Baichuan2's tokenizer: SentencePiece as published. Travels with every model directory."""

import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import AddedToken, PreTrainedTokenizer

SPECIAL = ("<s>", "</s>", "<unk>")
Message = dict[str, str]


class Baichuan2Tokenizer(PreTrainedTokenizer):
    """Ids and text exactly as the published tokenizer gives them.

    Encoding cuts the text at ``<s>``, ``</s>`` and ``<unk>``, which become control tokens wherever
    they stand, and leaves each rest to SentencePiece; nothing is added at either end.

    Args:
        vocab_file: ``tokenizer.model``.
        user_piece, assistant_piece: the pieces that open a message of the user and of the others.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str,
        bos_token: str | AddedToken = "<s>",  # noqa: S107
        eos_token: str | AddedToken = "</s>",  # noqa: S107
        unk_token: str | AddedToken = "<unk>",  # noqa: S107
        pad_token: str | AddedToken = "<unk>",  # noqa: S107
        user_piece: str = "<reserved_106>",
        assistant_piece: str = "<reserved_107>",
        **kwargs: Any,
    ) -> None:
        self.vocab_file = vocab_file
        self.sp_model = SentencePieceProcessor(model_file=str(vocab_file))
        self.user_piece, self.assistant_piece = user_piece, assistant_piece
        kwargs["clean_up_tokenization_spaces"] = False
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            user_piece=user_piece,
            assistant_piece=assistant_piece,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Number of SentencePiece pieces."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Piece to id, added tokens included."""
        pieces = {self.sp_model.id_to_piece(index): index for index in range(self.vocab_size)}
        return {**pieces, **self.added_tokens_encoder}

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """Pieces of a text; special tokens are cut out first."""
        pieces: list[str] = []
        for part in filter(None, re.split(f"({'|'.join(SPECIAL)})", text)):
            pieces += [part] if part in SPECIAL else self._tokenize(part)
        return pieces

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self.sp_model.id_to_piece(index) for index in self.sp_model.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index)) if index < self.vocab_size else ""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids themselves: the published settings add no token at either end."""
        return token_ids_0 + (token_ids_1 or [])

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of a list of pieces, special tokens as they are written."""
        return self._decode([self._convert_token_to_id(token) for token in tokens if token])

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **_: Any
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        special = {self.sp_model.piece_to_id(token) for token in SPECIAL}
        ids = [index for index in ids if index < self.vocab_size]
        if skip_special_tokens:
            return str(self.sp_model.decode([index for index in ids if index not in special]))
        return "".join(self._runs(ids, special))

    def _runs(self, ids: Sequence[int], special: set[int]) -> Iterator[str]:
        """Special tokens, and the text between them: before one it gets a blank, as published."""
        runs = [(kind, list(run)) for kind, run in groupby(ids, key=special.__contains__)]
        for number, (is_special, run) in enumerate(runs):
            if is_special:
                yield "".join(map(self.sp_model.id_to_piece, run))
            else:
                yield (" " if number + 1 < len(runs) else "") + str(self.sp_model.decode(run))

    def chat_input_ids(self, messages: Sequence[Message], room: int) -> list[int]:
        """The ids of a conversation as the published ``chat`` makes them, cut to ``room`` tokens.

        A round is a question and what follows it. The newest is always kept, older ones as far as
        they fit behind the system message; what is still too long loses its beginning.

        Raises:
            ValueError: there is no message, or a system message that is not the first.
        """
        if not messages:
            raise ValueError("a conversation has at least one message")
        system: list[int] = []
        if messages[0]["role"] == "system":
            system = self.encode(messages[0]["content"], add_special_tokens=False)
            messages = messages[1:]
        rounds: list[list[int]] = []
        for message in messages:
            if message["role"] == "system":
                raise ValueError("a system message may only be the first")
            is_user = message["role"] == "user"
            if is_user or not rounds:
                rounds.append([])
            opener = self.user_piece if is_user else self.assistant_piece
            rounds[-1].append(self._convert_token_to_id(opener))
            rounds[-1] += self.encode(message["content"], add_special_tokens=False)
        left, history = room - len(system), list[int]()
        for number, each in enumerate(reversed(rounds)):
            if number and (len(history) >= left or len(history) + len(each) > left):
                break
            history = each + history
        ids = system + history
        if not messages or messages[-1]["role"] != "assistant":
            ids.append(self._convert_token_to_id(self.assistant_piece))
        return ids[-room:]

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Copy ``tokenizer.model`` into a directory; returns the copy's path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}tokenizer.model"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


__all__ = ["Baichuan2Tokenizer"]
