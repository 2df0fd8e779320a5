"""Spark's tokenizer: SentencePiece as upstream uses it. Travels with every model directory."""

import re
import shutil
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizer

SPACED_MARKS = re.compile("([，。！？]) *")
WHITESPACE = {"<ret>": "\n", "<tab>": "\t", "<pag>": "\f"}
ROLE_TOKENS = ("</s>", "<User>", "<Bot>")
GENERATION_TAG = re.compile(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}")
MARK = "\ue000generation\ue000"
"""Nothing that stands in a text: U+E000 is for private use."""


class SparkTokenizer(PreTrainedTokenizer):
    """Ids and text exactly as upstream's tokenizer gives them.

    Encoding puts one space behind each of ``，。！？``, turns newlines into ``<ret>`` and tabs into
    four spaces, and leaves the rest to SentencePiece; nothing is added at either end. Special
    pieces that a user types become control tokens, as upstream has it.

    ``decode`` gives upstream's text, control pieces included. With ``skip_special_tokens=True``,
    and in ``convert_tokens_to_string``, which servers stream with, it gives text for people:
    special tokens dropped, ``<ret>``, ``<tab>`` and ``<pag>`` as the white space they stand for.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str,
        eos_token: str | AddedToken = "<end>",  # noqa: S107
        pad_token: str | AddedToken = "<pad>",  # noqa: S107
        unk_token: str | AddedToken = "<unk>",  # noqa: S107
        **kwargs: Any,
    ) -> None:
        self.vocab_file = vocab_file
        self.sp_model = SentencePieceProcessor(model_file=str(vocab_file))
        pieces = range(self.sp_model.get_piece_size())
        self._piece_ids = {self.sp_model.id_to_piece(index): index for index in pieces}
        kwargs.setdefault(
            "extra_special_tokens", [token for token in ROLE_TOKENS if token in self._piece_ids]
        )
        kwargs["clean_up_tokenization_spaces"] = False
        super().__init__(eos_token=eos_token, pad_token=pad_token, unk_token=unk_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of SentencePiece pieces; tokens added later come on top."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Piece to id, added tokens included."""
        return {**self._piece_ids, **self.added_tokens_encoder}

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """Pieces of a text. Only tokens that are not SentencePiece's own are cut out first."""
        added = [token for token in self.added_tokens_encoder if token not in self._piece_ids]
        if not added:
            return self._tokenize(text)
        longest_first = sorted(map(re.escape, added), key=len, reverse=True)
        parts = re.split(f"({'|'.join(longest_first)})", text)
        pieces: list[str] = []
        for part in filter(None, parts):
            pieces += [part] if part in added else self._tokenize(part)
        return pieces

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        text = SPACED_MARKS.sub(r"\1 ", text).replace("\n", "<ret>").replace("\t", " " * 4)
        return [self.sp_model.id_to_piece(index) for index in self.sp_model.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._piece_ids.get(token, self.sp_model.unk_id())

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index)) if index < self.vocab_size else ""

    def apply_chat_template(
        self,
        conversation: Any,
        *args: Any,
        return_assistant_tokens_mask: bool = False,
        **options: Any,
    ) -> Any:
        """transformers', which itself can mask the assistant's tokens for fast tokenizers only.

        Raises:
            ValueError: the mask is wanted, but not ids as a dictionary.
        """
        encoded = super().apply_chat_template(conversation, *args, **options)
        if not return_assistant_tokens_mask:
            return encoded
        if not isinstance(encoded, BatchEncoding):
            message = "return_assistant_tokens_mask needs tokenize and return_dict"
            raise ValueError(message)
        template = self.get_chat_template(options.get("chat_template"), options.get("tools"))
        options["chat_template"] = GENERATION_TAG.sub(rf"{{{{\1 '{MARK}' \2}}}}", template)
        marked = super().apply_chat_template(conversation, *args, **options | {"tokenize": False})
        flat = isinstance(marked, str) and not options.get("return_tensors")
        attention = encoded["attention_mask"]
        rows = zip(
            [marked] if isinstance(marked, str) else marked,
            [attention] if flat else attention,
            strict=True,
        )
        masks = [self._spread(self._assistant_mask(text), row) for text, row in rows]
        encoded["assistant_masks"] = masks[0] if flat else masks
        if options.get("return_tensors"):
            encoded.convert_to_tensors(tensor_type=options["return_tensors"])
        return encoded

    def _assistant_mask(self, marked: str) -> list[int]:
        """1 for every id between a mark and the next, in the ids of the text without marks."""
        parts = marked.split(MARK)
        ids, prefix = self.encode("".join(parts), add_special_tokens=False), ""
        mask, start = [0] * len(ids), 0
        for number, part in enumerate(parts):
            prefix += part
            before = self.encode(prefix, add_special_tokens=False)
            shared = sum(takewhile(bool, map(int.__eq__, ids, before)))
            if number % 2:
                mask[start:shared] = [1] * (shared - start)
            start = shared
        return mask

    def _spread(self, mask: list[int], attention: Iterable[int]) -> list[int]:
        """``mask`` cut and padded as the ids were, whose attention mask is ``attention``."""
        places = [int(place) for place in attention]
        cut = len(mask) - sum(places)
        kept = iter(mask[cut:] if self.truncation_side == "left" else mask)
        return [next(kept) if place else 0 for place in places]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids themselves: upstream adds no token at either end."""
        return token_ids_0 + (token_ids_1 or [])

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text for people of a list of pieces: ``<ret>`` is a newline."""
        ids = [self._convert_token_to_id_with_added_voc(token) for token in tokens if token]
        return self._text(ids, for_people=True)

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, **_: Any
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        if skip_special_tokens:
            special = set(self.all_special_ids)
            ids = [index for index in ids if index not in special]
        return self._text(ids, for_people=skip_special_tokens)

    def _text(self, ids: list[int], for_people: bool) -> str:
        """SentencePiece decodes each run of its own ids; added tokens stand between the runs."""
        text, run = [], []
        for index in ids:
            if index < self.vocab_size:
                run.append(index)
                continue
            text += [self._run_text(run, for_people), self._added_token(index)]
            run = []
        return "".join([*text, self._run_text(run, for_people)])

    def _run_text(self, ids: list[int], for_people: bool) -> str:
        text = str(self.sp_model.decode(ids)) if ids else ""
        if for_people:
            for piece, white_space in WHITESPACE.items():
                text = text.replace(piece, white_space)
        return text

    def _added_token(self, index: int) -> str:
        """Ids beyond the vocabulary pad upstream's embedding table; they have no text."""
        token = self.added_tokens_decoder.get(index)
        return token.content if token else ""

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Copy ``tokenizer.model`` into a directory; returns the copy's path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}tokenizer.model"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)


__all__ = ["SparkTokenizer"]
