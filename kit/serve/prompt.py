"""Text to prompt ids: refused by its length before it is tokenised, and a few at a time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kit.serve.errors import bad_request
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
