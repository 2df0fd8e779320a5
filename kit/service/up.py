"""`kit up`: bring a model up, wait until it answers, and hold its memory against the budget."""

import os
from collections.abc import Mapping

from kit.runtime.listener import Listener
from kit.runtime.protocol import Runtime, RuntimeName
from kit.service.bring_up import bring_up
from kit.service.intent import UpOptions, decide
from kit.service.lock import exclusive
from kit.service.report import UpReport


def up(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    *,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Start the service unless it already runs as asked; ask it one question; measure it.

    Raises:
        EnvironmentNotReady: no model, no free memory, no free port, or something is not installed.
            A service that ran before goes on.
        IntegrityError: the demo's or the model's files are damaged.
        ServiceError: the service died, hangs, gave no answer, or was not ready in time.
    """
    with exclusive(options.settings.state_dir, options.timeout_seconds, listener):
        intent = decide(options, runtimes, listener, environ)
        return bring_up(intent, runtimes, listener)
