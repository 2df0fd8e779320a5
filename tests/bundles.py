"""What the tests of bundles share: the files of a set, and a look into folders."""

import os
from pathlib import Path

FILES = {"w.pt": os.urandom(3_000_000), "Tokenizer/t.model": b"tokenizer"}


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
