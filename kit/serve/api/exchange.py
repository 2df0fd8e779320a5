"""One request being answered: what both endpoints do alike, log-probabilities included."""

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from kit.serve.api.answer import Chunk, ScoredToken
from kit.serve.api.errors import ApiError
from kit.serve.api.generation import Answers, Choice, Generation
from kit.serve.api.metrics import Metrics
from kit.serve.engine import FinishReason
from kit.serve.model import Model
from kit.serve.readiness import Readiness
from kit.serve.tokenizer import InContextDecoder

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks; OpenAI's own floor."""


def ready_model(request: Request, name: str | None) -> Model:
    """The model to answer with.

    Raises:
        ApiError: 503 when it is not ready, 404 when the client wants another.
    """
    readiness: Readiness = request.app.state.readiness
    model = readiness.model()
    if name not in (None, model.name):
        message = f"The model '{name}' does not exist; this server has '{model.name}'."
        raise ApiError(404, message, param="model", code="model_not_found")
    return model


@dataclass
class WholeAnswer:
    """All chunks of one choice together."""

    text: str = ""
    scored: list[ScoredToken] = field(default_factory=list)
    generated: int = 0
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Exchange:
    """A valid request under way.

    Attributes:
        identifier: the response object's id.
        choices: of all prompts, one after another.
        prompt_tokens: of all prompts together, each counted once.
        generation: of all choices; to be closed.
        created: Unix time.
    """

    model: Model
    identifier: str
    choices: Sequence[Choice]
    prompt_tokens: int
    generation: Generation
    created: int

    @classmethod
    def begin(
        cls, request: Request, model: Model, id_prefix: str, by_prompt: Sequence[list[Choice]]
    ) -> "Exchange":
        """Let a request's choices be generated, and start the clock.

        Raises:
            ApiError: 429 when too many wait already.
        """
        metrics: Metrics = request.app.state.metrics
        answers: Answers = request.app.state.answers
        choices = [choice for choices in by_prompt for choice in choices]
        return cls(
            model=model,
            identifier=f"{id_prefix}-{uuid.uuid4().hex}",
            choices=choices,
            prompt_tokens=sum(len(choices[0].prompt_ids) for choices in by_prompt),
            generation=answers.begin(model, choices, metrics.token_clock()),
            created=int(time.time()),
        )

    async def whole(self) -> list[WholeAnswer]:
        """The answers when all are complete."""
        answers = [WholeAnswer() for _ in self.choices]
        async with aclosing(self.generation.chunks()) as chunks:
            async for index, chunk in chunks:
                answer = answers[index]
                answer.text += chunk.text
                answer.scored += chunk.scored
                answer.generated = chunk.generated
                answer.finish_reason = chunk.finish_reason
        return answers

    def response(
        self, kind: str, answers: Sequence[WholeAnswer], choices: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The response object of type ``kind``."""
        usage = self._usage(sum(answer.generated for answer in answers))
        return {**self._head(kind), "choices": choices, "usage": usage}

    async def events(
        self,
        kind: str,
        opening: Sequence[dict[str, Any]],
        pieces: Callable[[int, Chunk], Iterable[dict[str, Any]]],
        *,
        with_usage: bool,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's objects of type ``kind``.

        Args:
            kind: their type.
            opening: choices to send before the first token.
            pieces: the choices to send for a chunk of the answer with that index.
            with_usage: end with the token counts; all other objects then say ``"usage": null``.
        """
        head = self._head(kind) | ({"usage": None} if with_usage else {})
        generated = [0] * len(self.choices)
        for choice in opening:
            yield {**head, "choices": [choice]}
        async with aclosing(self.generation.chunks()) as chunks:
            async for index, chunk in chunks:
                generated[index] = chunk.generated
                for choice in pieces(index, chunk):
                    yield {**head, "choices": [choice]}
        if with_usage:
            yield {**head, "choices": [], "usage": self._usage(sum(generated))}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identifier,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
        }

    def _usage(self, generated_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated_tokens,
            "total_tokens": self.prompt_tokens + generated_tokens,
        }


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
