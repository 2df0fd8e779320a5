"""POST /v1/chat/completions."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from jinja2 import TemplateError

from kit.serve.api.answer import Chunk, ScoredToken
from kit.serve.api.bodies import BoundedRoute
from kit.serve.api.errors import bad_request
from kit.serve.api.exchange import Exchange, chat_logprobs, ready_model
from kit.serve.api.params import choices_for, require_short, tokenise
from kit.serve.api.schema import ChatRequest, Message
from kit.serve.api.sse import Events, EventStream, while_connected
from kit.serve.tokenizer import InContextDecoder, Tokenizer

router = APIRouter(prefix="/v1", route_class=BoundedRoute)


@router.post("/chat/completions")
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation, whole or as a stream."""
    model = ready_model(request, body.model)
    require_short(model, [message.text() for message in body.messages], "messages")
    prompt_ids = await tokenise(lambda: encode_conversation(model.tokenizer, body.messages))
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


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation. Control tokens are the template's alone: where a message's text holds
    one's name, such as ``<end>``, a mark keeps its characters apart while they are tokenised.

    Raises:
        ApiError: the template refuses the conversation.
    """
    texts = [message.text() for message in messages]
    names = {name for text in texts for name in _NAME.findall(text) if _is_piece(tokenizer, name)}
    if names:
        texts = [_kept_apart(text, names) for text in texts]
    conversation = [
        {"role": message.role, "content": text}
        for message, text in zip(messages, texts, strict=True)
    ]
    try:
        ids = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise bad_request(str(error), param="messages", code="invalid_value") from error
    return _without(ids, _ids_of_mark(tokenizer)) if names else ids


_NAME = re.compile(r"</?[A-Za-z_]\w*>")
_MARK = "\ue000"
"""A character that is no text's (Unicode, private use area): no vocabulary has a piece with it."""


def _is_piece(tokenizer: Tokenizer, name: str) -> bool:
    """Whether the vocabulary has the name as one piece, as it has control tokens."""
    return name in map(tokenizer.convert_ids_to_tokens, tokenizer.encode(name))


def _kept_apart(text: str, names: Collection[str]) -> str:
    text = text.replace(_MARK, "")
    return _NAME.sub(lambda found: _marked(found[0]) if found[0] in names else found[0], text)


def _marked(name: str) -> str:
    return f"{name[0]}{_MARK}{name[1:]}"


def _ids_of_mark(tokenizer: Tokenizer) -> list[int]:
    """The mark's own, without the blank that SentencePiece begins a text with."""
    ids = tokenizer.encode(_MARK)
    return ids[1:] if tokenizer.convert_ids_to_tokens(ids[0]) == "▁" else ids


def _without(ids: list[int], mark: list[int]) -> list[int]:
    kept: list[int] = []
    for token in ids:
        kept.append(token)
        if kept[-len(mark) :] == mark:
            del kept[-len(mark) :]
    return kept


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
