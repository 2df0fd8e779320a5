"""Changing a service that runs: start it again, bring it to something new, and back."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from kit.containers.image import is_built_here
from kit.errors import KitError, ServiceError, UsageError
from kit.memory.budget import default_ram_budget, require
from kit.memory.plan.line import Pool
from kit.memory.plan.torch_build import CPU_BUILD, CUDA_BUILD
from kit.proof.assertion import PROOF, Proof
from kit.runtime.protocol import Listener, Runtime, RuntimeName, Service, current, differences
from kit.service.bring_up import bring_up, exclusive, pull_image
from kit.service.intent import Examine, Intent, UpOptions, decide, plan_of
from kit.service.measured_run import UpReport
from kit.service.model import DEMO, model_at
from kit.service.recall import Proven, before, read_history, recall
from kit.settings import Settings

Runtimes = Mapping[RuntimeName, Runtime]


@dataclass(frozen=True)
class Wishes:
    """What `kit upgrade` is to change; None stays as it is.

    Attributes:
        image: of the container; None is the same name, or what this checkout builds where that
            built the old one.
        insists: the image was asked for, not just left in the environment.
        pull: bring the image from its registry even where one of its name is here.
        proof: how the new service has to pass its checks once it answers, or the old one again.
        examine: asked before either is started.
    """

    model: str | None = None
    name: str | None = None
    context: int | None = None
    max_sequences: int | None = None
    image: str | None = None
    insists: bool = False
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None
    pull: bool = False
    timeout_seconds: float = 600.0
    proof: Proof = PROOF
    examine: Examine | None = None


def restart(
    settings: Settings,
    runtimes: Runtimes,
    listener: Listener,
    *,
    timeout_seconds: float = 600.0,
    proof: Proof = PROOF,
    examine: Examine | None = None,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Start the service again as it is, with the API key that is set now.

    Raises:
        ServiceError: there is none, or it did not come back.
        KitError: see :func:`kit.service.recall.recall` and :func:`kit.service.bring_up.bring_up`.
    """
    with exclusive(settings.state_dir, timeout_seconds, listener):
        service = _require_service(runtimes)
        proven = Proven(service.runtime.name, service.running.spec)
        intent = recall(
            proven,
            settings,
            environ,
            timeout_seconds=timeout_seconds,
            proof=proof,
            examine=examine,
        )
        return bring_up(intent, runtimes, listener, anew=True)


