"""On the real server, with an engine that generates at once."""

from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs the native extra")

import os
from pathlib import Path

from kit.errors import ServiceError
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import Answering, Proof, prove
from kit.proof.recorder import Recorder
from kit.runtime.client import Client
from kit.runtime.protocol import Running, ServeSpec
from kit.serve.api.app import AppOptions
from kit.serve.server import ServerOptions
from kit.units import GIB
from tests.timelines import RUN
from tests.unit.serve.serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer, source

SPEC = ServeSpec(Path("/m"), MODEL, "127.0.0.1", 8000, CONTEXT, 4, "cpu", max_ram_bytes=64 * GIB)


class ThisProcess:
    """A runtime whose service is the process that the tests run in."""

    def status(self):
        return Running(SPEC, True, "here", os.getpid(), 0.0, Unavailable("it runs"))

    def processes(self):
        return (os.getpid(),)

    def logs(self, lines, *, follow=False, this_run=False):
        return iter(())


class Hears:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def progress(self, phase, fraction):
        pass


@pytest.fixture
def engine():
    engine = FakeEngine()
    engine.says([65] * CONTEXT)
    return engine


@pytest.fixture
def answering(engine):
    server = RunningServer(source(engine), ServerOptions(port=0, app=AppOptions()))
    server.wait_until_ready()
    client = Client(server.url)
    runtime = ThisProcess()
    yield Answering(runtime.status(), runtime, client, client.health())
    engine.go_on()
    server.end()


def proven(answering, proof, listener=None):
    with Recorder(answering.runtime, answering.client, replace(RUN, device="cpu")) as recorder:
        held = prove(answering, proof, recorder, listener or Hears())
        return held, recorder.timeline()


def test_the_context_is_filled_and_the_peak_held(answering):
    held, timeline = proven(answering, Proof())
    assert (held.work.sequences, held.skipped) == (4, None)
    (verdict,) = held.verdicts
    assert verdict.passed
    assert verdict.peak_bytes >= max(sample.peak_bytes for sample in timeline.samples)


def test_what_was_not_asked_for_is_not_done(answering):
    listener = Hears()
    held, _ = proven(answering, Proof(exercise=False), listener)
    assert (held.work, held.skipped) == (None, "as was asked for")
    assert listener.said == ["its context was not filled: as was asked for"]


def test_what_would_take_too_long_is_left_out(answering):
    held, _ = proven(answering, Proof(limit_seconds=1e-6))
    assert held.work is None
    assert "4 x 200 tokens would take" in held.skipped
    assert "kit memory assert" in held.skipped


def test_a_busy_service_is_left_alone(answering, engine):
    engine.pause_after = 1
    running = answering.client.generate(MODEL, [7], 9, timeout_seconds=30)
    next(running)
    held, _ = proven(answering, Proof())
    assert held.skipped == "it is busy with other requests"
    engine.go_on()
    list(running)


def test_work_that_fails_is_an_error(answering, engine):
    engine.fail_after = 0
    with pytest.raises(ServiceError, match="out of memory"):
        proven(answering, Proof())
