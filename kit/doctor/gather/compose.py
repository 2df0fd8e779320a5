"""Docker Compose: the plugin of the docker command, or the program of old."""

import re
from collections.abc import Mapping

from kit.doctor.facts import Compose
from kit.doctor.gather.commands import ran
from kit.memory.unavailable import Unavailable

SECONDS = 4.0
COMMANDS = (("docker", "compose"), ("docker-compose",))
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def look(environ: Mapping[str, str]) -> Compose | Unavailable:
    """The first of both that is there."""
    for command in COMMANDS:
        done = ran([*command, "version", "--short"], SECONDS, environ)
        found = _NUMBERS.match(done.out) if done is not None and done.exit_code == 0 else None
        if found:
            return Compose(command, (int(found[1]), int(found[2]), int(found[3])))
    return Unavailable("neither `docker compose` nor `docker-compose` is installed")
