"""Every kind of error, as the openai client and as plain HTTP see it."""

import json
from typing import Any

import httpx
import openai
import pytest
from serve_fakes import CONTEXT, MODEL, FakeEngine

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "hi"}]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, which has OpenAI's four fields and nothing else."""
    [(key, error)] = response.json().items()
    assert key == "error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    kind = "server_error" if response.status_code >= 500 else "invalid_request_error"
    assert error["type"] == kind
    return dict(error)


@pytest.mark.parametrize(
    ("field", "param", "code"),
    [
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"presence_penalty": -3}, "presence_penalty", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "conflicting_parameters"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop.1", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "conflicting_parameters"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "conflicting_parameters"),
        ({"tools": [{}]}, "tools", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"repetition_penalty": 1.2}, "repetition_penalty", "unsupported_parameter"),
        ({"min_p": 0.1}, "min_p", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"skip_special_tokens": False}, "skip_special_tokens", "unsupported_parameter"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools", "unsupported_parameter"),
        ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
        ({"max_tokens": 2.5}, "max_tokens", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "conflicting_parameters"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
            "invalid_value",
        ),
        ({"messages": None}, "messages", "invalid_value"),
    ],
)
def test_a_request_that_is_not_valid(
    http: httpx.Client, engine: FakeEngine, field: dict[str, Any], param: str, code: str
) -> None:
    response = http.post(CHAT, json={"messages": HELLO} | field)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)
    assert param.split(".")[0] in error["message"]
    assert engine.submissions == []


def test_an_unknown_argument_is_named_as_openai_does(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json={"messages": HELLO, "foo": 1}))
    assert error["message"] == "Unrecognized request argument supplied: foo"


@pytest.mark.parametrize("body", [b"", b"{", b'{"messages": [}', b"[]", b"5", b"\xff\xfe{"])
def test_a_body_that_is_no_json_object(http: httpx.Client, body: bytes) -> None:
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error_of(response)


def test_a_body_of_another_type_is_told_which_one_is_wanted(http: httpx.Client) -> None:
    form = "application/x-www-form-urlencoded"
    body = json.dumps({"messages": HELLO})
    response = http.post(CHAT, content=body, headers={"Content-Type": form})
    assert response.status_code == 400
    assert "Content-Type: application/json" in error_of(response)["message"]


def test_half_a_surrogate_pair_is_no_text(http: httpx.Client) -> None:
    message = '{"messages": [{"role": "user", "content": "\\ud83d"}]}'
    headers = {"Content-Type": "application/json"}
    assert error_of(http.post(CHAT, content=message, headers=headers))["code"] == "invalid_value"
    message = '{"\\ud83d": 1, "messages": [{"role": "user", "content": "hi"}]}'
    assert error_of(http.post(CHAT, content=message, headers=headers))["code"] == "invalid_value"


def test_nan_is_no_number(http: httpx.Client) -> None:
    body = '{"temperature": NaN, "messages": [{"role": "user", "content": "hi"}]}'
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert error_of(response)["param"] == "temperature"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[1], []]}, "prompt.1"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "best_of": 3, "n": 2}, "best_of"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
        ({}, "prompt"),
    ],
)
def test_a_completion_request_that_is_not_valid(
    http: httpx.Client, field: dict[str, Any], param: str
) -> None:
    response = http.post("/v1/completions", json=field)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(("length", "max_tokens"), [(200, None), (200, 1), (300, None)])
def test_more_than_the_context(
    client: openai.OpenAI, engine: FakeEngine, length: int, max_tokens: int | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x" * length, max_tokens=max_tokens)
    error = caught.value
    assert (error.code, error.param) == ("context_length_exceeded", "prompt")
    assert f"context length is {CONTEXT} tokens" in str(error)
    assert f"requested {length + 1} tokens ({length} in the prompt" in str(error)
    assert engine.submissions == []


def test_exactly_the_context_is_served(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.completions.create(model=MODEL, prompt="x" * 199, max_tokens=1)
    assert engine.submissions[0].params.max_tokens == 1


def test_another_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert MODEL in str(caught.value)


def test_an_unknown_route_and_a_wrong_method(http: httpx.Client) -> None:
    response = http.post("/v1/embeddings", json={})
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
    response = http.get(CHAT)
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_bug_is_an_error_object_too(http: httpx.Client, engine: FakeEngine) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("never meant to happen")

    engine.submit = broken  # type: ignore[method-assign]
    response = http.post(CHAT, json={"messages": HELLO})
    assert response.status_code == 500
    assert error_of(response)["message"] == "internal error: ZeroDivisionError"
