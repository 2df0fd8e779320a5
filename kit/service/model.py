"""Which model to serve: resolve `--model demo|NAME|DIR` into a directory that can be served."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.commands import command
from kit.errors import EnvironmentNotReady, KitError
from kit.lock import read_lock
from kit.memory.shape import ModelShape, read_shape
from kit.records import read_object
from kit.runtime.listener import Listener
from kit.runtime.protocol import EngineName
from kit.service.missing_weights import WEIGHTS, WeightsMissing
from kit.settings import bundled

if TYPE_CHECKING:
    from kit.service.named import Fits
    from kit.weights.record import ConversionRecord

DEMO = "demo"
WEIGHTS_URL = "https://gitee.com/iflytekopensource/i-flytek-spark-13-b-model-gpu"
FETCH = f"kit weights fetch {WEIGHTS} --convert"
CONVERT = "kit weights convert PATH_TO/mp_rank_00_model_states.pt spark-13b"
SERVE = "kit up --model spark-13b"
_CONVERTED_DEMO = re.compile(rf"{DEMO}-[0-9a-f]{{12}}-bf16")
_GET = f"{FETCH}, or from a checkpoint: {CONVERT}"


@dataclass(frozen=True)
class Model:
    """A directory that can be served.

    Attributes:
        question: what to ask it first.
        ready: off, where the demo would still have to be converted into the directory.
    """

    name: str
    directory: Path
    demo: bool
    question: str
    ready: bool = True


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        model: ``demo``, a directory, a name of the catalogue, or None.
        engine: decides which format the directory has to be in.
        has_gpu: without a model, the demo is served only where there is no GPU.
        dry: the demo is not converted.
        catalogue: of the user's own, on top of the kit's.
        fits: chooses among the precisions that a model is here in.
    """

    model: str | None
    data_dir: Path
    has_gpu: bool
    engine: EngineName = "native"
    dry: bool = False
    catalogue: Path | None = None
    fits: "Fits" = lambda shape: True


def resolve(wish: Wish, listener: Listener) -> Model:
    """The model to serve. Where none was named: on a GPU the weights that are here, else the demo.

    A directory wins over a name of the catalogue; ``./demo`` is a directory, too.

    Raises:
        WeightsMissing: nothing was asked for on a machine with a GPU, and no weights are here.
        EnvironmentNotReady: there is no such directory, or the engine does not serve it, or the
            weights of that name are not here.
        IntegrityError: files of the demo are damaged.
        UsageError: the name is of something that the engine does not serve.
    """
    if wish.model == DEMO or (wish.model is None and not wish.has_gpu):
        return _demo(wish, listener)
    if wish.model is not None:
        directory = servable(wish.model, wish)
        require_servable(directory, wish.engine)
    else:
        directory = _fetched(wish)
        listener.say(f"serving the weights that are here: {directory}")
    return model_at(directory)


def servable(model: str, wish: Wish) -> Path:
    """The directory that is meant by ``model``: itself, or where the set of that name lies.

    Raises:
        EnvironmentNotReady: it is the name of weights that are not here.
        UsageError: it is the name of something that the engine does not serve.
    """
    directory = Path(model).expanduser().absolute()
    if directory.exists() or "/" in model:
        return directory
    from kit.service.named import find_set, require_here

    weights = find_set(model, wish.catalogue)
    if weights is None:
        return directory
    return require_here(weights, wish.data_dir, wish.engine, wish.fits)


def model_at(directory: Path) -> Model:
    """The model of a directory that has been resolved before."""
    if directory == bundled(DEMO) or _CONVERTED_DEMO.fullmatch(directory.name):
        return Model(DEMO, directory, True, "What is spark-kit?")
    return Model(directory.name, directory, False, "你好")


def shape_of(model: Model, engine: EngineName) -> ModelShape:
    """The shape that its memory is planned from.

    Raises:
        KitError: its files are missing or damaged.
    """
    if engine == "megatron":
        from kit.serve.megatron.folder import read_folder

        return read_folder(model.directory).shape(dtype_bytes=2)
    return read_shape(model.directory) if model.ready else _demo_shape()


