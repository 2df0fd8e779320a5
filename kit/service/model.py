"""Which model to serve: resolve `--model demo|NAME|DIR` into a directory that can be served."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.commands import command
from kit.errors import EnvironmentNotReady, KitError, UsageError
from kit.lock import read_lock
from kit.memory.plan.fit import PRECISIONS, serving_limits
from kit.memory.plan.line import Device, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape, Precision, read_shape
from kit.memory.plan.torch_build import TorchBuild, installed_build
from kit.memory.probes import cgroup, proc
from kit.memory.probes.nvml import Gpu
from kit.memory.unavailable import Unavailable
from kit.records import read_object
from kit.runtime.protocol import EngineName, Listener
from kit.service.missing_weights import WEIGHTS, WeightsMissing
from kit.settings import bundled
from kit.weights.catalogue import WeightSet, read_catalogue
from kit.weights.convert.record import read_record
from kit.weights.folder import checkpoint_dir, converted_dir

if TYPE_CHECKING:
    from kit.weights.convert.record import ConversionRecord


Fits = Callable[[ModelShape], bool]
"""Whether a model of that shape can be served on this machine."""

_SERVED: tuple[Precision, ...] = (*PRECISIONS, "fp32")
"""The best one first; fp32 only where there is nothing else."""
_SHARDS = "mp_rank_*.pt"


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
    from kit.weights.convert.convert import convert_checkpoint
    from kit.weights.convert.locate import CHECKPOINT_NAME
    from kit.weights.convert.record import RECORD_NAME, sound_record
    from kit.weights.convert.support_files import has_old_code
    from kit.weights.layers import verify_files

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
    elif record and not has_old_code(record):
        return model_at(output)
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
    from kit.checkpoint.shards import index_directory
    from kit.weights.convert.verify import verify_conversion

    results = verify_conversion(directory, record, lambda done, total: None)
    try:
        index_directory(directory)  # the headers, of which the record keeps no digest
    except KitError:
        return False
    return all(result.problem is None for result in results)


def find_set(name: str, catalogue: Path | None) -> WeightSet | None:
    """The set of that name in the catalogue; None: there is none.

    Raises:
        UsageError: the user's own catalogue cannot be read.
    """
    return read_catalogue(catalogue).weights.get(name)


def find_here(name: str, data_dir: Path, engine: EngineName, fits: Fits) -> Path | None:
    """The directory of set ``name`` that the engine serves; None: there is none.

    Of several precisions it is the first of bf16, int8 and int4 that fits; where none does, the
    smallest, so that the preflight says what is missing.
    """
    if engine == "megatron":
        directory = checkpoint_dir(data_dir, name)
        return directory if any(directory.glob(_SHARDS)) else None
    places = [converted_dir(data_dir, name, precision) for precision in _SERVED]
    found = [place for place in places if read_record(place) is not None]
    if len(found) < 2:
        return found[0] if found else None
    shapes = {place: read_shape(place) for place in found}
    fitting = (place for place in found if fits(shapes[place]))
    return next(fitting, min(found, key=lambda place: shapes[place].weights_bytes))


def require_here(weights: WeightSet, data_dir: Path, engine: EngineName, fits: Fits) -> Path:
    """The same, of a set that was asked for.

    Raises:
        UsageError: it is nothing that the engine could serve.
        EnvironmentNotReady: it was not fetched or not converted; the hint has the command.
    """
    name, checkpoint = weights.name, weights.checkpoint
    if checkpoint is None:
        raise UsageError(f"{name} holds no model", hint="kit weights list shows what does")
    if engine == "megatron" and not Path(checkpoint).match(_SHARDS):
        raise UsageError(
            f"the megatron engine serves upstream's own checkpoints, which {name} is not",
            hint="serve its conversion with --engine native",
        )
    directory = find_here(name, data_dir, engine, fits)
    if directory is not None:
        return directory
    here = all((checkpoint_dir(data_dir, name) / file).is_file() for file in weights.files)
    command = f"kit weights fetch {name}" + (" --convert" if engine == "native" else "")
    raise EnvironmentNotReady(
        f"{name} is here, but not converted" if here else f"{name} is not here ({data_dir})",
        hint=f"get it: {command}",
    )


def fitting(
    device: Device,
    gpus: Sequence[Gpu],
    max_vram_bytes: int | None = None,
    context: int | None = None,
    max_sequences: int | None = None,
) -> Fits:
    """Whether the plan fits into the memory that the first GPU, or else this machine, has in all.

    Not into what is free now: that the same command finds the same model while that is served.
    """

    def fits(shape: ModelShape) -> bool:
        build = installed_build()
        known = _ram_bytes(build) if device == "cpu" else [gpus[0].total_bytes, max_vram_bytes]
        length, sequences = serving_limits(shape, context, max_sequences)
        plan = plan_serving(
            shape, context=length, max_sequences=sequences, device=device, build=build
        )
        need = plan.peak_bytes(Pool.HOST if device == "cpu" else Pool.DEVICE)
        return all(need <= size for size in known if isinstance(size, int))

    return fits


def _ram_bytes(build: TorchBuild) -> list[int | Unavailable | None]:
    """The machine's, and what the kernel holds a process to; None: no limit."""
    group = cgroup.memory_limit()
    limit = None if group is None or isinstance(group, Unavailable) else group.limit_bytes
    space = proc.address_space_limit_bytes()
    space = None if space is None else max(0, space - build.address_space_bytes)
    return [proc.total_ram_bytes(), limit, space, proc.data_limit_bytes()]
