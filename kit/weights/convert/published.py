"""What stands beside the tensors of Baichuan2-13B and ChatGLM-6B, made of what is published."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kit.checkpoint.encoding import OutputDType
from kit.checkpoint.layout import Dimensions
from kit.checkpoint.model import Model, read_model, read_published
from kit.checkpoint.published import find_shards
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.records import read_object
from kit.weights.convert.facts import quantization_config
from kit.weights.convert.locate import find_checkpoint
from kit.weights.convert.support_files import CODE, TRANSFORMERS_VERSION, json_text

_TOKENIZERS = {"baichuan2": "tokenizer.model", "chatglm": "ice_text.model"}
_CHATGLM_DEFAULTS = {"do_sample": True, "temperature": 0.95, "top_p": 0.7}
"""Those of the published ``chat``; the hub has no generation_config.json."""


def read_config(folder: Path) -> dict[str, Any]:
    """The published ``config.json``.

    Raises:
        EnvironmentNotReady: it is missing.
        IntegrityError: it is damaged.
        UsageError: it is of Baichuan2-7B, whose positions are rotary.
    """
    path = folder / "config.json"
    try:
        config = read_object(path)
    except FileNotFoundError as error:
        raise EnvironmentNotReady(
            f"{path} is missing", hint="put the published config.json beside the shards"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}", hint="get it again") from error
    if config.get("model_type") == "baichuan" and "max_position_embeddings" in config:
        raise UsageError(
            f"{folder} is Baichuan2-7B, which has rotary positions",
            hint="Baichuan2-13B is what the kit converts",
        )
    return config


def open_model(source: Path) -> Model:
    """The model at ``source``, of whichever family and format.

    Raises:
        KitError: see :func:`kit.weights.convert.convert.convert_checkpoint`.
    """
    if shards := find_shards(source):
        return read_published(shards, read_config(source))
    return read_model(find_checkpoint(source))


def write_published_files(
    directory: Path, folder: Path, model: Model, config: Mapping[str, Any], dtype: OutputDType
) -> None:
    """Write configuration, generation defaults, tokenizer, chat template and modelling code.

    Args:
        directory: where the safetensors files will lie.
        folder: what the hub publishes.
        config: its ``config.json``.
        dtype: of the converted tensors.

    Raises:
        EnvironmentNotReady: the tokenizer is missing.
        IntegrityError: the configuration lacks something, or contradicts the tensors.
    """
    vocabulary = folder / _TOKENIZERS[model.family]
    if not vocabulary.is_file():
        raise EnvironmentNotReady(
            f"{vocabulary} is missing", hint="put the published tokenizer beside the shards"
        )
    try:
        described = (_baichuan2 if model.family == "baichuan2" else _chatglm)(
            config, model.dimensions, folder
        )
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder / 'config.json'} lacks {error}", hint="get the published config.json again"
        ) from error
    made_for = {"transformers_version": TRANSFORMERS_VERSION}
    quantization = quantization_config(model.dimensions, dtype)
    stored: dict[str, Any] = {"dtype": "bfloat16" if quantization else dtype}
    if quantization:
        stored["quantization_config"] = quantization
    code = CODE[model.family]
    for name, content in {
        "config.json": described.config | stored | made_for,
        "generation_config.json": described.generation | made_for,
        "tokenizer_config.json": described.tokenizer,
    }.items():
        (directory / name).write_text(json_text(content), encoding="utf-8")
    shutil.copyfile(vocabulary, directory / vocabulary.name)
    for name in (*code.files, "chat_template.jinja"):
        shutil.copyfile(code.source / name, directory / name)


class _Described(NamedTuple):
    """The three files of configuration."""

    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any]


def _shape(config: Mapping[str, Any], dimensions: Dimensions) -> dict[str, Any]:
    return {
        "vocab_size": dimensions.vocab_size,
        "hidden_size": dimensions.hidden_size,
        "intermediate_size": dimensions.ffn_size,
        "num_hidden_layers": dimensions.layers,
        "num_attention_heads": config["num_attention_heads"],
    }


def _auto_map(suffix: str, name: str, model: str) -> dict[str, str]:
    return {
        "AutoConfig": f"configuration_{suffix}.{name}Config",
        "AutoModel": f"modeling_{suffix}.{name}Model",
        "AutoModelForCausalLM": f"modeling_{suffix}.{model}",
    }


def _tokenizer(suffix: str, name: str, context: int, **more: Any) -> dict[str, Any]:
    return {
        "tokenizer_class": f"{name}Tokenizer",
        "auto_map": {"AutoTokenizer": [f"tokenization_{suffix}.{name}Tokenizer", None]},
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **more,
    }


def _baichuan2(config: Mapping[str, Any], dimensions: Dimensions, folder: Path) -> _Described:
    generation = read_object(folder / "generation_config.json")
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    described = {
        "architectures": ["Baichuan2ForCausalLM"],
        "model_type": "baichuan2",
        "auto_map": _auto_map("baichuan2", "Baichuan2", "Baichuan2ForCausalLM"),
        **_shape(config, dimensions),
        "max_position_embeddings": config["model_max_length"],
        "rms_norm_eps": config["rms_norm_eps"],
        "hidden_act": config["hidden_act"],
        "tie_word_embeddings": False,
        **tokens,
    }
    return _Described(
        described, generation, _tokenizer("baichuan2", "Baichuan2", config["model_max_length"])
    )


def _chatglm(config: Mapping[str, Any], dimensions: Dimensions, folder: Path) -> _Described:
    names = ("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: config[name] for name in names}
    context = config["max_sequence_length"]
    described = {
        "architectures": ["ChatGLM6BForConditionalGeneration"],
        "model_type": "chatglm_6b",
        "auto_map": _auto_map("chatglm6b", "ChatGLM6B", "ChatGLM6BForConditionalGeneration"),
        **_shape(config, dimensions),
        "max_position_embeddings": context,
        "layer_norm_eps": config["layernorm_epsilon"],
        "tie_word_embeddings": True,
        **tokens,
    }
    special = {name: tokens[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return _Described(
        described, _CHATGLM_DEFAULTS | special, _tokenizer("chatglm6b", "ChatGLM6B", context)
    )
