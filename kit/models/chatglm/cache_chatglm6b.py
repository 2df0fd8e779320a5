"""The KV cache under both of its names. Travels with every model directory.

Up to 5.23 transformers calls it ``past_key_values``, from 5.24 on ``cache``.
"""

from collections.abc import Mapping

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE_NAME = (
    "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
)
"""What the transformers that is installed calls it, in its arguments and in its outputs."""


def given_cache(
    past_key_values: Cache | None, cache: Cache | None, others: Mapping[str, object]
) -> Cache | None:
    """The cache that a caller gave, by whichever name.

    Args:
        past_key_values, cache: what was given under the two names.
        others: the keywords that are passed on, none of which may be a cache: one that nobody
            reads gives wrong text without an error.

    Raises:
        TypeError: two different caches, or one by a third name.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise TypeError("two caches were given: past_key_values and cache are the same argument")
    for name, value in others.items():
        if isinstance(value, Cache):
            raise TypeError(
                f"{name} is a cache, which this code would not use: give it as {CACHE_NAME}. If "
                "transformers gave it, its version is too new: see TRIED_TRANSFORMERS"
            )
    return past_key_values if cache is None else cache
