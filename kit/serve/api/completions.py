"""POST /v1/completions: text goes on from a prompt, without a chat template."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from kit.serve.api.answer import Chunk, ScoredToken
from kit.serve.api.bodies import BoundedRoute
from kit.serve.api.exchange import Exchange, completion_logprobs, ready_model
from kit.serve.api.generation import Choice
from kit.serve.api.params import choices_for, require_short, tokenise
from kit.serve.api.schema import CompletionRequest
from kit.serve.api.sse import Events, EventStream, while_connected
from kit.serve.engine import FinishReason
from kit.serve.model import Model

DEFAULT_MAX_TOKENS = 16
"""What OpenAI's endpoint generates when the request does not say."""

router = APIRouter(prefix="/v1", route_class=BoundedRoute)


@router.post("/completions")
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continue one or more prompts, whole or as a stream."""
    model = ready_model(request, body.model)
    for prompt in body.prompts():
        if isinstance(prompt, str):
            require_short(model, [prompt], "prompt")
    by_prompt = await tokenise(lambda: _choices_by_prompt(body, model))
    exchange = Exchange.begin(request, model, "cmpl", by_prompt)
    if body.stream:
        return EventStream(_events(exchange, body), on_end=exchange.generation.close)
    try:
        return JSONResponse(await while_connected(request, _response(exchange, body)))
    finally:
        exchange.generation.close()


def _choices_by_prompt(body: CompletionRequest, model: Model) -> list[list[Choice]]:
    return [
        choices_for(
            body,
            model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt,
            model.info,
            model.defaults,
            max_tokens=body.max_tokens,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            top_logprobs=body.logprobs,
            param="prompt",
        )
        for prompt in body.prompts()
    ]


async def _response(exchange: Exchange, body: CompletionRequest) -> dict[str, Any]:
    answers = await exchange.whole()
    choices = [
        _choice(exchange, body, index, answer.text, answer.scored, answer.finish_reason)
        for index, answer in enumerate(answers)
    ]
    return exchange.response("text_completion", answers, choices)


def _events(exchange: Exchange, body: CompletionRequest) -> Events:
    def pieces(index: int, chunk: Chunk) -> Iterator[dict[str, Any]]:
        yield _choice(exchange, body, index, chunk.text, chunk.scored, chunk.finish_reason)

    return exchange.events("text_completion", [], pieces, with_usage=body.wants_usage_chunk())


def _choice(
    exchange: Exchange,
    body: CompletionRequest,
    index: int,
    text: str,
    scored: Sequence[ScoredToken],
    finish_reason: FinishReason | None,
) -> dict[str, Any]:
    wanted = body.logprobs is not None
    logprobs = completion_logprobs(exchange.model.decoder, scored) if wanted else None
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
