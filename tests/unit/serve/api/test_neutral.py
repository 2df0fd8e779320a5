"""What clients of all kinds send that changes nothing, and what they send that nobody knows."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer

from kit.errors import UsageError
from kit.serve.api import neutral
from kit.serve.api.neutral import read_unknown

Start = Callable[..., RunningServer]
CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "hi"}]
OPENAI = {
    "frequency_penalty": None,
    "presence_penalty": None,
    "function_call": "none",
    "functions": [{"name": "f"}],
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "max_completion_tokens": None,
    "max_tokens": None,
    "metadata": {"team": "a"},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": None,
    "prompt_cache_key": "k",
    "reasoning_effort": None,
    "response_format": {"type": "text"},
    "safety_identifier": "s",
    "seed": None,
    "service_tier": "flex",
    "stop": None,
    "store": False,
    "stream": None,
    "stream_options": None,
    "temperature": None,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_p": None,
    "user": "me",
}
VLLM = {
    "add_generation_prompt": True,
    "add_special_tokens": False,
    "bad_words": [],
    "best_of": 1,
    "chat_template": None,
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": False,
    "documents": None,
    "echo": False,
    "guided_json": None,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "length_penalty": 1.0,
    "min_p": 0.0,
    "min_tokens": 0,
    "prompt_logprobs": None,
    "repetition_penalty": 1.0,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "stop_token_ids": [],
    "top_k": -1,
    "truncate_prompt_tokens": None,
    "use_beam_search": False,
}
OTHERS = {
    "keep_alive": "5m",
    "options": {},
    "think": False,
    "format": None,
    "mirostat": 0,
    "extra_body": {},
    "timeout": 600,
    "never_heard_of": None,
}


@pytest.fixture(autouse=True)
def nothing_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(neutral, "_logged", set())
    yield


@pytest.mark.parametrize("fields", [OPENAI, VLLM, OTHERS], ids=["openai", "vllm", "others"])
@pytest.mark.parametrize("route", [CHAT, "/v1/completions"])
def test_defaults_change_nothing(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], route: str
) -> None:
    ask: dict[str, Any] = {"messages": HELLO} if route == CHAT else {"prompt": "hi"}
    if route != CHAT:
        chats_alone = set(neutral.CHAT) - set(neutral.COMPLETION) | {"max_completion_tokens"}
        fields = {name: value for name, value in fields.items() if name not in chats_alone}
        fields = fields | {"logprobs": None, "top_logprobs": None}
    assert http.post(route, json=ask).status_code == 200
    response = http.post(route, json=ask | fields)
    assert response.status_code == 200, response.text
    plain, given = engine.submissions
    assert plain.prompt_ids == given.prompt_ids
    assert plain.params.max_tokens == given.params.max_tokens
    if "min_tokens" not in fields:
        assert plain.params == given.params


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "audio": None},
        {"role": "assistant", "content": "", "reasoning_content": "Let me see.", "id": "x"},
        {"role": "assistant", "content": [], "thinking": None},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    ],
)
def test_an_empty_answer_in_the_conversation(
    http: httpx.Client, engine: FakeEngine, message: dict[str, Any]
) -> None:
    response = http.post(CHAT, json={"messages": [*HELLO, message, *HELLO]})
    assert response.status_code == 200, response.text
    assert bytes(engine.submissions[0].prompt_ids) == b"u:hi;a:;u:hi;"


def test_marks_for_caches_are_no_text(http: httpx.Client, engine: FakeEngine) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "hi", "annotations": None, "image_url": None} | mark
    messages = [{"role": "user", "content": [part], "name": None} | mark]
    assert http.post(CHAT, json={"messages": messages}).status_code == 200
    assert bytes(engine.submissions[0].prompt_ids) == b"u:hi;"


def test_whole_numbers_may_be_written_as_floats(http: httpx.Client, engine: FakeEngine) -> None:
    numbers = {"max_tokens": 4.0, "n": 2.0, "seed": 7.0, "top_k": 3.0, "min_tokens": 1.0}
    response = http.post(CHAT, json={"messages": HELLO} | numbers)
    assert response.status_code == 200, response.text
    assert [each.params.seed for each in engine.submissions] == [7, 8]
    params = engine.submissions[0].params
    assert (params.max_tokens, params.top_k, params.min_tokens) == (4, 3, 1)
    assert all(isinstance(each, int) for each in (params.max_tokens, params.seed, params.top_k))


def test_the_same_limit_by_both_names(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, max_completion_tokens=4
    )
    assert engine.submissions[0].params.max_tokens == 4


def test_best_of_as_many_as_are_wanted(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hi", n=3, best_of=3)
    assert len(answer.choices) == 3


@pytest.mark.parametrize("asked", [CONTEXT, 10**30])
def test_more_tokens_than_there_is_room_for(
    client: openai.OpenAI, engine: FakeEngine, asked: int
) -> None:
    engine.says("x" * 2 * CONTEXT)
    chat = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=asked)
    text = client.completions.create(model=MODEL, prompt="once", max_tokens=asked)
    assert [chat.choices[0].finish_reason, text.choices[0].finish_reason] == ["length"] * 2
    assert chat.usage is not None and text.usage is not None
    assert chat.usage.total_tokens == text.usage.total_tokens == CONTEXT


def test_options_of_a_stream_that_ask_for_nothing_need_none(http: httpx.Client) -> None:
    for options in ({}, {"include_usage": False}, {"include_usage": None}):
        response = http.post(CHAT, json={"messages": HELLO, "stream_options": options})
        assert response.status_code == 200, response.text


UNKNOWN = {
    "foo": 1,
    "bar": {},
    "with blanks": 1,
    "messages": [{"role": "user", "content": "hi", "baz": 1}],
}


def test_unknown_parameters_are_ignored_where_the_user_says_so(
    start: Start, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(unknown_parameters="ignore")
    with (
        caplog.at_level(logging.INFO, logger="kit.serve"),
        httpx.Client(base_url=server.url, trust_env=False) as http,
    ):
        for _ in range(2):
            assert http.post(CHAT, json=UNKNOWN).status_code == 200
        refused = http.post(CHAT, json={"messages": HELLO, "logit_bias": {"5": 1}})
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert bytes(engine.submissions[0].prompt_ids) == b"u:hi;"
    told = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert sorted(line.split()[2] for line in told) == ["bar", "baz", "foo", "…"]


def test_servers_in_one_process_differ(start: Start) -> None:
    lenient, strict = start(unknown_parameters="ignore"), start()
    told = [httpx.post(s.url + CHAT, json=UNKNOWN, trust_env=False) for s in (lenient, strict)]
    assert [response.status_code for response in told] == [200, 400]


def test_made_up_names_fill_no_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start(unknown_parameters="ignore")
    body = {"messages": HELLO} | {f"name{index}": 1 for index in range(1000)}
    with caplog.at_level(logging.INFO, logger="kit.serve"):
        assert httpx.post(server.url + CHAT, json=body, trust_env=False).status_code == 200
    assert sum("ignored" in record.getMessage() for record in caplog.records) == 100


def test_the_setting_is_one_of_two() -> None:
    assert [read_unknown(text) for text in ("ignore", "refuse")] == ["ignore", "refuse"]
    with pytest.raises(UsageError, match="KIT_UNKNOWN_PARAMETERS is 'no'"):
        read_unknown("no")
