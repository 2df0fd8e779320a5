"""ChatGLM-6B's tokenizer: SentencePiece as published. Travels with every model directory."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import AddedToken, PreTrainedTokenizer

SPECIAL = ("<sop>", "<eop>", "<unk>", "<pad>", "[MASK]")
_CUT = re.compile(r"\s*(<sop>|<eop>|<unk>|<pad>|\[MASK\])\s*")
_MOST_BLANKS = 80
_BLANKS = re.compile(" {2,}")
_BLANK_PIECE = re.compile(r"<\|blank_(\d\d?)\|>")
_TIDIED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Lose their blanks in decoded text, in this order, as transformers' clean-up had it then."""
_FULL_WIDTH = ((",", "，"), ("!", "！"), (":", "："), (";", "；"), ("?", "？"))


class ChatGLM6BTokenizer(PreTrainedTokenizer):
    """Ids and text exactly as the published tokenizer gives them.

    Encoding cuts the text at ``<sop>``, ``<eop>``, ``<unk>``, ``<pad>`` and ``[MASK]``, with the
    white space around them; in each rest newlines, tabs and runs of blanks become pieces, and
    SentencePiece does the rest. ``[gMASK]`` and ``<sop>`` are added at the end. Decoding drops
    padding, and blanks before punctuation.
    """

    vocab_files_names = {"vocab_file": "ice_text.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str,
        bos_token: str | AddedToken = "<sop>",  # noqa: S107
        eos_token: str | AddedToken = "<eop>",  # noqa: S107
        unk_token: str | AddedToken = "<unk>",  # noqa: S107
        pad_token: str | AddedToken = "<pad>",  # noqa: S107
        mask_token: str | AddedToken = "[MASK]",  # noqa: S107
        padding_side: str = "left",
        **kwargs: Any,
    ) -> None:
        self.vocab_file = vocab_file
        self.sp_model = SentencePieceProcessor(model_file=str(vocab_file))
        kwargs["clean_up_tokenization_spaces"] = False  # it is done here
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=mask_token,
            padding_side=padding_side,
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
        for part in filter(None, _CUT.split(text)):
            pieces += [part] if part in SPECIAL else self._tokenize(part)
        return pieces

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        text = _BLANKS.sub(lambda run: _blanks(len(run[0])), text)
        return [self.sp_model.id_to_piece(index) for index in self.sp_model.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index)) if index < self.vocab_size else ""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids, ``[gMASK]`` and ``<sop>``; of a pair the answer behind them, and its end."""
        opened = [self._convert_token_to_id(token) for token in ("[gMASK]", "<sop>")]
        if token_ids_1 is None:
            return token_ids_0 + opened
        return token_ids_0 + opened + token_ids_1 + [self._convert_token_to_id("<eop>")]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of a list of pieces."""
        return self._decode([self._convert_token_to_id(token) for token in tokens if token])

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **_: Any
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        dropped = {self.sp_model.piece_to_id(token) for token in SPECIAL}
        if not skip_special_tokens:
            dropped = {self.sp_model.piece_to_id("<pad>")}
        kept = [index for index in ids if index < self.vocab_size and index not in dropped]
        text = str(self.sp_model.decode(kept))
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        return _tidied(_BLANK_PIECE.sub(lambda piece: " " * int(piece[1]), text))

    def apply_chat_template(
        self,
        conversation: Any,
        *args: Any,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = None,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        **options: Any,
    ) -> Any:
        """transformers', with ``[gMASK]`` and ``<sop>`` at the end, which no text spells."""
        options["tokenize"] = False
        text = super().apply_chat_template(conversation, *args, **options)
        if not tokenize:
            return text
        encoded = self(
            text,
            return_tensors=return_tensors,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
        )
        return encoded if return_dict else encoded["input_ids"]

    def chat_prompt(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The text of a conversation as the published ``chat`` makes it.

        Args:
            query: the newest question.
            history: questions and answers before it; without any, the question is all there is.
        """
        if not history:
            return query
        rounds = "".join(
            f"[Round {number}]\n问：{question}\n答：{answer}\n"
            for number, (question, answer) in enumerate(history)
        )
        return f"{rounds}[Round {len(history)}]\n问：{query}\n答："

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Copy ``ice_text.model`` into a directory; returns the copy's path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}ice_text.model"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


def reply_text(text: str) -> str:
    """A reply as the published ``chat`` shows it: full-width punctuation beside ideographs."""
    text = text.strip().replace("[[训练时间]]", "2023年")
    for plain, wide in _FULL_WIDTH:
        text = re.sub(rf"([\u4e00-\u9fff]){re.escape(plain)}", rf"\1{wide}", text)
        text = re.sub(rf"{re.escape(plain)}([\u4e00-\u9fff])", rf"{wide}\1", text)
    return text


def _blanks(count: int) -> str:
    """Pieces for a run of blanks, 80 at a time; one that is left over stays a blank."""
    whole, rest = divmod(count, _MOST_BLANKS)
    pieces = f"<|blank_{_MOST_BLANKS}|>" * whole
    return pieces + (f"<|blank_{rest}|>" if rest > 1 else " " * rest)


def _tidied(text: str) -> str:
    for spaced in _TIDIED:
        text = text.replace(spaced, spaced.strip())
    return text


__all__ = ["ChatGLM6BTokenizer"]
