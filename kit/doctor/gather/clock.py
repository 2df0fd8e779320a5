"""This machine's clock, and a moment that it must be past."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import kit
from kit.doctor.facts import Clock, Facts
from kit.doctor.request import Request
from kit.weights.layers import read_layers


def look(request: Request, facts: Facts) -> Clock:
    """Now, and the latest moment that is known to have passed."""
    when, because = max(_moments(request))
    return Clock(datetime.now(UTC), when, because)


def _moments(request: Request) -> Iterator[tuple[datetime, str]]:
    written = Path(kit.__file__).stat().st_mtime
    yield datetime.fromtimestamp(written, UTC), "the kit's files were written here then"
    for name, files in read_layers(request.settings.data_dir).weights.items():
        for locked in files.values():
            if locked.date:
                day = datetime.fromisoformat(locked.date).replace(tzinfo=UTC)
                yield day, f"the lock has {name} since then"
