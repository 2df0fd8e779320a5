"""Renewing what a converted directory holds beside its tensors: code of an older kit, above all."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import kit
from kit.errors import EnvironmentNotReady, UsageError
from kit.files import exclusive, write_durably
from kit.records import read_object
from kit.weights.digest import sha256_file
from kit.weights.export import CODE_FILES, SPARK_SOURCE, TRANSFORMERS_VERSION, json_text
from kit.weights.record import RECORD_NAME, ConversionRecord, read_record, write_record

_TEMPLATE = "chat_template.jinja"
_CONFIGS = ("config.json", "generation_config.json")


def has_old_code(record: ConversionRecord) -> bool:
    """Whether a directory's code is not this kit's: an older one can give wrong text."""
    return any(record.support.get(name) != sha256_file(SPARK_SOURCE / name) for name in CODE_FILES)


def refresh(directory: Path, accept: Iterable[str] = ()) -> tuple[str, ...]:
    """Give a converted directory this kit's code; the tensors stay. Returns the files renewed.

    The chat template, and the version of transformers that the configurations name, are renewed,
    too, unless the file was changed by hand.

    Args:
        directory: that ``kit weights convert`` made, with whatever kit.
        accept: files that were changed by hand and are to count as they are now.

    Raises:
        EnvironmentNotReady: it has no conversion's record, or cannot be written.
        UsageError: ``accept`` names something else than a file of configuration.
        IntegrityError: its record is damaged.
    """
    record = read_record(directory)
    if record is None:
        raise EnvironmentNotReady(
            f"{directory} has no {RECORD_NAME}: it was not made by kit weights convert",
            hint="kit weights list shows the directories that were",
        )
    edited = record.edited | {name: _accepted(directory, name, record) for name in accept}
    with exclusive(directory, "writing"):
        try:
            fresh = dict(_fresh(directory, replace(record, edited=edited)))
            for name, content in fresh.items():
                write_durably(directory / name, content)
            obsolete = [n for n in record.support if n.endswith(".py") and n not in CODE_FILES]
            for name in obsolete:
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentNotReady(
                f"cannot write to {directory}: {error.strerror}", hint="check its permissions"
            ) from error
        support = {n: digest for n, digest in record.support.items() if n not in obsolete}
        support |= {name: sha256_file(SPARK_SOURCE / name) for name in CODE_FILES}
        support |= {name: sha256(content).hexdigest() for name, content in fresh.items()}
        renewed = replace(record, kit_version=kit.__version__, support=support, edited=edited)
        write_record(directory, renewed)
    return tuple(sorted(fresh))


def _accepted(directory: Path, name: str, record: ConversionRecord) -> str:
    if name not in record.support or name in CODE_FILES:
        names = ", ".join(sorted(set(record.support) - set(CODE_FILES)))
        raise UsageError(f"{name} is no file of configuration", hint=f"one of {names}")
    path = directory / name
    if not path.is_file():
        raise EnvironmentNotReady(f"{path} is missing", hint="put it back, or convert again")
    return sha256_file(path)


def _fresh(directory: Path, record: ConversionRecord) -> Iterable[tuple[str, bytes]]:
    """The files that differ from what this kit would write, with their new content."""
    for name in (*CODE_FILES, _TEMPLATE):
        content = (SPARK_SOURCE / name).read_bytes()
        if name == _TEMPLATE and not _untouched(directory, name, record):
            continue
        path = directory / name
        if not path.is_file() or path.read_bytes() != content:
            yield name, content
    for name in _CONFIGS:
        if _untouched(directory, name, record):
            config = read_object(directory / name)
            if config.get("transformers_version") != TRANSFORMERS_VERSION:
                yield name, _renamed(config).encode()


def _untouched(directory: Path, name: str, record: ConversionRecord) -> bool:
    path = directory / name
    return (
        name not in record.edited
        and path.is_file()
        and sha256_file(path) == record.support.get(name)
    )


def _renamed(config: Mapping[str, object]) -> str:
    return json_text({**config, "transformers_version": TRANSFORMERS_VERSION})
