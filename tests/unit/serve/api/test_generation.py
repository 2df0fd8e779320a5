"""Clients that go away: what they asked for is cancelled in the engine at once."""

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer

HELLO: Any = [{"role": "user", "content": "hi"}]


def test_a_stream_that_is_closed(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.pause_after = 3
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, n=2, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    for submission in engine.submissions:
        assert submission.cancelled.wait(10)
        assert submission.ended.wait(10)


def test_a_task_that_is_cancelled_in_mid_stream(server: RunningServer, engine: FakeEngine) -> None:
    engine.pause_after = 3

    async def read(started: asyncio.Event) -> None:
        async with server.async_client() as client:
            stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            async for _ in stream:
                started.set()

    async def cancel_reading() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(read(started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_reading())
    assert engine.submissions[0].cancelled.wait(10)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_client_that_hangs_up_while_its_answer_is_made(
    server: RunningServer, client: openai.OpenAI, engine: FakeEngine, path: str
) -> None:
    engine.pause_after = 3
    body = b'{"prompt": "x"}'
    if path.startswith("chat"):
        body = b'{"messages": [{"role": "user", "content": "x"}]}'
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert engine.paused.wait(10)
    assert engine.submissions[0].cancelled.wait(10)
    engine.pause_after = None
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello, 世界!"


def test_one_failed_choice_ends_the_others(client: openai.OpenAI, engine: FakeEngine) -> None:
    fail_after = iter([None, 2])
    engine.pause_after = 4
    original = engine.submit

    def submit(*arguments: Any, **named: Any) -> Any:
        engine.fail_after = next(fail_after)
        return original(*arguments, **named)

    engine.submit = submit  # type: ignore[method-assign]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=MODEL, messages=HELLO, n=2)
    assert engine.submissions[0].cancelled.wait(10)
