"""Records of the state folder: JSON files, replaced in one step, readable by their owner alone."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kit.files import writing
from kit.runtime.protocol import ImageRef, ServeSpec


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace the file at ``path``.

    Raises:
        EnvironmentNotReady: it cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="ascii")
        temporary.replace(path)


def spec_record(spec: ServeSpec) -> dict[str, Any]:
    """A spec as JSON can hold it; its path means the same bytes under every locale."""
    path = os.fsencode(spec.model_dir).decode("utf-8", "surrogateescape")
    return asdict(spec) | {"model_dir": path}


def read_spec(record: dict[str, Any]) -> ServeSpec:
    """The spec of such a record.

    Raises:
        KeyError, TypeError, AttributeError: it is none, or one of another version of the kit.
    """
    path = Path(os.fsdecode(record["model_dir"].encode("utf-8", "surrogateescape")))
    image = ImageRef(**record["image"]) if record.get("image") else None
    return ServeSpec(**(record | {"model_dir": path, "image": image}))
