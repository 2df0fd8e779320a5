"""Making a directory whole or not at all: work beside it, under a lock, then take its name."""

import shutil
from pathlib import Path

from kit.checkpoint.journal import sync_directory
from kit.errors import UsageError


def work_directory(output: Path) -> Path:
    """Where ``output`` is made: a hidden directory beside it. What is left there can go on."""
    return output.with_name(f".{output.name}.partial")


def require_free(output: Path, what: str) -> None:
    """Raise UsageError if ``output`` is there and not ``what`` it should become."""
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError(
            f"{output} exists and is not {what}",
            hint="choose another output, or allow it to be replaced with --overwrite",
        )


def require_outside(sources: tuple[Path, ...], output: Path) -> None:
    """Raise UsageError if replacing ``output`` would remove what it is made of."""
    if any(source.resolve().is_relative_to(output.resolve()) for source in sources):
        raise UsageError(
            f"the checkpoint lies inside the output {output}", hint="choose another output"
        )


def publish(work: Path, output: Path) -> None:
    """Give the finished directory its name. What had that name before is removed afterwards."""
    replaced = output.with_name(f".{output.name}.replaced")
    remove(replaced)
    if output.exists():
        output.rename(replaced)
    work.chmod(0o755)
    sync_directory(work)
    work.rename(output)
    sync_directory(output.parent)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a directory or file, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