def upgrade(
    wishes: Wishes,
    settings: Settings,
    runtimes: Runtimes,
    listener: Listener,
    *,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Replace the service; where the new one fails its checks, roll back to the old one.

    Raises:
        UsageError: another image, or to pull it, of a service that is no container.
        KitError: what was wrong with the new one, and whether the old one is back.
    """
    with exclusive(settings.state_dir, wishes.timeout_seconds, listener):
        service = _require_service(runtimes)
        if service.runtime.images is None and (wishes.pull or (wishes.image and wishes.insists)):
            raise UsageError(
                f"the service is a local process ({service.running.where}), which has no image",
                hint="leave --image and --pull out; for a container: kit up --runtime container",
            )
        proven = Proven(service.runtime.name, service.running.spec)
        old = recall(proven, settings, environ, to_run=False)
        intent = decide(options_after(wishes, old), runtimes, listener, environ)
        if wishes.pull:
            intent = pull_image(intent, runtimes[intent.runtime].images, listener)
        return _replace(intent, settings, runtimes, listener, environ)


def rollback(
    settings: Settings,
    runtimes: Runtimes,
    listener: Listener,
    *,
    timeout_seconds: float = 600.0,
    proof: Proof = PROOF,
    examine: Examine | None = None,
    environ: Mapping[str, str] = os.environ,
) -> UpReport:
    """Go back to the service that passed its checks before the present one, or before the last one.

    Raises:
        ServiceError: there was none before.
        KitError: it did not come up again; whether the present one is back.
    """
    with exclusive(settings.state_dir, timeout_seconds, listener):
        found = current(runtimes)
        history = read_history(settings.state_dir)
        present = found.running.spec if found else history[0].spec if history else None
        target = before(settings.state_dir, present) if present else None
        if present is None or target is None:
            raise ServiceError(
                "there is no earlier service to go back to", hint="kit status shows what runs"
            )
        intent = recall(
            target,
            settings,
            environ,
            timeout_seconds=timeout_seconds,
            proof=proof,
            examine=examine,
        )
        changed = ", ".join(differences(present, intent.spec))
        listener.say(f"going back to {_what(intent)} ({changed or target.runtime})")
        return _replace(intent, settings, runtimes, listener, environ)


def options_after(wishes: Wishes, old: Intent) -> UpOptions:
    """The options of a `kit up` that changes ``old`` as wished, and nothing else."""
    spec, settings = old.spec, old.settings
    same_model = wishes.model is None
    model = (DEMO if model_at(spec.model_dir).demo else str(spec.model_dir)) if same_model else None
    # Its image, which decides the build of torch, may be gone.
    plans = [plan_of(spec, old.shape, build, old.ranks) for build in (CPU_BUILD, CUDA_BUILD)]
    by_plan = [default_ram_budget(plan.peak_bytes(Pool.HOST)) for plan in (old.plan, *plans)]
    asked = spec.max_ram_bytes not in by_plan
    kept_ram = spec.max_ram_bytes if asked else settings.max_ram_bytes
    return UpOptions(
        settings=replace(
            settings,
            host=spec.host,
            port=spec.port,
            max_ram_bytes=wishes.max_ram_bytes or kept_ram,
            max_vram_bytes=wishes.max_vram_bytes or spec.max_vram_bytes or settings.max_vram_bytes,
        ),
        model=wishes.model or model,
        name=wishes.name or (spec.name if same_model else None),
        context=wishes.context or (spec.context if same_model else None),
        max_sequences=wishes.max_sequences or (spec.max_sequences if same_model else None),
        device=spec.device,
        engine=spec.engine,
        runtime=old.runtime,
        image=wishes.image or _image_name(old),
        timeout_seconds=wishes.timeout_seconds,
        examine=wishes.examine,
        proof=wishes.proof,
    )


def _image_name(old: Intent) -> str | None:
    """The name that the user chose; None where the kit built the image itself."""
    image = old.spec.image
    return None if image is None or is_built_here(image.name) else image.name


def _replace(
    intent: Intent,
    settings: Settings,
    runtimes: Runtimes,
    listener: Listener,
    environ: Mapping[str, str],
) -> UpReport:
    """Bring ``intent`` up; where it fails after the old service was stopped, bring that back."""
    old = current(runtimes)
    fallback = before(settings.state_dir, intent.spec)
    if fallback is not None and (lost := _attempt(lambda: recall(fallback, settings, environ))):
        listener.say(f"warning: there will be no way back to {_named(fallback)}: {lost}")
    try:
        report = bring_up(intent, runtimes, listener)
        require(report.verdicts)
        return report
    except (KitError, KeyboardInterrupt) as error:
        if fallback is None or _still_runs(old, runtimes):
            raise
        listener.say(f"going back to {_named(fallback)}")
        earlier = partial(
            recall, fallback, settings, environ, proof=intent.proof, examine=intent.examine
        )
        back = _attempt(lambda: bring_up(earlier(), runtimes, listener))
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = "is back" if back is None else f"did not come back either ({back})"
        outcome = f"{_named(fallback)} {outcome}"
        raise type(error)(f"{error.message}; {outcome}", hint=error.hint) from error


def _attempt(action: Callable[[], object]) -> str | None:
    """What went wrong; None: nothing."""
    try:
        action()
    except KitError as error:
        return error.message
    return None


def _still_runs(old: Service | None, runtimes: Runtimes) -> bool:
    now = current(runtimes)
    if old is None or now is None:
        return False
    return now.running.alive and now.running.spec == old.running.spec


def _require_service(runtimes: Runtimes) -> Service:
    found = current(runtimes)
    if found is None:
        raise ServiceError("nothing runs", hint="start it: kit up")
    return found


def _what(intent: Intent) -> str:
    return _named(Proven(intent.runtime, intent.spec))


def _named(proven: Proven) -> str:
    image = proven.spec.image
    return f"{proven.spec.name} in {image.name if image else 'a local process'}"
