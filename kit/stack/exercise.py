"""Make a service hold as much memory as it ever will: full contexts, as many as fit at once."""

import threading
import time
from collections.abc import Callable

from kit.errors import KitError
from kit.memory.receipt import MeasuredWork
from kit.stack.service import Ready, Service

DECODE_TOKENS = 32
_TOKEN_IDS = (7, 11, 13, 17, 19, 23, 29, 31)
"""What the prompts repeat. Memory does not depend on what is said."""


def fill_context(
    service: Service,
    ready: Ready,
    *,
    on_phase: Callable[[str], None],
    timeout_seconds: float,
) -> MeasuredWork:
    """Generate to the last token of the stated context, in all sequences at once.

    Args:
        service: that is ready.
        ready: what it said of itself.
        on_phase: told ``prefill`` at the start, and ``decode`` once all prompts have been read.
        timeout_seconds: without any token.

    Raises:
        ServiceError: a sequence failed.
    """
    generated = min(DECODE_TOKENS, ready.context_length // 2)
    prompt = [_TOKEN_IDS[i % len(_TOKEN_IDS)] for i in range(ready.context_length - generated)]
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
        ready.max_sequences, len(prompt), generated, round(time.monotonic() - begin, 3)
    )
