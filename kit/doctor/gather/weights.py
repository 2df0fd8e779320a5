"""The data folder: locks, what was fetched and converted; upstream's trees."""

from collections.abc import Iterator

from kit.doctor.facts import Facts, UpstreamTree, WeightsFolder
from kit.doctor.request import Request
from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from kit.lock import read_lock
from kit.service.model import DEMO
from kit.settings import bundled
from kit.upstream.tree import require_rewritten, rewritten_dir
from kit.weights.catalogue import read_catalogue
from kit.weights.convert.support_files import has_old_code
from kit.weights.layers import read_layers, verify_files
from kit.weights.listing import SetState, list_sets, read_records


def look(request: Request, facts: Facts) -> WeightsFolder:
    """Sizes and records only: of the files, none but the demo's is read."""
    data_dir = request.settings.data_dir
    try:
        lock = read_layers(data_dir)
    except KitError as error:
        return WeightsFolder(lock_problem=error.message)
    try:
        catalogue = read_catalogue(request.settings.weights_catalogue)
    except KitError as error:
        return WeightsFolder(catalogue_problem=error.message, demo_problem=_demo_problem())
    records = read_records(data_dir)
    whole = {
        path: record
        for path, record in records.items()
        if not isinstance(record, KitError) and record.is_intact(path)
    }
    return WeightsFolder(
        unfinished=tuple(_unfinished(list_sets(catalogue, lock, data_dir))),
        damaged=tuple(path for path in records if path not in whole),
        converted=tuple(whole),
        old_code=tuple(path for path, record in whole.items() if has_old_code(record)),
        demo_problem=_demo_problem(),
    )


def _unfinished(sets: tuple[SetState, ...]) -> Iterator[tuple[str, int, int | None]]:
    for found in sets:
        if found.here_bytes and not found.complete:
            yield found.name, found.here_bytes, found.size_bytes


def _demo_problem() -> str | None:
    try:
        verify_files(bundled(DEMO), read_lock(bundled("kit.lock")).weights[DEMO])
    except KitError as error:
        return error.message
    return None


def look_at_upstream(request: Request, facts: Facts) -> UpstreamTree:
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
