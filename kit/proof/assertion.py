"""What is done with a service that answers, to check it against its budget."""

import math
from dataclasses import dataclass
from pathlib import Path

from kit.errors import BudgetExceeded, ServiceError
from kit.memory.budget import Measured, Verdict, hold
from kit.proof.exercise import expected_seconds, fill_context
from kit.proof.measure import measure
from kit.proof.receipt import MeasuredWork
from kit.proof.recorder import Recorder
from kit.runtime.client import Failed, Ready, Service
from kit.runtime.out_of_memory import refused_request
from kit.runtime.protocol import Listener, Running, Runtime
from kit.runtime.ready import require_no_death

EXERCISE_SECONDS = 120.0
"""`kit up` leaves the exercise out where it would take longer."""
# Whatever takes longer than a day is told as that: nobody waits for it.
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
class Held:
    """What came of it.

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
    service: Service
    ready: Ready


def prove(answering: Answering, proof: Proof, recorder: Recorder, listener: Listener) -> Held:
    """Let the service do its work, while ``recorder`` looks, and hold its peaks; ends the looking.

    Raises:
        BudgetExceeded: the cap on VRAM refused what the work took.
        ServiceError: the work failed, or the service died of it.
    """
    work, skipped = _exercise(answering, proof, recorder, listener)
    if skipped is not None:
        listener.say(f"its context was not filled: {skipped}")
    recorder.stop()  # so that no sample shows more than is measured now
    spec, timeline = answering.running.spec, recorder.timeline()
    measured = measure(answering.runtime, answering.service, spec.device, timeline)
    return Held(measured, hold(spec.budget, measured), work, skipped)


def _exercise(
    answering: Answering, proof: Proof, recorder: Recorder, listener: Listener
) -> tuple[MeasuredWork | None, str | None]:
    """The work, or why there was none."""
    service, ready = answering.service, answering.ready
    what = f"{ready.max_sequences} x {ready.context_length} tokens"
    if not proof.exercise:
        return None, "as was asked for"
    if service.is_busy(1):
        return None, "it is busy with other requests"
    try:
        listener.progress("measuring its speed", None)
        recorder.phase("prefill")
        seconds = expected_seconds(service, ready, min(proof.limit_seconds, _DAY_SECONDS))
        if seconds > proof.limit_seconds:
            return None, f"{what} would take {_duration(seconds)}; kit memory assert does it"
        listener.say(f"filling its context: {what}, {_duration(seconds)}")
        return _fill(answering, recorder, listener), None
    except ServiceError as error:
        health = service.health()
        if isinstance(health, Failed) and health.exit_code == BudgetExceeded.exit_code:
            return None, "it passed its budget meanwhile"
        require_no_death(answering.runtime, answering.running, service, listener, recorder.lived)
        refused = refused_request(error.message, answering.running, recorder.lived())
        raise refused or error from None
    finally:
        recorder.phase(None)


def _fill(answering: Answering, recorder: Recorder, listener: Listener) -> MeasuredWork:
    def on_phase(name: str) -> None:
        recorder.phase(name)
        listener.progress(f"filling its context: {name}", None)

    return fill_context(
        answering.service, answering.ready, on_phase=on_phase, timeout_seconds=_DAY_SECONDS
    )


def _duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "very long"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"
