"""POST /v1/chat/completions."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from jinja2 import TemplateError

from kit.serve.answer import Chunk, ScoredToken
from kit.serve.errors import bad_request
from kit.serve.exchange import Exchange, ready_model
from kit.serve.logprobs import chat_logprobs
from kit.serve.params import choices_for
from kit.serve.prompt import require_short, tokenise
from kit.serve.schema import ChatRequest, Message
from kit.serve.sse import Events, EventStream, while_connected
from kit.serve.tokenizer import InContextDecoder, Tokenizer

router = APIRouter(prefix="/v1")


@router.post("/chat/completions")
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation, whole or as a stream."""
    model = ready_model(request, body.model)
    require_short(model, [message.text() for message in body.messages], "messages")
    prompt_ids = await tokenise(lambda: _encode(model.tokenizer, body.messages))
    choices = choices_for(
        body,
        prompt_ids,
        model.info,
        model.defaults,
        max_tokens=body.token_limit(),
        default_max_tokens=None,
        top_logprobs=body.top_logprobs_per_token(),
        param="messages",
    )
    exchange = Exchange.begin(request, model, "chatcmpl", [choices])
    if body.stream:
        return EventStream(_events(exchange, body), on_end=exchange.generation.close)
    try:
        return JSONResponse(await while_connected(request, _response(exchange, body)))
    finally:
        exchange.generation.close()


def _encode(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    conversation = [{"role": message.role, "content": message.text()} for message in messages]
    try:
        return tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise bad_request(str(error), param="messages") from error


async def _response(exchange: Exchange, body: ChatRequest) -> dict[str, Any]:
    answers = await exchange.whole()
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(exchange.model.decoder, body, answer.scored),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return exchange.response("chat.completion", answers, choices)


def _events(exchange: Exchange, body: ChatRequest) -> Events:
    def choice(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        empty = {"logprobs": None, "finish_reason": None}
        return {"index": index, "delta": delta, **empty, **more}

    def pieces(index: int, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if chunk.text or chunk.scored:
            logprobs = _logprobs(exchange.model.decoder, body, chunk.scored)
            yield choice(index, {"content": chunk.text}, logprobs=logprobs)
        if chunk.finish_reason:
            yield choice(index, {}, finish_reason=chunk.finish_reason)

    role = {"role": "assistant", "content": ""}
    opening = [choice(index, role) for index in range(len(exchange.choices))]
    with_usage = body.wants_usage_chunk()
    return exchange.events("chat.completion.chunk", opening, pieces, with_usage=with_usage)


def _logprobs(
    decoder: InContextDecoder, body: ChatRequest, scored: Sequence[ScoredToken]
) -> dict[str, Any] | None:
    return chat_logprobs(decoder, scored) if body.logprobs else None
