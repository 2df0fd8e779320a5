"""Pin a commit of upstream in kit.lock, or in a lock of your own for a fork of it.

    .venv/bin/python scripts/lock_upstream.py CLONE COMMIT [--lock FILE] [--repository URL]

Every file of the commit is entered with its sha256: look at what you pin before you do it.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from kit.errors import KitError
from kit.lock import Lock, read_lock, write_lock
from kit.settings import bundled
from kit.upstream.git import pin


def main() -> int:
    """Read the commit and write the lock. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", help="a clone or the address of the repository")
    parser.add_argument("commit", help="the full name of the commit, 40 hexadecimal digits")
    parser.add_argument("--lock", type=Path, default=bundled("kit.lock"), help="the lock to write")
    parser.add_argument("--repository", help="where others get it; stays as it is by default")
    given = parser.parse_args()
    try:
        lock = read_lock(given.lock) if given.lock.exists() else Lock("", "", {})
        lock = replace(lock, repository=given.repository or lock.repository or given.clone)
        lock = pin(lock, given.clone, given.commit)
    except KitError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    write_lock(given.lock, lock)
    print(f"{given.lock}: {given.commit}, {len(lock.upstream_files)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