def gpus_of(model: Model, engine: EngineName) -> int:
    """How many GPUs it is cut over: upstream's code takes one for each shard."""
    if engine == "native":
        return 1
    from kit.serve.megatron.folder import read_folder

    return len(read_folder(model.directory).shards)


def _fetched(wish: Wish) -> Path:
    """Where `kit weights fetch` has put the weights, or `--convert` their conversion."""
    from kit.service.named import find_here

    found = find_here(WEIGHTS, wish.data_dir, wish.engine, wish.fits)
    if found is None:
        raise WeightsMissing.of(convert=wish.engine == "native")
    return found


def require_servable(directory: Path, engine: EngineName) -> None:
    """Return when the directory looks like what the engine serves.

    Raises:
        EnvironmentNotReady: it does not, or may not be read.
        IntegrityError: files of upstream's checkpoint are damaged.
    """
    if directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK):
        raise EnvironmentNotReady(
            f"{directory} cannot be read by user {os.getuid()}",
            hint="let everyone read it (chmod -R a+rX), or run as its owner (docker run --user)",
        )
    if engine == "megatron":
        from kit.serve.megatron.folder import read_folder

        read_folder(directory)
    else:
        _require_converted(directory)


def _require_converted(directory: Path) -> None:
    if not directory.exists():
        raise EnvironmentNotReady(
            f"there is no {directory}",
            hint="name a converted directory, or weights that kit weights list shows; "
            f"to get one: {_GET}",
        )
    if not directory.is_dir():
        raise EnvironmentNotReady(
            f"{directory} is a file, not a converted directory",
            hint=f"convert it first: {command('kit weights convert', directory, 'DIRECTORY')}",
        )
    if (directory / "config.json").is_file() and any(directory.glob("*.safetensors")):
        return
    shards = sorted(directory.rglob("mp_rank_*.pt"))
    if shards:
        raise EnvironmentNotReady(
            f"{directory} holds upstream's checkpoint, which --engine megatron serves as it is",
            hint=f"convert it first: {command('kit weights convert', shards[0], 'DIRECTORY')}",
        )
    raise EnvironmentNotReady(
        f"{directory} holds no converted model (config.json and *.safetensors)",
        hint=f"to make one: {_GET}",
    )


def _demo(wish: Wish, listener: Listener) -> Model:
    """The demo as its engine reads it: as it comes, or converted at the first call."""
    from kit.weights.convert import convert_checkpoint
    from kit.weights.locate import CHECKPOINT_NAME
    from kit.weights.lock import verify_files
    from kit.weights.record import RECORD_NAME, sound_record

    locked = read_lock(bundled("kit.lock")).weights[DEMO]
    verify_files(bundled(DEMO), locked)
    if wish.engine == "megatron":
        return model_at(bundled(DEMO))
    checkpoint = next(name for name in locked if name.endswith(CHECKPOINT_NAME))
    output = wish.data_dir / f"{DEMO}-{locked[checkpoint].sha256[:12]}-bf16"
    record = sound_record(output)
    if wish.dry:
        return replace(model_at(output), ready=record is not None)
    if record and not _sound(output, record):
        listener.say("the converted demo is damaged; converting it again")
        (output / RECORD_NAME).unlink()  # what has no record is replaced
    convert_checkpoint(
        bundled(DEMO) / checkpoint,
        output,
        overwrite=True,
        progress=lambda done, total: listener.progress("converting the demo", done / total),
    )
    return model_at(output)


def _demo_shape() -> ModelShape:
    """The demo's, not converted yet: its 16-bit weights take half of its checkpoint's tensors."""
    config = read_object(bundled(DEMO) / "config.json")
    checkpoint = next(bundled(DEMO).rglob("mp_rank_*.pt"))
    return ModelShape(
        layers=config["num_layers"],
        hidden=config["hidden_size"],
        intermediate=config["ffn_hidden_size"],
        vocabulary=config["vocab_size"],
        max_context=config["max_position_embeddings"],
        window=config["localsize"],
        dtype_bytes=2,
        weights_bytes=checkpoint.stat().st_size // 2,
    )


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
