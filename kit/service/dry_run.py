"""What `kit up` would do here now, command by command. Nothing is changed to find it out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kit.errors import KitError
from kit.runtime.protocol import (
    ImageRef,
    Launch,
    Listener,
    Running,
    Runtime,
    RuntimeName,
    ServeSpec,
    Service,
    current,
)
from kit.service.bring_up import reason_to_restart
from kit.service.intent import Intent, UpOptions, decide
from kit.service.preflight import require_start


@dataclass(frozen=True)
class DryRun:
    """What would happen.

    Attributes:
        runs: the service that is there now; None: there is none.
        reason: why that would be replaced; None: it would be left as it is.
        steps: what would be run, in order; empty where nothing would.
        refusal: what would stop it before the first step.
    """

    intent: Intent
    runs: str | None
    reason: str | None
    steps: tuple[Launch, ...]
    refusal: KitError | None = None


def dry_run(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    *,
    environ: Mapping[str, str] = os.environ,
) -> DryRun:
    """Decide as `kit up` does, and stop there.

    Raises:
        KitError: it cannot even be decided what would be served, or how.
    """
    intent = decide(options, runtimes, listener, environ, dry=True)
    old = current(runtimes)
    reason = None if old is None else reason_to_restart(old, intent)
    if old is not None and reason is None:
        return DryRun(intent, old.running.where, None, ())
    runtime = runtimes[intent.runtime]
    steps = [*_image_steps(intent, runtime), *_stop_steps(old)]
    steps.append(runtime.launch(_with_image_name(intent)))
    where = old.running.where if old else None
    refusal = _refusal(intent, old.running if old else None, runtime, listener)
    return DryRun(intent, where, reason, tuple(steps), refusal)


def _refusal(
    intent: Intent, old: Running | None, runtime: Runtime, listener: Listener
) -> KitError | None:
    try:
        require_start(intent, old, listener)
        runtime.require_vacancy()
    except KitError as error:
        return error
    return None


def _with_image_name(intent: Intent) -> ServeSpec:
    """The spec; where its image is not here yet, with that one's name."""
    if intent.image is None or intent.spec.image is not None:
        return intent.spec
    return replace(intent.spec, image=ImageRef(intent.image.name, ""))


def _image_steps(intent: Intent, runtime: Runtime) -> list[Launch]:
    wanted = intent.image
    if wanted is None or intent.spec.image or runtime.images is None:
        return []
    if not wanted.named:
        return [Launch(wanted.build_command, wanted.shown_variables)]
    return [runtime.images.pulling(intent.spec, wanted.name)]


def _stop_steps(old: Service | None) -> list[Launch]:
    return [Launch(("kit", "down"), {})] if old is not None else []
