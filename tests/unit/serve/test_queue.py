"""More requests than can be answered at once."""

from collections.abc import Callable

import httpx
import openai
import pytest
from serve_fakes import MODEL, FakeEngine, RunningServer

Start = Callable[..., RunningServer]


def test_a_full_queue_is_429_with_the_time_to_come_again(start: Start, engine: FakeEngine) -> None:
    engine.pause_after = 1
    server = start(max_waiting=2)  # beside the four that the engine generates at once
    with server.client() as client:
        streams = [
            client.completions.create(model=MODEL, prompt="x", n=n, stream=True) for n in (4, 2)
        ]
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model=MODEL, prompt="x")
        assert caught.value.code == "queue_full"
        assert caught.value.response.json()["error"]["type"] == "rate_limit_error"
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert server.ready().status_code == 200
        engine.go_on()
        for stream in streams:
            assert list(stream)[-1].choices[0].finish_reason
        assert client.completions.create(model=MODEL, prompt="x").choices[0].text
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert "kit_sequences_waiting_limit 2.0" in text
    assert 'kit_requests_total{route="/v1/completions",status="429"} 1.0' in text


def test_what_never_fits_is_not_told_to_come_again(start: Start, engine: FakeEngine) -> None:
    server = start(max_waiting=2)
    with server.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", n=7)
    assert caught.value.code == "too_many_answers"
    assert engine.submissions == []


def test_all_choices_of_a_request_wait_as_one(start: Start, engine: FakeEngine) -> None:
    requests: list[object] = []
    submit = engine.submit

    def noting(*arguments, request):  # type: ignore[no-untyped-def]
        requests.append(request)
        return submit(*arguments, request=request)

    engine.submit = noting  # type: ignore[method-assign]
    with start().client() as client:
        for _ in range(2):
            client.completions.create(model=MODEL, prompt="x", n=2)
    assert requests[0] is requests[1]
    assert requests[1] is not requests[2]
