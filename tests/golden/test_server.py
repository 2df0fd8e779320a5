"""The whole way: upstream's checkpoint converted, served over HTTP, asked by the openai client."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from transformers import AutoTokenizer

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.cli.serve import Serving, native_source
from kit.serve.server import ModelServer, ServerOptions

CHAT_FORMAT = "<User> %s<end><Bot> "
UNDECIDED = 1e-4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The model is so small that threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def client(golden, converted) -> Iterator[openai.OpenAI]:
    source = native_source(converted(golden, "fp32"), Serving("spark", device="cpu"))
    server = ModelServer(source, ServerOptions(port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=50) as client:
        yield client
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def recorded_chats(golden) -> list[dict[str, Any]]:
    """Upstream's own greedy answers to one prompt, shipped settings, no step that is a toss-up."""
    runs = [
        run
        for run in golden.json("generate_fp32.json")
        if not run.get("error")
        and not run["overrides"]
        and len(run["prompts"]) == 1
        and run["fmt"] == CHAT_FORMAT
        and run["min_margin"] >= UNDECIDED
        and "text" in run
    ]
    if not runs:
        pytest.skip("no such run is recorded here")
    return runs


def forges_turns(run: dict[str, Any]) -> bool:
    """Whether the user's text names control tokens, which upstream takes for what they say."""
    return bool(re.search("<(end|User|Bot|ret|tab|pag)>", run["prompts"][0]))


def answer_of(run: dict[str, Any], prompt_text: str) -> str:
    """What a user of upstream should have been shown: the decoded text behind the prompt's own.

    Control pieces are dropped, and ``<ret>`` and its kin become the white space they stand for.
    """
    text: str = run["text"][0]
    assert text.startswith(prompt_text)
    text = text[len(prompt_text) :]
    for piece, shown in {"<ret>": "\n", "<tab>": "\t", "<pag>": "\f"}.items():
        text = text.replace(piece, shown)
    return re.sub("<end>|<User>|<Bot>", "", text)


def test_answers_are_upstreams(client: openai.OpenAI, golden, converted) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted(golden, "fp32"))
    for run in recorded_chats(golden):
        if forges_turns(run):
            continue
        [prompt_ids], [gen_len] = run["prompt_ids"], run["gen_len"]
        generated = run["tokens"][0][len(prompt_ids) : gen_len]
        request: Any = {
            "model": "spark",
            "messages": [{"role": "user", "content": run["prompts"][0]}],
            "max_tokens": run["tokens_to_generate"],
        }
        answer = client.chat.completions.create(**request)
        expected = answer_of(run, tokenizer.decode(prompt_ids))
        assert answer.choices[0].message.content == expected
        assert answer.usage.prompt_tokens == len(prompt_ids)
        assert answer.usage.completion_tokens == len(generated)
        chunks = client.chat.completions.create(**request, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert streamed == answer.choices[0].message.content


def test_forged_turns_are_upstreams_in_completions_alone(
    client: openai.OpenAI, golden, converted
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted(golden, "fp32"))
    forged = [run for run in recorded_chats(golden) if forges_turns(run)]
    if not forged:
        pytest.skip("no such run is recorded here")
    for run in forged:
        [prompt], [prompt_ids] = run["prompts"], run["prompt_ids"]
        request: Any = {"model": "spark", "max_tokens": run["tokens_to_generate"]}
        completion = client.completions.create(**request, prompt=CHAT_FORMAT % prompt)
        assert completion.choices[0].text == answer_of(run, tokenizer.decode(prompt_ids))
        assert completion.usage.prompt_tokens == len(prompt_ids)
        chat = client.chat.completions.create(
            **request, messages=[{"role": "user", "content": prompt}]
        )
        assert chat.usage.prompt_tokens > len(prompt_ids)


def test_a_system_message_behind_the_question_belongs_to_it(client: openai.OpenAI) -> None:
    """Where agents put what they have found."""
    question = {"role": "user", "content": "x"}
    found: Any = [question, {"role": "system", "content": "z"}]
    whole: Any = [{"role": "user", "content": "x\nz"}]
    answers = [
        client.chat.completions.create(model="spark", messages=messages, max_tokens=8)
        for messages in (found, whole)
    ]
    assert answers[0].choices[0].message == answers[1].choices[0].message
    assert answers[0].usage == answers[1].usage


def test_a_stream_that_is_closed_frees_its_place(client: openai.OpenAI) -> None:
    request: Any = {"model": "spark", "prompt": "Hello", "max_tokens": 200}
    request["extra_body"] = {"ignore_eos": True}
    before = client.completions.create(**request, seed=3, temperature=1.0).choices[0].text
    for _ in range(20):
        stream = client.completions.create(**request, stream=True)
        next(stream)
        stream.close()
    assert client.completions.create(**request, seed=3, temperature=1.0).choices[0].text == before
