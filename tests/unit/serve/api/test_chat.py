"""/v1/chat/completions through the real openai client."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer

HELLO: Any = [{"role": "user", "content": "hi"}]


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO} | options)


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_an_answer(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Hello, 世界!"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert answer.usage.prompt_tokens == len("u:hi;")
    assert answer.usage.completion_tokens == len("Hello, 世界!".encode()) + 1
    assert answer.usage.total_tokens == 5 + 15


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert [choice.delta.content for choice in middle] == list("Hello, 世界!")
    assert {choice.finish_reason for choice in middle} == {None}
    assert (last.finish_reason, last.delta.content) == ("stop", None)


def test_a_stream_ends_with_its_usage_when_that_is_asked_for(client: openai.OpenAI) -> None:
    *chunks, last = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert {chunk.usage for chunk in chunks} == {None}
    assert "usage" in chunks[0].model_fields_set
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (5, 15)


def test_a_stream_ends_with_done(server: RunningServer, http: Any) -> None:
    body = {"messages": HELLO, "stream": True}
    response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\ndata: [DONE]\n\n")


def test_newlines_come_back(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.says("one\ntwo\n")
    assert ask(client).choices[0].message.content == "one\ntwo\n"


def test_an_answer_that_is_cut_short(client: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 4}, {"max_completion_tokens": 4}):
        answer = ask(client, **limit)
        assert answer.choices[0].message.content == "Hell"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 4


def test_an_answer_cut_within_a_character_shows_that(client: openai.OpenAI) -> None:
    streamed = list(ask(client, max_tokens=8, stream=True))
    whole = ask(client, max_tokens=8).choices[0].message.content
    assert whole == text_of(streamed) == "Hello, \ufffd"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_across_tokens(
    client: openai.OpenAI, engine: FakeEngine, stream: bool
) -> None:
    engine.says("one STOP two STOP three")
    engine.pause_after = len("one STOP ")
    answer = ask(client, stop=["never", "STOP"], stream=stream)
    if stream:
        chunks = list(answer)
        assert text_of(chunks) == "one "
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert answer.choices[0].message.content == "one "
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == len("one STOP")
    assert engine.submissions[0].cancelled.wait(10)


def test_several_choices_differ_in_their_seed(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = ask(client, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello, 世界!"}
    assert [submission.params.seed for submission in engine.submissions] == [7, 8, 9]
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 45
    chunks = list(ask(client, n=2, stream=True))
    assert text_of(chunks, 0) == text_of(chunks, 1) == "Hello, 世界!"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons.count("stop") == 2


def test_log_probabilities(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.says("a中")
    content = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [entry.token for entry in content] == ["a", *(f"bytes:\\x{b:x}" for b in "中".encode())]
    assert bytes(byte for entry in content for byte in entry.bytes).decode() == "a中"
    assert content[0].logprob == -0.5
    top = [(other.token, other.logprob) for other in content[0].top_logprobs]
    assert top == [("a", -0.5), ("<end>", -1.0), ("bytes:\\xe4", -9999.0)]
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_log_probabilities_come_with_the_text_that_they_are_of(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says("a中bSTOP")
    chunks = list(ask(client, logprobs=True, stop="STOP", stream=True))
    seen = [
        (choice.delta.content, [bytes(entry.bytes) for entry in choice.logprobs.content])
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
    ]
    assert seen == [("a", [b"a"]), ("中", [b"\xe4", b"\xb8", b"\xad"]), ("b", [b"b"])]


def test_settings_reach_the_engine(client: openai.OpenAI, engine: FakeEngine) -> None:
    extra = {"top_k": 5, "min_tokens": 2, "ignore_eos": True}
    ask(client, temperature=0.5, top_p=0.9, presence_penalty=0, max_tokens=9, extra_body=extra)
    params = engine.submissions[0].params
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.9, 5)
    assert (params.presence_penalty, params.frequency_penalty) == (0.0, 0.1)
    assert (params.max_tokens, params.min_tokens, params.ignore_end) == (9, 2, True)


def test_what_is_left_open_is_upstreams_way(client: openai.OpenAI, engine: FakeEngine) -> None:
    ask(client)
    params = engine.submissions[0].params
    assert (params.temperature, params.presence_penalty, params.frequency_penalty) == (0, 1.1, 0.1)
    assert (params.min_tokens, params.max_tokens) == (1, CONTEXT - 5)
    assert (params.seed, params.top_logprobs) == (None, None)


def test_the_whole_conversation_reaches_the_engine(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    first = ask(client).choices[0].message
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    system = {"role": "system", "content": "be kind"}
    ask(client, messages=[system, *HELLO, first, {"role": "user", "content": parts}])
    prompt = bytes(engine.submissions[1].prompt_ids).decode()
    assert prompt == "s:be kind;u:hi;a:Hello, 世界!;u:bc;"


def test_parameters_that_ask_for_nothing_are_accepted(client: openai.OpenAI) -> None:
    answer = ask(
        client,
        tools=[],
        logit_bias={},
        response_format={"type": "text"},
        user="me",
        metadata={"a": "b"},
        store=False,
    )
    assert answer.choices[0].finish_reason == "stop"


def test_many_at_once(server: RunningServer, engine: FakeEngine) -> None:
    async def ask_one(client: openai.AsyncOpenAI, streamed: bool) -> str:
        if not streamed:
            answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        return text_of([chunk async for chunk in stream])

    async def ask_all() -> list[str]:
        async with server.async_client() as client:
            return await asyncio.gather(*(ask_one(client, n % 2 == 0) for n in range(16)))

    assert asyncio.run(ask_all()) == ["Hello, 世界!"] * 16
    assert len(engine.submissions) == 16


def test_an_engine_error_before_the_answer(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.fail_after = 3
    with pytest.raises(openai.InternalServerError, match="out of memory") as caught:
        ask(client, n=2)
    assert caught.value.code == "engine_error"
    engine.fail_after = None
    assert ask(client).choices[0].message.content == "Hello, 世界!"


def test_an_engine_error_within_a_stream(
    client: openai.OpenAI, engine: FakeEngine, http: Any
) -> None:
    engine.fail_after = 3
    received = []
    with pytest.raises(openai.APIError, match="out of memory"):
        received.extend(ask(client, stream=True))
    raw = http.post("/v1/chat/completions", json={"messages": HELLO, "stream": True}).text
    assert "\nevent: error\ndata: {" in raw
    assert "[DONE]" not in raw
