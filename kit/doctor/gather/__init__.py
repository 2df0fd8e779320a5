"""Gathering facts: one adapter for each, all at once, each within its time; none ever raises."""

import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from kit.doctor.facts import Budgets, Facts
from kit.doctor.request import Request
from kit.errors import KitError
from kit.memory.unavailable import Unavailable

Look = Callable[[Request, Facts], object]
Watch = Callable[[Collection[str]], None]


@dataclass(frozen=True)
class Adapter:
    """How one fact is observed.

    Attributes:
        fact: the field of ``Facts``.
        look: observes it. May raise; then the fact is Unavailable, and says so.
        after: facts that it builds on.
        seconds: it is not waited for any longer.
    """

    fact: str
    look: Look
    after: tuple[str, ...] = ()
    seconds: float = 15.0


def gather(
    request: Request,
    adapters: Collection[Adapter],
    watch: Watch = lambda waiting: None,
) -> Facts:
    """Observe everything that ``adapters`` can; they run side by side, in threads of their own.

    A look that hangs (a dead network share, a driver that does not return) is left behind.

    Args:
        watch: called with the facts that are still waited for, whenever these change.
    """
    facts = Facts(
        environ=dict(request.environ),
        settings_problem=str(request.settings_problem) if request.settings_problem else None,
        budgets=Budgets(request.settings.max_vram_bytes, request.settings.max_ram_bytes),
    )
    answers: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
    known = {field for field in vars(facts) if field not in {a.fact for a in adapters}}
    waiting = {adapter.fact: adapter for adapter in adapters}
    deadlines: dict[str, float] = {}
    while waiting:
        for adapter in waiting.values():
            if adapter.fact not in deadlines and known.issuperset(adapter.after):
                deadlines[adapter.fact] = time.monotonic() + adapter.seconds
                _start(adapter, request, facts, answers)
        watch(tuple(waiting))
        fact, value = _next(answers, deadlines)
        if waiting.pop(fact, None) is not None:
            del deadlines[fact]
            known.add(fact)
            changed: dict[str, Any] = {fact: value}
            facts = replace(facts, **changed)
    return facts


def _start(
    adapter: Adapter,
    request: Request,
    facts: Facts,
    answers: "queue.SimpleQueue[tuple[str, object]]",
) -> None:
    def look() -> None:
        try:
            value = adapter.look(request, facts)
        except KitError as error:
            value = Unavailable(error.message)
        except Exception as error:
            text = " ".join(str(error).split()) or "no reason given"
            value = Unavailable(f"looking failed ({type(error).__name__}: {text})")
        answers.put((adapter.fact, value))

    threading.Thread(target=look, name=f"look at {adapter.fact}", daemon=True).start()


def _next(
    answers: "queue.SimpleQueue[tuple[str, object]]", deadlines: dict[str, float]
) -> tuple[str, object]:
    """The next answer, or the end of the first look that has run out of time."""
    fact, deadline = min(deadlines.items(), key=lambda entry: entry[1])
    try:
        return answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return fact, Unavailable("no answer in time")
