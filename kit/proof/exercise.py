"""Make a service hold as much memory as it ever will: full contexts, as many as fit at once.

Before that come prompts of several lengths. On a CPU libraries keep a program for every shape that
they meet, so that requests of one length alone would not show what a service takes.
"""

import math
import threading
import time
from collections.abc import Callable

from kit.errors import KitError
from kit.memory.plan import PREFILL_CHUNK
from kit.proof.receipt import MeasuredWork
from kit.runtime.client import Ready, Service, TooSlow

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
    service: Service,
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
            tokens = service.generate(
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
    _vary(service, ready, timeout_seconds)
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


def expected_seconds(service: Service, ready: Ready, limit_seconds: float) -> float:
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
            chunk, token = _time(service, ready, tokens, limit_seconds)
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


def _time(service: Service, ready: Ready, tokens: int, limit_seconds: float) -> tuple[float, float]:
    """Seconds to read a prompt of so many tokens, and for each token after it."""
    begin = time.monotonic()
    marks = [
        time.monotonic() - begin
        for _ in service.generate(
            ready.model, _prompt(tokens), _PROBE_ANSWER, timeout_seconds=limit_seconds
        )
    ]
    return marks[0], (marks[-1] - marks[0]) / (_PROBE_ANSWER - 1)


def _vary(service: Service, ready: Ready, timeout_seconds: float) -> None:
    for tokens in _varied(ready):
        told = service.generate(
            ready.model, _prompt(tokens), _VARIED_ANSWER, timeout_seconds=timeout_seconds
        )
        for _ in told:
            pass


def _varied(ready: Ready) -> list[int]:
    return [each for each in _VARIED_TOKENS if each + _VARIED_ANSWER <= ready.context_length]


def _prompt(tokens: int) -> list[int]:
    return [_TOKEN_IDS[index % len(_TOKEN_IDS)] for index in range(tokens)]
