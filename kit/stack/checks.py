"""Before anything is started: the hard checks, each of which would make the start fail later."""

from kit.memory.plan import Pool
from kit.memory.unavailable import Unavailable
from kit.stack.intent import Intent
from kit.stack.listener import Listener
from kit.stack.port import require_free
from kit.stack.preflight import NOTHING, held_by, require_room, rooms
from kit.stack.runtime import Running
from kit.units import format_gib

_OF_THIS_PROCESS = ("cgroup", "address space")
"""Limits that the kit's own process has, and a container has not."""


def require_start(intent: Intent, old: Running | None, listener: Listener) -> None:
    """Return when nothing stands in the way of ``intent``, once ``old`` has made room for it.

    Raises:
        EnvironmentNotReady: memory or the port.
        UsageError: the address is not this machine's.
    """
    plan, spec = intent.plan, intent.spec
    need = f"{format_gib(plan.peak_bytes(Pool.HOST))} host RAM"
    if spec.device == "cuda":
        need += f", {format_gib(plan.peak_bytes(Pool.DEVICE))} VRAM"
    listener.say(f"plan: {need} (context {spec.context}, {spec.max_sequences} at once)")
    leaving = old if old is not None and old.alive else None
    if intent.preflight:
        pid = leaving.pid if leaving else Unavailable("nothing leaves")
        freed = NOTHING if isinstance(pid, Unavailable) else held_by(pid)
        found = rooms(plan, intent.build, intent.gpu, freed)
        if intent.runtime == "container":
            found = tuple(room for room in found if room.limit not in _OF_THIS_PROCESS)
        for warning in require_room(found):
            listener.say(f"warning: {warning}")
    own_port = leaving is not None and leaving.spec.port == spec.port
    require_free(spec.host, 0 if own_port else spec.port)  # 0: is it an address of this machine?
