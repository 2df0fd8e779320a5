"""The files beside the tensors, by which Hugging Face tools open a directory."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import kit
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.files import exclusive, write_durably
from kit.records import MAX_BYTES, read_object, read_plain
from kit.weights.convert.record import RECORD_NAME, ConversionRecord, read_record, write_record
from kit.weights.digest import sha256_file


@dataclass(frozen=True)
class Code:
    """The modelling code that travels with a family's directories."""

    source: Path
    files: tuple[str, ...]


_MODELS = Path(kit.__file__).parent / "models"
SPARK_SOURCE = _MODELS / "spark"
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
CODE = {
    "spark": Code(SPARK_SOURCE, CODE_FILES),
    "baichuan2": Code(
        _MODELS / "baichuan2",
        (
            "alibi_baichuan2.py",
            "cache_baichuan2.py",
            "configuration_baichuan2.py",
            "modeling_baichuan2.py",
            "tokenization_baichuan2.py",
        ),
    ),
    "chatglm": Code(
        _MODELS / "chatglm",
        (
            "cache_chatglm6b.py",
            "configuration_chatglm6b.py",
            "modeling_chatglm6b.py",
            "prefix_chatglm6b.py",
            "tokenization_chatglm6b.py",
        ),
    ),
}


def code_of(record: ConversionRecord) -> Code:
    """The code of the family that a directory was converted for."""
    return next(
        (code for code in CODE.values() if not record.support.keys().isdisjoint(code.files)),
        CODE["spark"],
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


_TEMPLATE = "chat_template.jinja"
_CONFIGS = ("config.json", "generation_config.json")


def has_old_code(record: ConversionRecord) -> bool:
    """Whether a directory's code is not this kit's: an older one can give wrong text."""
    code = code_of(record)
    return any(record.support.get(name) != sha256_file(code.source / name) for name in code.files)


def refresh(directory: Path, accept: Iterable[str] = ()) -> tuple[str, ...]:
    """Give a converted directory this kit's code; the tensors stay. Returns the files renewed.

    The chat template, and the version of transformers that the configurations name, are renewed,
    too, unless the file was changed by hand.

    Args:
        directory: that ``kit weights convert`` made, with whatever kit.
        accept: files that were changed by hand and are to count as they are now.

    Raises:
        EnvironmentNotReady: it has no conversion's record, or cannot be written.
        UsageError: ``accept`` names something else than a file of configuration.
        IntegrityError: its record is damaged.
    """
    record = read_record(directory)
    if record is None:
        raise EnvironmentNotReady(
            f"{directory} has no {RECORD_NAME}: it was not made by kit weights convert",
            hint="kit weights list shows the directories that were",
        )
    edited = record.edited | {name: _accepted(directory, name, record) for name in accept}
    with exclusive(directory, "writing"):
        try:
            fresh = dict(_fresh(directory, replace(record, edited=edited)))
            for name, content in fresh.items():
                write_durably(directory / name, content)
            code = code_of(record)
            obsolete = [n for n in record.support if n.endswith(".py") and n not in code.files]
            for name in obsolete:
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentNotReady(
                f"cannot write to {directory}: {error.strerror}", hint="check its permissions"
            ) from error
        support = {n: digest for n, digest in record.support.items() if n not in obsolete}
        support |= {name: sha256_file(code.source / name) for name in code.files}
        support |= {name: sha256(content).hexdigest() for name, content in fresh.items()}
        renewed = replace(record, kit_version=kit.__version__, support=support, edited=edited)
        write_record(directory, renewed)
    return tuple(sorted(fresh))


def _accepted(directory: Path, name: str, record: ConversionRecord) -> str:
    code = code_of(record)
    if name not in record.support or name in code.files:
        names = ", ".join(sorted(set(record.support) - set(code.files)))
        raise UsageError(f"{name} is no file of configuration", hint=f"one of {names}")
    path = directory / name
    if not path.is_file():
        raise EnvironmentNotReady(f"{path} is missing", hint="put it back, or convert again")
    return sha256_file(path)


def _fresh(directory: Path, record: ConversionRecord) -> Iterable[tuple[str, bytes]]:
    """The files that differ from what this kit would write, with their new content."""
    code = code_of(record)
    for name in (*code.files, _TEMPLATE):
        content = (code.source / name).read_bytes()
        if name == _TEMPLATE and not _untouched(directory, name, record):
            continue
        path = directory / name
        if not path.is_file() or path.read_bytes() != content:
            yield name, content
    for name in _CONFIGS:
        if _untouched(directory, name, record):
            config = read_object(directory / name)
            if config.get("transformers_version") != TRANSFORMERS_VERSION:
                yield name, _renamed(config).encode()


def _untouched(directory: Path, name: str, record: ConversionRecord) -> bool:
    path = directory / name
    return (
        name not in record.edited
        and path.is_file()
        and sha256_file(path) == record.support.get(name)
    )


def _renamed(config: Mapping[str, object]) -> str:
    return json_text({**config, "transformers_version": TRANSFORMERS_VERSION})
