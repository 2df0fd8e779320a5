"""The files beside the tensors that make a converted directory open in Hugging Face tools."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kit
from kit.errors import IntegrityError
from kit.records import MAX_BYTES, read_plain

SPARK_SOURCE = Path(kit.__file__).parent / "models/spark"
CODE_FILES = (
    "attention_spark.py",
    "cache_spark.py",
    "configuration_spark.py",
    "generation_spark.py",
    "mask_spark.py",
    "modeling_spark.py",
    "rotary_spark.py",
    "tokenization_spark.py",
)
TRANSFORMERS_VERSION = "5.19.0"
"""The version that the kit pins; what else the code runs on, ``configuration_spark.py`` says."""

END_TOKEN, PAD_TOKEN, UNKNOWN_TOKEN = "<end>", "<pad>", "<unk>"

AUTO_MAP = {
    "AutoConfig": "configuration_spark.SparkConfig",
    "AutoModel": "modeling_spark.SparkModel",
    "AutoModelForCausalLM": "modeling_spark.SparkForCausalLM",
}

UPSTREAM_GENERATION = {
    "do_sample": False,
    "min_new_tokens": 1,
    "presence_penalty": 1.1,
    "frequency_penalty": 0.1,
}
"""Upstream's shipped defaults: greedy, repeat_penalty 1.2 and num_repeat_penalty 0.1, min_len 1."""


def write_support_files(directory: Path, config: Mapping[str, Any], tokenizer_model: Path) -> None:
    """Write configuration, generation defaults, tokenizer, chat template and modelling code.

    Args:
        directory: where the safetensors files lie.
        config: hidden_size, num_hidden_layers, intermediate_size, vocab_size,
            num_attention_heads, max_position_embeddings, sliding_window (None for none),
            layer_norm_eps, rope_theta, and dtype as torch names it.
        tokenizer_model: the SentencePiece model.

    Raises:
        IntegrityError: the tokenizer is unreadable, lacks ``<end>``, ``<pad>`` or ``<unk>``, or
            has more pieces than the embedding table has rows.
    """
    ids = special_ids(tokenizer_model, config["vocab_size"])
    token_ids = {"eos_token_id": ids[END_TOKEN], "pad_token_id": ids[PAD_TOKEN]}
    made_for = {"transformers_version": TRANSFORMERS_VERSION}
    _write_json(directory / "config.json", _model_config(config) | token_ids | made_for)
    _write_json(directory / "generation_config.json", UPSTREAM_GENERATION | token_ids | made_for)
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(config))
    shutil.copyfile(tokenizer_model, directory / "tokenizer.model")
    for name in (*CODE_FILES, "chat_template.jinja"):
        shutil.copyfile(SPARK_SOURCE / name, directory / name)


def _model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in config.items() if key != "rope_theta"}
    return {
        "architectures": ["SparkForCausalLM"],
        "model_type": "iflytekspark",
        "auto_map": AUTO_MAP,
        **fields,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config["rope_theta"])},
        "tie_word_embeddings": True,
        "window": "block",
    }


def _tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "SparkTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_spark.SparkTokenizer", None]},
        "model_max_length": config["max_position_embeddings"],
        "eos_token": END_TOKEN,
        "pad_token": PAD_TOKEN,
        "unk_token": UNKNOWN_TOKEN,
        "clean_up_tokenization_spaces": False,
    }


def special_ids(tokenizer_model: Path, vocab_size: int) -> dict[str, int]:
    """Ids of ``<end>``, ``<pad>`` and ``<unk>``.

    Raises:
        IntegrityError: the tokenizer is unreadable, lacks one of them, or has more than
            ``vocab_size`` pieces.
    """
    from sentencepiece import SentencePieceProcessor

    hint = "give the tokenizer.model that belongs to this checkpoint with --tokenizer"
    try:
        pieces = SentencePieceProcessor(model_file=str(tokenizer_model))
    except (OSError, RuntimeError) as error:
        raise IntegrityError(
            f"{tokenizer_model} is not a SentencePiece model: {error}", hint=hint
        ) from error
    if pieces.get_piece_size() > vocab_size:
        raise IntegrityError(
            f"{tokenizer_model} has {pieces.get_piece_size()} pieces, "
            f"but the checkpoint's embedding table has {vocab_size} rows",
            hint=hint,
        )
    ids = {token: pieces.piece_to_id(token) for token in (END_TOKEN, PAD_TOKEN, UNKNOWN_TOKEN)}
    missing = [token for token, index in ids.items() if pieces.id_to_piece(index) != token]
    if missing:
        raise IntegrityError(f"{tokenizer_model} lacks {', '.join(missing)}", hint=hint)
    _require_same_ids(ids, tokenizer_model.with_suffix(".vocab"), hint)
    return ids


def _require_same_ids(ids: Mapping[str, int], vocab: Path, hint: str) -> None:
    """Upstream takes special ids from the line numbers of ``.vocab``; ours are the model's own."""
    if not vocab.is_file():
        return
    # What is not UTF-8 is no special token; the lines keep their numbers.
    lines = read_plain(vocab, MAX_BYTES).decode("utf-8", "replace").split("\n")
    line_numbers = {line.split("\t")[0]: number for number, line in enumerate(lines)}
    for token, index in ids.items():
        if line_numbers.get(token) != index:
            raise IntegrityError(
                f"{vocab} has {token} as number {line_numbers.get(token)}, "
                f"its .model has it as number {index}",
                hint=hint,
            )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Mapping[str, Any]) -> str:
    """The content of a file of configuration, as it is written into a directory."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
