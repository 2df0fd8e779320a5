"""Checking a service against its budget: fill its context, then compare its peaks."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import BudgetExceeded, KitError, ServiceError
from kit.memory.budget import Measured, Verdict, assess
from kit.memory.plan.native import PREFILL_CHUNK
from kit.proof.measure import measure
from kit.proof.receipt import MeasuredWork
from kit.proof.recorder import Recorder
from kit.runtime.client import Client, Failed, Ready, TooSlow
from kit.runtime.postmortem import refused_request
from kit.runtime.protocol import Listener, Running, Runtime
from kit.runtime.ready import require_no_death

DECODE_TOKENS = 32
"""That all sequences generate together, once every prompt has been read."""
_CHUNK = PREFILL_CHUNK * 3 // 4
"""The fewest positions that the native engine reads at once."""
_TOKEN_IDS = (7, 11, 13, 17, 19, 23, 29, 31)
"""What the prompts repeat. Memory does not depend on what is said."""
_VARIED_TOKENS = (5, 23, 51, 77, 110, 160, 230, 310, 450)
"""One for each length to which the native engine pads a prompt's last chunk, and no multiple."""
_VARIED_ANSWER = 2
_PROBE_TOKENS = (64, PREFILL_CHUNK)
_PROBE_ANSWER = 4


