"""The service, and the port that it would listen on."""

from kit.doctor.facts import Facts, ServiceState
from kit.doctor.request import Request
from kit.errors import KitError
from kit.runtime.client import Ready
from kit.runtime.port import require_free
from kit.service.status import Status, status


def look(request: Request, facts: Facts) -> ServiceState:
    """What `kit status` says, and whether the port is free for `kit up`."""
    host, port = request.settings.host, request.settings.port
    found = [status(runtime, port) for runtime in request.runtimes.values()]
    shown = next((one for one in found if one.state != "stopped"), next(iter(found), None))
    problem = remedy = None
    if not _holds(shown, port):
        try:
            require_free(host, port)
        except KitError as error:
            problem, remedy = error.message, error.hint
    return ServiceState(
        host=host,
        port=port,
        state=shown.state if shown else "stopped",
        detail=shown.detail if shown else "not running",
        device=shown.health.device if shown and isinstance(shown.health, Ready) else None,
        port_problem=problem,
        port_remedy=remedy,
    )


def _holds(found: Status | None, port: int) -> bool:
    """Whether the kit's own service listens on ``port``."""
    running = found.running if found else None
    return running is not None and running.alive and running.spec.port == port
