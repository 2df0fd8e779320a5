"""``conversion.json``: what a converted directory was made of, kept inside it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kit.checkpoint.source import SourceFile, unreadable
from kit.commands import command
from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from kit.files import inner_path, write_durably
from kit.records import MAX_BYTES, MAX_FILE_BYTES, NotAFileError, parse_object, read_plain
from kit.weights.digest import has_digest

RECORD_NAME = "conversion.json"
Precision = Literal["bf16", "fp32", "int8", "int4"]


@dataclass(frozen=True)
class Source:
    """A file that was converted; see ``SourceFile`` for ``fingerprint``.

    Attributes:
        digest: of the whole content: ``sha256:…`` if that was known, else ``blake3:…``.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    digest: str

    @staticmethod
    def of(file: SourceFile, digest: str) -> "Source":
        """The record of a file whose whole content has this digest."""
        return Source(file.path.name, file.size_bytes, file.mtime_ns, file.fingerprint, digest)

    def matches(self, file: SourceFile) -> bool:
        """Whether ``file`` has the same content. Hashes it only if its mtime differs."""
        if (self.size_bytes, self.fingerprint) != (file.size_bytes, file.fingerprint):
            return False
        return self.mtime_ns == file.mtime_ns or has_digest(file.path, self.digest)


def match_all(sources: Sequence[Source], files: Sequence[SourceFile]) -> bool:
    """Whether ``files`` have the content of ``sources``, one by one."""
    pairs = zip(sources, files, strict=False)
    return len(sources) == len(files) and all(source.matches(file) for source, file in pairs)


@dataclass(frozen=True)
class MergedLora:
    """An adapter that was merged into the weights: its files, rank and alpha."""

    sources: tuple[Source, ...]
    rank: int
    alpha: float


@dataclass(frozen=True)
class ConversionRecord:
    """One finished conversion.

    Attributes:
        kit_version: of the kit that converted.
        sources: the checkpoint's files, in the order of their ranks.
        lora: the adapter that was merged, if one was.
        precision: of the converted tensors.
        tensors: BLAKE3 of every converted tensor's bytes, by name.
        files: size in bytes of the safetensors files and their index, by name.
        support: sha256 of the configuration, tokenizer and code files as written, by name.
        nonfinite: infinite or NaN elements of the converted tensors that have any; none in sound
            weights.
        edited: sha256 of those support files that the user changed and had accepted, by name.
    """

    kit_version: str
    sources: tuple[Source, ...]
    lora: MergedLora | None
    precision: Precision
    tensors: dict[str, str]
    files: dict[str, int]
    support: dict[str, str]
    nonfinite: dict[str, int]
    edited: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Every file that belongs to the directory, the record itself among them."""
        return {*self.files, *self.support, RECORD_NAME}

    def is_intact(self, directory: Path) -> bool:
        """Whether all files are there, the safetensors files in full length."""
        sizes_right = all(
            (directory / name).is_file() and (directory / name).stat().st_size == size_bytes
            for name, size_bytes in self.files.items()
        )
        return sizes_right and all((directory / name).is_file() for name in self.support)


def read_record(directory: Path) -> ConversionRecord | None:
    """The record of a converted directory; None where there is none.

    Raises:
        EnvironmentNotReady: there is one, but it cannot be read.
        IntegrityError: it is damaged: what the weights were cannot be told any more.
    """
    path = directory / RECORD_NAME
    try:
        return _parse(read_plain(path, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotAFileError as error:
        raise unreadable(path, error) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"{path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IntegrityError) as error:
        raise IntegrityError(
            f"{path} is damaged",
            hint=f"get {directory} again from where it is intact, or make it again: "
            + command("kit weights convert CHECKPOINT", directory, "--overwrite"),
        ) from error


def sound_record(directory: Path) -> ConversionRecord | None:
    """The record; None, too, where it is damaged: for those who would make the directory anew."""
    try:
        return read_record(directory)
    except KitError:
        return None


def write_record(directory: Path, record: ConversionRecord) -> None:
    """Write the record, durably, in a byte-stable form."""
    text = json.dumps(asdict(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_durably(directory / RECORD_NAME, text.encode())


def _parse(text: bytes) -> ConversionRecord:
    content = parse_object(text)
    lora = content["lora"]
    if lora is not None:
        lora = MergedLora(**lora | {"sources": _sources(lora)})
    content.setdefault("edited", {})  # of a kit that knew of none
    kinds = {"tensors": str, "files": int, "support": str, "nonfinite": int, "edited": str}
    if content["precision"] not in get_args(Precision) or not all(
        isinstance(value, kind) for key, kind in kinds.items() for value in content[key].values()
    ):
        raise ValueError("a precision, sizes and digests are expected")
    for name in (*content["files"], *content["support"], *content["edited"]):
        if "/" in inner_path(name):
            raise ValueError("names of files in the directory are expected")
    if not all(0 <= size_bytes <= MAX_FILE_BYTES for size_bytes in content["files"].values()):
        raise ValueError("sizes are expected")
    return ConversionRecord(**content | {"sources": _sources(content), "lora": lora})


def _sources(content: dict[str, Any]) -> tuple[Source, ...]:
    return tuple(Source(**source) for source in content["sources"])
