"""Services that have passed their checks here, newest first: what `kit rollback` goes back to."""

from dataclasses import dataclass, replace
from pathlib import Path

from kit.records import read_object
from kit.runtime.protocol import RuntimeName, ServeSpec
from kit.runtime.state import read_spec, spec_record, write_record

FILE_NAME = "history.json"
_VERSION = 1
# Each keeps a name for its image: a rollback goes one back, seldom two.
_MOST = 5


@dataclass(frozen=True)
class Proven:
    """A service that was ready, answered, and stayed within its budget."""

    runtime: RuntimeName
    spec: ServeSpec


def read_history(state_dir: Path) -> tuple[Proven, ...]:
    """The proven services. What this version does not understand is left out."""
    try:
        content = read_object(state_dir / FILE_NAME)
        entries = content["proven"] if content["version"] == _VERSION else []
        return tuple(Proven(entry["runtime"], read_spec(entry["spec"])) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def remember(state_dir: Path, proven: Proven) -> None:
    """Make ``proven`` the newest entry.

    Raises:
        EnvironmentNotReady: the state folder cannot be written.
    """
    known = read_history(state_dir)
    earlier = [entry for entry in known if _settings(entry.spec) != _settings(proven.spec)]
    entries = [
        {"runtime": entry.runtime, "spec": spec_record(entry.spec)}
        for entry in (proven, *earlier)[:_MOST]
    ]
    write_record(state_dir / FILE_NAME, {"version": _VERSION, "proven": entries})


def before(state_dir: Path, spec: ServeSpec) -> Proven | None:
    """The newest proven service of other settings than ``spec``; None: there is none."""
    known = read_history(state_dir)
    found = (entry for entry in known if _settings(entry.spec) != _settings(spec))
    return next(found, None)


def _settings(spec: ServeSpec) -> ServeSpec:
    """All but the kit's own version: an earlier one cannot be run from here."""
    return replace(spec, kit_version=None)
