"""From a request to what the engine needs: prompts that fit, and complete sampling parameters."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from kit.serve.api.errors import bad_request
from kit.serve.api.generation import Choice
from kit.serve.api.schema import GenerationRequest
from kit.serve.defaults import GenerationDefaults
from kit.serve.engine import ModelInfo, SamplingParams
from kit.serve.model import Model

Result = TypeVar("Result")
_THREADS = 2
"""A tokenizer takes some hundred bytes a character while it works."""
_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenise")


async def tokenise(work: Callable[[], Result]) -> Result:
    """The result of ``work``, done in a thread; not many at once."""
    return await asyncio.get_running_loop().run_in_executor(_pool, work)


def require_short(model: Model, texts: Sequence[str], param: str) -> None:
    """Return when the texts, together one prompt, may fit the context.

    No token stands for more characters than the longest piece of the vocabulary has, and every
    text of several, a message, takes one. Runs of blanks that a tokenizer would drop count, too.

    Raises:
        ApiError: they are surely too long.
    """
    context, characters = model.info.context_length, sum(map(len, texts))
    most = context * model.longest_piece
    if characters <= most and len(texts) <= context:
        return
    what = f"{characters} characters" if characters > most else f"{len(texts)} messages"
    raise bad_request(
        f"This model's maximum context length is {context} tokens, which no {param} of {what} fits."
        f" Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )


Number = TypeVar("Number", int, float)


def choices_for(
    request: GenerationRequest,
    prompt_ids: Sequence[int],
    info: ModelInfo,
    defaults: GenerationDefaults,
    *,
    max_tokens: int | None,
    default_max_tokens: int | None,
    top_logprobs: int | None,
    param: str,
) -> list[Choice]:
    """The request's ``n`` choices for one prompt.

    Args:
        request: what the client asked for.
        prompt_ids: the whole prompt.
        info: the model, whose context prompt and answer must fit.
        defaults: for what the request leaves open.
        max_tokens: what the client asked for; of that, as much as there is room for.
        default_max_tokens: used when it did not ask, as far as there is room; None: all the room.
        top_logprobs: alternatives to report per token; None for no log-probabilities.
        param: the field that the prompt came in, for the error.

    Raises:
        ApiError: the prompt is empty, has an unknown id, or leaves no room for an answer.
    """
    room = _room(prompt_ids, info, param)
    limit = min(room, max_tokens or default_max_tokens or room)
    first = SamplingParams(
        max_tokens=limit,
        min_tokens=min(_given(request.min_tokens, defaults.min_tokens), limit),
        temperature=_given(request.temperature, defaults.temperature),
        top_k=max(_given(request.top_k, defaults.top_k), 0),
        top_p=_given(request.top_p, defaults.top_p),
        presence_penalty=_given(request.presence_penalty, defaults.presence_penalty),
        frequency_penalty=_given(request.frequency_penalty, defaults.frequency_penalty),
        seed=request.seed,
        top_logprobs=top_logprobs,
        ignore_end=bool(request.ignore_eos),
    )
    seeds = [None if first.seed is None else first.seed + index for index in range(request.n or 1)]
    return [Choice(prompt_ids, replace(first, seed=seed), request.stops()) for seed in seeds]


def _room(prompt_ids: Sequence[int], info: ModelInfo, param: str) -> int:
    """How many tokens can be generated after the prompt."""
    if not prompt_ids:
        raise bad_request("The prompt is empty.", param=param, code="invalid_value")
    if max(prompt_ids) >= info.vocab_size:
        message = f"Token id {max(prompt_ids)} is not in the vocabulary of {info.vocab_size}."
        raise bad_request(message, param=param, code="invalid_value")
    room = info.context_length - len(prompt_ids)
    if room < 1:
        raise bad_request(
            f"This model's maximum context length is {info.context_length} tokens. However, you"
            f" requested {len(prompt_ids) + 1} tokens ({len(prompt_ids)} in the {param}, at least 1"
            f" for the answer). Please reduce the length of the {param}.",
            param=param,
            code="context_length_exceeded",
        )
    return room


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value
