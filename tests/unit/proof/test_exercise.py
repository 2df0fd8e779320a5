"""On the real server, with an engine that generates at once."""

from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs the native extra")

from kit.errors import ServiceError
from kit.proof.assertion import expected_seconds, extrapolate, fill_context, work_of
from kit.runtime.client import Client, Ready
from kit.serve.api.app import AppOptions
from kit.serve.server import ServerOptions
from tests.unit.serve.serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer, source

READY = Ready(MODEL, "bfloat16", "cpu", CONTEXT, 4, 1.0, None)


@pytest.fixture
def engine():
    engine = FakeEngine()
    engine.says([65] * CONTEXT)
    return engine


@pytest.fixture
def client(engine):
    server = RunningServer(source(engine), ServerOptions(port=0, app=AppOptions()))
    server.wait_until_ready()
    yield Client(server.url)
    server.end()


def test_every_sequence_fills_its_context(client, engine):
    phases = []
    work = fill_context(client, READY, on_phase=phases.append, timeout_seconds=30)
    assert (work.sequences, work.prompt_tokens + work.generated_tokens) == (4, CONTEXT)
    assert phases == ["prefill", "decode"]
    *varied, _, _, _, _ = lengths = [len(one.prompt_ids) for one in engine.submissions]
    assert lengths[-4:] == [work.prompt_tokens] * 4
    filling = engine.submissions[-4:]
    assert all(one.params.max_tokens == work.generated_tokens for one in filling)
    assert len(set(varied)) == len(varied) >= 5
    assert max(varied) < CONTEXT


def test_a_sequence_that_fails_is_an_error(client, engine):
    engine.fail_after = 3
    with pytest.raises(ServiceError, match="out of memory"):
        fill_context(client, READY, on_phase=lambda phase: None, timeout_seconds=30)


def test_the_last_prompt_is_read_while_the_first_answer_goes_on():
    prompt, answer = work_of(Ready("m", "bfloat16", "cpu", 8192, 8, 1.0, None))
    assert answer > 7 * prompt / 512
    assert prompt + answer == 8192
    assert work_of(Ready("m", "bfloat16", "cpu", 2, 1, 1.0, None)) == (1, 1)


def test_how_long_it_takes_is_tried_with_few_tokens(client, engine):
    assert 0 < expected_seconds(client, READY, 60) < 60
    assert [len(one.prompt_ids) for one in engine.submissions] == [64]


def test_the_time_of_a_short_prompt_tells_that_of_all():
    ready = Ready("m", "bfloat16", "cpu", 4096, 2, 1.0, None)
    prompt, answer = work_of(ready)
    assert extrapolate(ready, prompt, 3.0, 0.5) == (2 + 9) * 3.0 + answer * 0.5


def test_a_context_too_short_to_try_takes_no_time(client, engine):
    assert expected_seconds(client, replace(READY, context_length=4), 60) == 0
    assert not engine.submissions
