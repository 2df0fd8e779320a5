"""Which model to serve: resolve `--model demo|DIR` into a converted directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import EnvironmentNotReady, KitError
from kit.settings import bundled
from kit.stack.listener import Listener

if TYPE_CHECKING:
    from kit.weights.record import ConversionRecord

DEMO = "demo"
WEIGHTS_URL = "https://gitee.com/iflytekopensource/i-flytek-spark-13-b-model-gpu"
FETCH = "kit weights fetch spark-13b-chat --convert"
CONVERT = "kit weights convert PATH_TO/mp_rank_00_model_states.pt spark-13b"
SERVE = "kit up --model spark-13b"
_GET = f"{FETCH}, or from a checkpoint: {CONVERT}"


@dataclass(frozen=True)
class Model:
    """A directory that can be served.

    Attributes:
        question: what to ask it first.
    """

    name: str
    directory: Path
    demo: bool
    question: str


def resolve(wanted: str | None, data_dir: Path, has_gpu: bool, listener: Listener) -> Model:
    """The model to serve; without ``wanted`` the demo, but only where there is no GPU.

    Raises:
        EnvironmentNotReady: there is no such directory, it is not converted, or nothing was asked
            for on a machine with a GPU.
        IntegrityError: files of the demo are damaged.
    """
    if wanted is None and has_gpu:
        raise EnvironmentNotReady(
            "this machine has a GPU, and no model was named",
            hint=f"fetch the weights: {FETCH} (or by hand from {WEIGHTS_URL}, then: {CONVERT} "
            f"&& {SERVE}); or try the tiny demo: kit up --model demo",
        )
    if wanted is None or wanted == DEMO:
        return Model(DEMO, _demo(data_dir, listener), True, "What is spark-kit?")
    directory = Path(wanted).expanduser().absolute()
    _require_converted(directory)
    return Model(directory.name, directory, False, "你好")


def _require_converted(directory: Path) -> None:
    if not directory.exists():
        raise EnvironmentNotReady(
            f"there is no {directory}",
            hint=f"name a converted directory, or demo; to get one: {_GET}",
        )
    if not directory.is_dir():
        raise EnvironmentNotReady(
            f"{directory} is a file, not a converted directory",
            hint=f"convert it first: kit weights convert {directory} DIRECTORY",
        )
    if (directory / "config.json").is_file() and any(directory.glob("*.safetensors")):
        return
    shards = sorted(directory.rglob("mp_rank_*.pt"))
    if shards:
        raise EnvironmentNotReady(
            f"{directory} holds upstream's checkpoint, which is not served as it is",
            hint=f"convert it first: kit weights convert {shards[0]} DIRECTORY",
        )
    raise EnvironmentNotReady(
        f"{directory} holds no converted model (config.json and *.safetensors)",
        hint=f"to make one: {_GET}",
    )


def _demo(data_dir: Path, listener: Listener) -> Path:
    """The converted demo: made from the bundled checkpoint at the first call, then found again."""
    from kit.lock import read_lock
    from kit.weights.convert import convert_checkpoint
    from kit.weights.locate import CHECKPOINT_NAME
    from kit.weights.lock import verify_files
    from kit.weights.record import RECORD_NAME, read_record

    locked = read_lock(bundled("kit.lock")).weights[DEMO]
    verify_files(bundled(DEMO), locked)
    checkpoint = next(name for name in locked if name.endswith(CHECKPOINT_NAME))
    output = data_dir / f"{DEMO}-{locked[checkpoint].sha256[:12]}-bf16"
    if (record := read_record(output)) and not _sound(output, record):
        listener.say("the converted demo is damaged; converting it again")
        (output / RECORD_NAME).unlink()  # what has no record is replaced
    convert_checkpoint(
        bundled(DEMO) / checkpoint,
        output,
        overwrite=True,
        progress=lambda done, total: listener.progress("converting the demo", done / total),
    )
    return output


def _sound(directory: Path, record: "ConversionRecord") -> bool:
    """Whether every byte that is read from a (small) converted directory is as it was written."""
    from kit.checkpoint.safetensors_index import index_directory
    from kit.weights.verify import verify_conversion

    results = verify_conversion(directory, record, lambda done, total: None)
    try:
        index_directory(directory)  # the headers, of which the record keeps no digest
    except KitError:
        return False
    return all(result.problem is None for result in results)