def work_of(ready: Ready) -> tuple[int, int]:
    """Tokens of prompt and of answer that fill the context of each sequence.

    While prompts are read one after the other, those that have been read generate a token for each
    chunk of the others; the answers are long enough that the first goes on when the last begins.
    """
    reading = ready.max_sequences * math.ceil(ready.context_length / _CHUNK)
    generated = min(reading + DECODE_TOKENS, ready.context_length // 2)
    return ready.context_length - generated, generated


def fill_context(
    client: Client,
    ready: Ready,
    *,
    on_phase: Callable[[str], None],
    timeout_seconds: float,
) -> MeasuredWork:
    """Generate to the last token of the stated context, in all sequences at once.

    Short prompts of several lengths come first.

    Args:
        service: that is ready.
        ready: what it said of itself.
        on_phase: told ``prefill`` at the start, and ``decode`` once all prompts have been read.
        timeout_seconds: without any token.

    Raises:
        ServiceError: a sequence failed.
    """
    prompt_tokens, generated = work_of(ready)
    prompt = _prompt(prompt_tokens)
    reading = threading.Semaphore(0)
    errors: list[KitError] = []

    def run() -> None:
        try:
            tokens = client.generate(
                ready.model, prompt, generated, timeout_seconds=timeout_seconds
            )
            for count, _ in enumerate(tokens):
                if count == 0:
                    reading.release()
        except KitError as error:
            errors.append(error)
        reading.release()  # however it ended, nobody waits for it

    on_phase("prefill")
    begin = time.monotonic()
    _vary(client, ready, timeout_seconds)
    threads = [threading.Thread(target=run, daemon=True) for _ in range(ready.max_sequences)]
    for thread in threads:
        thread.start()
    for _ in threads:
        reading.acquire()
    on_phase("decode")
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return MeasuredWork(
        ready.max_sequences, prompt_tokens, generated, round(time.monotonic() - begin, 3)
    )


def expected_seconds(client: Client, ready: Ready, limit_seconds: float) -> float:
    """How long :func:`fill_context` will take here, from short prompts that are timed.

    A few tokens are tried first: a slow machine would take minutes for more. They tell too much
    where a chunk of any size takes the same time, so a whole chunk is tried where that may decide.

    Args:
        limit_seconds: longer than that is as good as forever, which is infinity.

    Raises:
        ServiceError: there was no answer.
    """
    expected = math.inf
    for wanted in _PROBE_TOKENS:
        tokens = min(wanted, ready.context_length - _PROBE_ANSWER)
        if tokens < 1:
            return 0.0
        try:
            chunk, token = _time(client, ready, tokens, limit_seconds)
        except TooSlow:
            break
        expected = min(expected, extrapolate(ready, tokens, chunk, token))
        if expected <= limit_seconds or chunk * (PREFILL_CHUNK / tokens) > limit_seconds / 4:
            break
    return expected


def extrapolate(ready: Ready, tokens: int, chunk_seconds: float, token_seconds: float) -> float:
    """Seconds to fill the context, if ``tokens`` of a prompt and one of an answer take these."""
    prompt_tokens, generated = work_of(ready)
    chunks = ready.max_sequences * math.ceil(prompt_tokens / tokens)
    chunks += sum(math.ceil(each / tokens) for each in _varied(ready))
    return chunks * chunk_seconds + generated * token_seconds


def _time(client: Client, ready: Ready, tokens: int, limit_seconds: float) -> tuple[float, float]:
    """Seconds to read a prompt of so many tokens, and for each token after it."""
    begin = time.monotonic()
    marks = [
        time.monotonic() - begin
        for _ in client.generate(
            ready.model, _prompt(tokens), _PROBE_ANSWER, timeout_seconds=limit_seconds
        )
    ]
    return marks[0], (marks[-1] - marks[0]) / (_PROBE_ANSWER - 1)


def _vary(client: Client, ready: Ready, timeout_seconds: float) -> None:
    for tokens in _varied(ready):
        told = client.generate(
            ready.model, _prompt(tokens), _VARIED_ANSWER, timeout_seconds=timeout_seconds
        )
        for _ in told:
            pass


def _varied(ready: Ready) -> list[int]:
    return [each for each in _VARIED_TOKENS if each + _VARIED_ANSWER <= ready.context_length]


def _prompt(tokens: int) -> list[int]:
    return [_TOKEN_IDS[index % len(_TOKEN_IDS)] for index in range(tokens)]


EXERCISE_SECONDS = 120.0
"""`kit up` leaves the exercise out where it would take longer."""
# Whatever takes longer than a day counts as a day: nobody waits for it.
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Proof:
    """How a service is to pass its checks.

    Attributes:
        exercise: fill its whole context, in all sequences at once.
        limit_seconds: leave that out where it would take longer.
        receipt: where the receipt is written; None: in the state folder.
    """

    exercise: bool = True
    limit_seconds: float = EXERCISE_SECONDS
    receipt: Path | None = None


PROOF = Proof()


@dataclass(frozen=True)
class Assessed:
    """The result of the checks.

    Attributes:
        work: None where the context was not filled; ``skipped`` then says why.
    """

    measured: Measured
    verdicts: tuple[Verdict, ...]
    work: MeasuredWork | None
    skipped: str | None
    receipt: Path | None = None


@dataclass(frozen=True)
class Answering:
    """A service that is ready and has answered."""

    running: Running
    runtime: Runtime
    client: Client
    ready: Ready


def prove(answering: Answering, proof: Proof, recorder: Recorder, listener: Listener) -> Assessed:
    """Let the service do its work, while ``recorder`` looks, and check its peaks.

    The recorder is stopped.

    Raises:
        BudgetExceeded: the cap on VRAM refused what the work took.
        ServiceError: the work failed, or the service died of it.
    """
    work, skipped = _exercise(answering, proof, recorder, listener)
    if skipped is not None:
        listener.say(f"its context was not filled: {skipped}")
    recorder.stop()  # so that no sample shows more than is measured now
    spec, timeline = answering.running.spec, recorder.timeline()
    measured = measure(answering.runtime, answering.client, spec.device, timeline)
    return Assessed(measured, assess(spec.budget, measured), work, skipped)


def _exercise(
    answering: Answering, proof: Proof, recorder: Recorder, listener: Listener
) -> tuple[MeasuredWork | None, str | None]:
    """The work, or why there was none."""
    client, ready = answering.client, answering.ready
    what = f"{ready.max_sequences} x {ready.context_length} tokens"
    if not proof.exercise:
        return None, "as was asked for"
    if client.is_busy(1):
        return None, "it is busy with other requests"
    try:
        listener.progress("measuring its speed", None)
        recorder.phase("prefill")
        seconds = expected_seconds(client, ready, min(proof.limit_seconds, _DAY_SECONDS))
        if seconds > proof.limit_seconds:
            return None, f"{what} would take {_duration(seconds)}; kit memory assert does it"
        listener.say(f"filling its context: {what}, {_duration(seconds)}")
        return _fill(answering, recorder, listener), None
    except ServiceError as error:
        health = client.health()
        if isinstance(health, Failed) and health.exit_code == BudgetExceeded.exit_code:
            return None, "it passed its budget meanwhile"
        require_no_death(answering.runtime, answering.running, client, listener, recorder.lived)
        refused = refused_request(error.message, answering.running, recorder.lived())
        raise refused or error from None
    finally:
        recorder.phase(None)


def _fill(answering: Answering, recorder: Recorder, listener: Listener) -> MeasuredWork:
    def on_phase(name: str) -> None:
        recorder.phase(name)
        listener.progress(f"filling its context: {name}", None)

    return fill_context(
        answering.client, answering.ready, on_phase=on_phase, timeout_seconds=_DAY_SECONDS
    )


def _duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "very long"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"
