"""Parameters of the OpenAI API, and of servers like it, that this server does not implement.

Clients often send them with the value that asks for nothing. That value is accepted, no other is.
"""

from typing import Any

from pydantic_core import PydanticCustomError

ANYTHING = object()
"""Stands for a parameter that never changes the answer, whatever its value."""

Neutral = dict[str, tuple[Any, ...]]

_ANY_REQUEST: Neutral = {
    "user": (ANYTHING,),
    "metadata": (ANYTHING,),
    "safety_identifier": (ANYTHING,),
    "prompt_cache_key": (ANYTHING,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "logit_bias": (None, {}),
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "min_p": (None, 0),
    "stop_token_ids": (None, []),
    "use_beam_search": (None, False),
    "skip_special_tokens": (None, True),
    "include_stop_str_in_output": (None, False),
}

CHAT: Neutral = _ANY_REQUEST | {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (ANYTHING,),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}

COMPLETION: Neutral = _ANY_REQUEST | {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}

MESSAGE: Neutral = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}
"""What the ``openai`` client puts into an answer, which comes back as part of the conversation."""


def without_neutral(fields: Any, neutral: Neutral) -> Any:
    """``fields`` without the parameters that ask for nothing; unchanged when that is no object.

    Raises:
        PydanticCustomError: "unsupported_parameter", when one of them asks for something.
    """
    if not isinstance(fields, dict):
        return fields
    for name in fields.keys() & neutral.keys():
        accepted = neutral[name]
        if ANYTHING not in accepted and fields[name] not in accepted:
            raise PydanticCustomError(
                "unsupported_parameter", "'{name}' is not supported by this server.", {"name": name}
            )
    return {name: value for name, value in fields.items() if name not in neutral}
