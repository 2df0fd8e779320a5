"""Before anything is started: the doctor's hard checks, and the port."""

import os
from collections.abc import Mapping

from kit.errors import EnvironmentNotReady
from kit.memory.plan import Pool
from kit.memory.unavailable import Unavailable
from kit.runtime.listener import Listener
from kit.runtime.port import require_free
from kit.runtime.protocol import Running
from kit.service.history import Proven, read_history
from kit.service.intent import Intent
from kit.service.preflight import NOTHING, held_by
from kit.units import format_gib


def require_start(
    intent: Intent,
    old: Running | None,
    listener: Listener,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Return when nothing stands in the way of ``intent``, once ``old`` has made room for it.

    Raises:
        EnvironmentNotReady: the plan passes the budget, a check of the doctor failed, or the port
            is taken.
        UsageError: the address is not this machine's.
    """
    plan, spec = intent.plan, intent.spec
    need = f"{format_gib(plan.peak_bytes(Pool.HOST))} host RAM"
    if spec.device == "cuda":
        need += f", {format_gib(plan.peak_bytes(Pool.DEVICE))} VRAM"
    listener.say(f"plan: {need} (context {spec.context}, {spec.max_sequences} at once)")
    leaving = old if old is not None and old.alive else None
    if intent.preflight:
        if leaving is not None:
            _require_within_budget(intent)
        listener.progress("checking the machine", None)
        for warning in _ask_doctor(intent, leaving, environ):
            listener.say(f"warning: {warning}")
    own_port = leaving is not None and leaving.spec.port == spec.port
    require_free(spec.host, 0 if own_port else spec.port)  # 0: is it an address of this machine?


def _require_within_budget(intent: Intent) -> None:
    """Refuse to end a service for one that by its plan passes its budget, unless it once did not.

    Where nothing would end, it may try: the measured peak is what counts.
    """
    plan, budget = intent.plan, intent.spec.budget
    if Proven(intent.runtime, intent.spec) in read_history(intent.settings.state_dir):
        return
    for what, flag, pool, allowed in (
        ("host RAM", "--max-ram", Pool.HOST, budget.max_ram_bytes),
        ("VRAM", "--max-vram", Pool.DEVICE, budget.max_vram_bytes),
    ):
        planned = plan.peak_bytes(pool)
        if allowed is not None and planned > allowed:
            raise EnvironmentNotReady(
                f"the plan is {format_gib(planned)} {what}, over the budget of "
                f"{format_gib(allowed)}",
                hint=f"allow more with {flag}, or ask for less (--context, --max-sequences); "
                "kit memory plan shows every line",
            )


def _ask_doctor(
    intent: Intent, leaving: Running | None, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """The doctor's warnings; what is sure to fail is raised."""
    from kit.doctor import preflight
    from kit.doctor.request import Decided, Request

    pid = leaving.pid if leaving else Unavailable("nothing leaves")
    freed = NOTHING if isinstance(pid, Unavailable) else held_by(pid)
    decided = Decided(
        intent.spec.name, intent.plan, intent.build, intent.gpus, intent.runtime, freed
    )
    image = {"KIT_IMAGE": intent.image.name} if intent.image else {}
    request = Request(intent.settings, {**environ, **image}, decided=decided)
    ids = preflight.CONTAINER if intent.runtime == "container" else preflight.LOCAL
    return preflight.require(ids, request)
