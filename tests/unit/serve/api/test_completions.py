"""/v1/completions through the real openai client."""

from typing import Any

import openai
import pytest
from serve_fakes import MODEL, FakeEngine


def complete(client: openai.OpenAI, **options: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": "once"} | options)


def test_a_completion(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = complete(client)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == ("Hello, 世界!", "stop", None)
    assert bytes(engine.submissions[0].prompt_ids) == b"once"
    assert engine.submissions[0].params.max_tokens == 16
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 15)


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    *texts, usage = chunks
    assert [chunk.choices[0].text for chunk in texts] == [*"Hello, 世界!", ""]
    assert [chunk.choices[0].finish_reason for chunk in texts][-2:] == [None, "stop"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 15


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("ab", [b"ab"]),
        ([97, 98], [b"ab"]),
        (["ab", "c"], [b"ab", b"c"]),
        ([[97, 98], [99]], [b"ab", b"c"]),
    ],
)
def test_every_form_of_prompt(
    client: openai.OpenAI, engine: FakeEngine, prompt: Any, seen: list[bytes]
) -> None:
    answer = complete(client, prompt=prompt)
    assert sorted(bytes(s.prompt_ids) for s in engine.submissions) == seen
    assert [choice.index for choice in answer.choices] == list(range(len(seen)))
    assert answer.usage.prompt_tokens == sum(map(len, seen))


def test_several_choices_for_several_prompts(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = complete(client, prompt=["ab", "c"], n=2, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    seen = [(bytes(s.prompt_ids), s.params.seed) for s in engine.submissions]
    assert seen == [(b"ab", 1), (b"ab", 2), (b"c", 1), (b"c", 2)]
    assert answer.usage.prompt_tokens == 3


def test_log_probabilities(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.says("a中b")
    logprobs = complete(client, logprobs=2).choices[0].logprobs
    assert logprobs.tokens == ["a", "bytes:\\xe4", "bytes:\\xb8", "bytes:\\xad", "b"]
    assert logprobs.text_offset == [0, 1, 1, 1, 2]
    assert logprobs.token_logprobs == [-0.5] * 5
    assert logprobs.top_logprobs[0] == {"a": -0.5, "<end>": -1.0}


def test_a_stop_string_is_one_string_or_several(client: openai.OpenAI) -> None:
    assert complete(client, stop="lo").choices[0].text == "Hel"
    assert complete(client, stop=["世", ","]).choices[0].text == "Hello"


def test_the_default_length_is_cut_to_what_fits(client: openai.OpenAI, engine: FakeEngine) -> None:
    complete(client, prompt="x" * 195)
    assert engine.submissions[0].params.max_tokens == 5
