"""Parameters of the OpenAI API, and of servers like it, that this server does not implement.

Clients often send them with the value that asks for nothing. That value is accepted, as null is
for any parameter, and no other.
What no server is known to have is refused, or ignored where the user says so.
"""

import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any, Literal, get_args

from pydantic_core import PydanticCustomError

from kit.errors import UsageError
from kit.serve.api.errors import loggable

logger = logging.getLogger("kit.serve")

ANYTHING = object()
"""Stands for a parameter that never changes the answer, whatever its value."""

Neutral = dict[str, tuple[Any, ...]]

_ANY_REQUEST: Neutral = {
    # OpenAI's
    "user": (ANYTHING,),
    "metadata": (ANYTHING,),
    "safety_identifier": (ANYTHING,),
    "prompt_cache_key": (ANYTHING,),
    "prompt_cache_retention": (ANYTHING,),
    "service_tier": (ANYTHING,),
    "store": (False,),
    "logit_bias": ({},),
    # vLLM's, and of others in its way
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "early_stopping": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (ANYTHING,),  # text for people has none
    "include_stop_str_in_output": (False,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "guided_grammar": (),
    "guided_decoding_backend": (ANYTHING,),
    "guided_whitespace_pattern": (ANYTHING,),
    "structured_outputs": (),
    "logits_processors": ([],),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
    "priority": (ANYTHING,),
    "request_id": (ANYTHING,),
    "cache_salt": (ANYTHING,),
    # Ollama's
    "keep_alive": (ANYTHING,),
    "options": ({},),
    "format": ("",),
    "think": (False,),
    "repeat_penalty": (1,),
    "repeat_last_n": (ANYTHING,),  # of the penalty above
    "tfs_z": (1,),
    "mirostat": (0,),
    "mirostat_eta": (ANYTHING,),
    "mirostat_tau": (ANYTHING,),
    "num_predict": (-1,),
    "num_ctx": (ANYTHING,),
    "num_keep": (ANYTHING,),
    "num_batch": (ANYTHING,),
    "num_gpu": (ANYTHING,),
    "num_thread": (ANYTHING,),
    # what LiteLLM and clients by hand let through
    "extra_body": ({},),
    "extra_headers": (ANYTHING,),
    "extra_query": (ANYTHING,),
    "timeout": (ANYTHING,),
    "drop_params": (ANYTHING,),
    "num_retries": (ANYTHING,),
}

CHAT: Neutral = _ANY_REQUEST | {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (ANYTHING,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning": ({},),
    "reasoning_effort": ("none",),
    "include_reasoning": (ANYTHING,),  # there is none to leave out
    "thinking_token_budget": (ANYTHING,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (ANYTHING,),  # the tokenizer adds none
    "documents": ([],),
    "chat_template": (),
    "chat_template_kwargs": (ANYTHING,),  # Spark's template has no switches
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
}

COMPLETION: Neutral = _ANY_REQUEST | {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "add_special_tokens": (ANYTHING,),
    "response_format": ({"type": "text"},),
}

STREAM_OPTIONS: Neutral = {
    "include_obfuscation": (False,),
    "continuous_usage_stats": (False,),
}

MESSAGE: Neutral = {
    "annotations": ([],),
    "audio": (),
    "cache_control": (ANYTHING,),
    "function_call": (),
    "id": (ANYTHING,),
    "images": ([],),
    "partial": (False,),
    "prefix": (False,),
    "provider_specific_fields": (ANYTHING,),
    "reasoning": (ANYTHING,),  # of answers before: no part of a conversation
    "reasoning_content": (ANYTHING,),
    "reasoning_details": (ANYTHING,),
    "refusal": (),
    "thinking": (ANYTHING,),
    "thinking_blocks": (ANYTHING,),
    "tool_call_id": (),
    "tool_calls": ([],),
}
"""What clients put into an answer, which comes back as part of the conversation."""

PART: Neutral = {
    "annotations": ([],),
    "cache_control": (ANYTHING,),
    "citations": ([],),
    "id": (ANYTHING,),
    "logprobs": (ANYTHING,),
}

UnknownParameters = Literal["refuse", "ignore"]
"""What happens to parameters that no server is known to have."""
UNKNOWN: ContextVar[UnknownParameters] = ContextVar("UNKNOWN", default="refuse")
"""That of the server whose request is read. FastAPI gives nothing into pydantic's own context."""
_MOST_NAMES = 100
"""That are logged: a client can make up more without end."""
_logged: set[str] = set()


def read_unknown(text: str) -> UnknownParameters:
    """The value of ``KIT_UNKNOWN_PARAMETERS``.

    Raises:
        UsageError: it is neither.
    """
    for known in get_args(UnknownParameters):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"KIT_UNKNOWN_PARAMETERS is {text!r}", hint="set it to refuse, or to ignore")


def without_neutral(fields: Any, neutral: Neutral, own: Collection[str]) -> Any:
    """``fields`` without the parameters that ask for nothing; unchanged when that is no object.

    Args:
        fields: what a client sent.
        neutral: the parameters, and the values beside null that ask for nothing.
        own: parameters that are implemented; any other is dropped where unknown ones are ignored.

    Raises:
        PydanticCustomError: "unsupported_parameter", when one of them asks for something.
    """
    if not isinstance(fields, dict):
        return fields
    asked = {name: value for name, value in fields.items() if name in own or value is not None}
    for name in asked.keys() & neutral.keys():
        accepted = neutral[name]
        if ANYTHING not in accepted and asked[name] not in accepted:
            raise PydanticCustomError(
                "unsupported_parameter", "'{name}' is not supported by this server.", {"name": name}
            )
    kept = {name: value for name, value in asked.items() if name not in neutral}
    if UNKNOWN.get() == "ignore":
        _log_once(kept.keys() - own)
        kept = {name: value for name, value in kept.items() if name in own}
    return kept


def _log_once(names: Collection[str]) -> None:
    for name in sorted({loggable(name) for name in names} - _logged):
        if len(_logged) < _MOST_NAMES:
            _logged.add(name)
            logger.info("the parameter %s is not known, and ignored", name)
