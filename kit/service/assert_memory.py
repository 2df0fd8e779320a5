"""`kit memory assert`: a measured run of the service at its full context, with its evidence."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kit.errors import BudgetExceeded, EnvironmentNotReady, ServiceError, UsageError
from kit.memory.timeline import read_timeline
from kit.proof.picture import write_html, write_png
from kit.proof.receipt import RECEIPTS, new_path, now, run_of
from kit.runtime.client import Failed, Ready
from kit.runtime.protocol import Listener, Runtime, RuntimeName, Service, current
from kit.service.bring_up import Up, bring_up, exclusive, reason_to_restart, report_of
from kit.service.intent import Intent, UpOptions, decide
from kit.service.measured_run import UpReport, measured_run
from kit.service.recall import Proven, recall

Runtimes = Mapping[RuntimeName, Runtime]


@dataclass(frozen=True)
class AssertReport:
    """What was measured.

    Attributes:
        receipt: the file.
        pictures: PNG and HTML of the timeline beside it, as far as they could be drawn.
        report: None where the service did not come so far; ``breach`` then says why.
    """

    receipt: Path
    pictures: tuple[Path, ...]
    report: UpReport | None
    breach: BudgetExceeded | None


def assert_service(
    options: UpOptions,
    runtimes: Runtimes,
    listener: Listener,
    *,
    as_it_runs: bool,
    keep: bool,
    environ: Mapping[str, str] = os.environ,
) -> AssertReport:
    """Fill the context of the service, which is started unless it runs, and check its peaks.

    A service that already ran goes on, whatever is measured. One that was started for this is
    stopped at the end, unless ``keep``; past its budget in any case.

    Args:
        as_it_runs: the options were not chosen: a service that runs is measured as it is.

    Raises:
        UsageError: another service runs than the options ask for.
        ServiceError: the service failed, or has no time for the work.
        KitError: see :func:`kit.service.bring_up.bring_up`.
    """
    with exclusive(options.settings.state_dir, options.timeout_seconds, listener):
        found = current(runtimes)
        old = found if found is not None and found.running.alive else None
        intent = _intent(options, old if as_it_runs else None, runtimes, listener, environ)
        if old is not None and (reason := reason_to_restart(old, intent)):
            raise UsageError(
                reason,
                hint="kit down ends it; without options kit memory assert measures it as it is",
            )
        intent = _with_receipt(intent)
        report, breach = _measure(intent, old, runtimes, listener)
        if old is None and not keep and runtimes[intent.runtime].stop():
            listener.say("stopped the service; --keep lets it run")
    receipt = _receipt(intent)
    pictures = draw_beside(receipt, listener)
    return AssertReport(receipt, pictures, report, breach)


def draw_beside(receipt: Path, listener: Listener) -> tuple[Path, ...]:
    """Draw the timeline beside a receipt as PNG and HTML, if matplotlib is there."""
    timeline = read_timeline(receipt.with_suffix(".jsonl"))
    png, html = receipt.with_suffix(".png"), receipt.with_suffix(".html")
    if not timeline.samples:
        return ()
    try:
        write_png(timeline, png)
        write_html(timeline, html)
    except EnvironmentNotReady as error:
        listener.say(f"no pictures were drawn: {error.message} ({error.hint})")
        return ()
    return png, html


def _intent(
    options: UpOptions,
    service: Service | None,
    runtimes: Runtimes,
    listener: Listener,
    environ: Mapping[str, str],
) -> Intent:
    """Of the service that runs, else of the options."""
    if service is None:
        return decide(options, runtimes, listener, environ)
    proven = Proven(service.runtime.name, service.running.spec)
    return recall(
        proven,
        options.settings,
        environ,
        timeout_seconds=options.timeout_seconds,
        proof=options.proof,
    )


def _with_receipt(intent: Intent) -> Intent:
    """The same, with the receipt's place decided."""
    run = run_of(intent.spec, None, now())
    path = intent.proof.receipt or new_path(intent.settings.state_dir, RECEIPTS, run, ".json")
    return replace(intent, proof=replace(intent.proof, receipt=path))


def _receipt(intent: Intent) -> Path:
    assert intent.proof.receipt is not None  # noqa: S101  (_with_receipt has set it)
    return intent.proof.receipt


def _measure(
    intent: Intent,
    old: Service | None,
    runtimes: Runtimes,
    listener: Listener,
) -> tuple[UpReport | None, BudgetExceeded | None]:
    try:
        if old is None:
            report = bring_up(intent, runtimes, listener)
        else:
            report = _measure_running(intent, old, listener)
    except BudgetExceeded as breach:
        if not _receipt(intent).exists():
            raise
        return None, breach
    if report.work is None and report.within_budget:
        raise ServiceError(
            f"its peak at full context was not measured: {report.skipped}",
            hint="try again while nobody asks it",
        )
    return report, None


def _measure_running(intent: Intent, service: Service, listener: Listener) -> UpReport:
    begin = time.monotonic()
    runtime, running = service.runtime, service.running
    client = intent.client
    health = client.health()
    if isinstance(health, Failed) and health.exit_code == BudgetExceeded.exit_code:
        with measured_run(intent, runtime, running):  # which leaves a receipt of it
            raise BudgetExceeded(health.error, hint=health.hint)
    if not isinstance(health, Ready):
        raise ServiceError("the service that runs is not ready", hint="see kit status")
    if client.is_busy(1):
        raise ServiceError(
            "the service is busy with requests, which filling its context would hold up",
            hint="try again while nobody asks it",
        )
    listener.say(f"measuring the service that runs ({running.where})")
    with measured_run(intent, runtime, running) as run:
        held = run.prove(health, listener)
    up = Up(running, health, None, held)
    return report_of(intent, up, running, held, time.monotonic() - begin, is_new=False)
