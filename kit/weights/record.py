"""``conversion.json``: what a converted directory was made of, kept inside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.journal import write_durably
from kit.checkpoint.torchfile import CheckpointFile
from kit.weights.digest import sha256_file

RECORD_NAME = "conversion.json"
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Source:
    """The checkpoint file that was converted; see ``CheckpointFile`` for ``fingerprint``."""

    name: str
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    sha256: str

    def is_of(self, checkpoint: CheckpointFile) -> bool:
        """Whether ``checkpoint`` has the same content. Hashes it only if its mtime differs."""
        known = (self.size_bytes, self.fingerprint)
        if known != (checkpoint.size_bytes, checkpoint.fingerprint):
            return False
        return self.mtime_ns == checkpoint.mtime_ns or self.sha256 == sha256_file(checkpoint.path)


@dataclass(frozen=True)
class ConversionRecord:
    """One finished conversion.

    Attributes:
        kit_version: of the kit that converted.
        source: the checkpoint file.
        precision: of the converted tensors.
        tensors: sha256 of every converted tensor's bytes, by name.
        files: size in bytes of the safetensors files and their index, by name.
        support: sha256 of the configuration, tokenizer and code files as written, by name.
        nonfinite_count: infinite or NaN elements among the converted tensors; 0 in sound weights.
    """

    kit_version: str
    source: Source
    precision: Precision
    tensors: dict[str, str]
    files: dict[str, int]
    support: dict[str, str]
    nonfinite_count: int

    def is_intact(self, directory: Path) -> bool:
        """Whether all files are there, the safetensors files in full length."""
        sizes_right = all(
            (directory / name).is_file() and (directory / name).stat().st_size == size_bytes
            for name, size_bytes in self.files.items()
        )
        return sizes_right and all((directory / name).is_file() for name in self.support)


def read_record(directory: Path) -> ConversionRecord | None:
    """The record of a converted directory; None where there is none that can be understood."""
    try:
        content: dict[str, Any] = json.loads((directory / RECORD_NAME).read_bytes())
        return ConversionRecord(**content | {"source": Source(**content["source"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(directory: Path, record: ConversionRecord) -> None:
    """Write the record, durably, in a byte-stable form."""
    text = json.dumps(asdict(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / RECORD_NAME, text.encode())
