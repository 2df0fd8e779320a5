"""A model by its name in the catalogue: the conversion of it that is here and fits."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError
from kit.memory import cgroup, proc
from kit.memory.converted_shape import Precision
from kit.memory.fit import PRECISIONS
from kit.memory.limits import serving_limits
from kit.memory.nvml import Gpu
from kit.memory.plan import Device, Pool, plan_serving
from kit.memory.shape import ModelShape, read_shape
from kit.memory.torch_build import TorchBuild, installed_build
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import EngineName
from kit.weights.catalogue import WeightSet, read_catalogue
from kit.weights.folder import checkpoint_dir, converted_dir
from kit.weights.record import read_record

Fits = Callable[[ModelShape], bool]
"""Whether a model of that shape can be served on this machine."""

_SERVED: tuple[Precision, ...] = (*PRECISIONS, "fp32")
"""The best one first; fp32 only where there is nothing else."""
_SHARDS = "mp_rank_*.pt"


def find_set(name: str, catalogue: Path | None) -> WeightSet | None:
    """The set of that name in the catalogue; None: there is none.

    Raises:
        UsageError: the user's own catalogue cannot be read.
    """
    return read_catalogue(catalogue).weights.get(name)


def find_here(name: str, data_dir: Path, engine: EngineName, fits: Fits) -> Path | None:
    """The directory of set ``name`` that the engine serves; None: there is none.

    Of several precisions it is the first of bf16, int8 and int4 that fits; where none does, the
    smallest, so that the preflight says what lacks.
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
