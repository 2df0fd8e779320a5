"""Upstream's trees, which the megatron engine runs."""

from kit.doctor.facts import Facts, UpstreamTree
from kit.doctor.request import Request
from kit.errors import EnvironmentNotReady, IntegrityError
from kit.upstream.tree import require_rewritten, rewritten_dir


def look(request: Request, facts: Facts) -> UpstreamTree:
    """The rewritten tree, every file of it checked against kit.lock and this kit's rewrites."""
    path = rewritten_dir(request.settings)
    if not path.is_dir():
        return UpstreamTree(path, "absent")
    try:
        return UpstreamTree(require_rewritten(request.settings), "rewritten")
    except EnvironmentNotReady as error:
        return UpstreamTree(path, "outdated", error.message, error.hint)
    except IntegrityError as error:
        return UpstreamTree(path, "drifted", error.message, error.hint)
