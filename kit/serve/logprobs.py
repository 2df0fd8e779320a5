"""Log-probabilities in the two forms of the OpenAI API."""

from collections.abc import Sequence
from typing import Any

from kit.serve.answer import ScoredToken
from kit.serve.tokenizer import InContextDecoder

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks; OpenAI's own floor."""


def chat_logprobs(decoder: InContextDecoder, scored: Sequence[ScoredToken]) -> dict[str, Any]:
    """``choices[].logprobs`` of /v1/chat/completions."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        token = decoder.token(token_id)
        return {"token": token.text, "logprob": _finite(logprob), "bytes": list(token.raw)}

    content = [
        entry(token.token_id, token.logprobs.chosen)
        | {"top_logprobs": [entry(*other) for other in token.logprobs.top]}
        for token in scored
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(decoder: InContextDecoder, scored: Sequence[ScoredToken]) -> dict[str, Any]:
    """``choices[].logprobs`` of /v1/completions. The alternatives include the chosen token."""

    def alternatives(token: ScoredToken) -> dict[str, float]:
        top = [*token.logprobs.top, (token.token_id, token.logprobs.chosen)]
        return {decoder.token(other).text: _finite(logprob) for other, logprob in top}

    return {
        "tokens": [decoder.token(token.token_id).text for token in scored],
        "token_logprobs": [_finite(token.logprobs.chosen) for token in scored],
        "top_logprobs": [alternatives(token) for token in scored],
        "text_offset": [token.text_offset for token in scored],
    }


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
