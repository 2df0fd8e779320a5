"""What a memory plan can be asked about, as a model: named, on disk, or just described."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kit.checkpoint.convert import DEFAULT_CHUNK_BYTES, OUTPUT_BUFFERS
from kit.checkpoint.layout import Dimensions
from kit.checkpoint.model import read_model
from kit.checkpoint.pages import ROOM_BYTES
from kit.checkpoint.source import BUFFERS
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.fit import PRECISIONS
from kit.memory.plan.line import LOADED, Basis, Phase, Plan, PlanLine, Pool
from kit.memory.plan.shape import Architecture, ModelShape, Precision, read_shape
from kit.settings import bundled
from kit.units import MIB
from kit.weights.catalogue import Catalogue, Shape, WeightSet
from kit.weights.convert.facts import HEAD_DIM, find_arguments, model_config
from kit.weights.convert.locate import find_checkpoint
from kit.weights.folder import checkpoint_dir, converted_dir

PROGRAM_BYTES = 56 * MIB
"""The kit's process with numpy, as seen for every precision on x86-64."""


DEMO = "demo"
PUBLISHED = "spark-13b-chat"
"""What is meant where nothing is named."""


@dataclass(frozen=True)
class Planned:
    """A model that is to be served.

    Attributes:
        converted: its shape, where it is a converted directory already.
        architecture: what it can be converted from, where it is not.
        source_bytes: of the checkpoint that has to be converted; None: it is only described.
        source: what that is.
    """

    name: str
    converted: ModelShape | None = None
    architecture: Architecture | None = None
    source_bytes: int | None = None
    source: str = ""

    def shape(self, precision: Precision | None) -> ModelShape:
        """The shape it is served in; None: as it is, else bf16.

        Raises:
            UsageError: a converted directory is of another precision.
        """
        if self.architecture is not None:
            return self.architecture.at(precision or "bf16")
        assert self.converted is not None  # noqa: S101  (it has one or the other)
        if precision not in (None, self.converted.precision):
            raise UsageError(
                f"{self.name} is a converted directory of {self.converted.precision}",
                hint="plan for the checkpoint that it was made of, or for its --layers, --hidden, "
                "--ffn and --vocab",
            )
        return self.converted

    def shapes(self, precisions: tuple[Precision, ...]) -> dict[str, ModelShape]:
        """The shapes to choose from, by precision. A converted directory has just its own."""
        if self.architecture is None:
            assert self.converted is not None  # noqa: S101
            return {self.converted.precision: self.converted}
        found: dict[str, ModelShape] = {}
        for precision in precisions:
            try:
                found[precision] = self.architecture.at(precision)
            except UsageError:  # widths that int4 cannot cut
                continue
        return found


def find_planned(
    target: str | None, catalogue: Catalogue, data_dir: Path, precision: Precision | None = None
) -> Planned:
    """The model of that name or path; None is the published one.

    Args:
        target: ``demo``, a converted directory, a checkpoint that ``kit weights convert`` takes, or
            a name of the catalogue.
        catalogue: what can be fetched.
        data_dir: where a set is looked for whose shape the catalogue does not tell.
        precision: the one that matters then, of several conversions.

    Raises:
        UsageError: it is neither a path nor known by name.
        EnvironmentNotReady: there is nothing at the path, or no telling what shape a set has.
        IntegrityError: the files there are damaged.
    """
    if target in (None, *catalogue.weights):
        return _of_set(catalogue.find(target or PUBLISHED), data_dir, precision)
    path = bundled(DEMO) if target == DEMO else Path(str(target)).expanduser()
    if path.is_dir() and any(path.glob("*.safetensors")):
        return Planned(path.resolve().name, converted=read_shape(path))
    if path.exists():
        return _of_checkpoint(path)
    if "/" in str(target):
        raise EnvironmentNotReady(
            f"there is nothing at {target}",
            hint="name a converted directory or a checkpoint; kit weights list shows names, too",
        )
    raise UsageError(
        f"{target!r} is neither here nor in the catalogue",
        hint=f"a path, or one of: {DEMO}, {', '.join(catalogue.weights)}",
    )


def described(base: Planned, numbers: Mapping[str, int | None]) -> Planned:
    """The model that differs from ``base`` in some numbers: those that are not None.

    Args:
        base: of the catalogue.
        numbers: ``layers``, ``hidden``, ``ffn``, ``vocab``, ``heads``, ``max_context`` and
            ``window``, 0 for none.
    """
    told = {name: value for name, value in numbers.items() if value is not None}
    if not told or base.architecture is None:
        return base
    known = base.architecture
    hidden = told.get("hidden", known.dimensions.hidden_size)
    dimensions = Dimensions(
        layers=told.get("layers", known.dimensions.layers),
        hidden_size=hidden,
        ffn_size=told.get("ffn", known.dimensions.ffn_size),
        vocab_size=told.get("vocab", known.dimensions.vocab_size),
    )
    architecture = replace(
        known,
        dimensions=dimensions,
        max_context=told.get("max_context", known.max_context),
        window=told.get("window", known.window) or None,
        heads=told.get("heads", max(1, hidden // HEAD_DIM)),
    )
    billions = architecture.parameters / 1e9
    return Planned(f"a model of {billions:.2f} billion parameters", architecture=architecture)


def with_disk(planned: Planned, shape: ModelShape, plan: Plan) -> Plan:
    """The plan of serving ``shape``, with what is on disk, and with the conversion if it needs one.

    The native engine serves converted directories, upstream's code its own checkpoints.
    """
    lines: tuple[PlanLine, ...]
    if planned.architecture is None:
        lines = (stored_line(shape.weights_bytes, "the converted directory's tensors"),)
    elif plan.engine != "native":
        size = planned.source_bytes or planned.architecture.at("fp32").weights_bytes
        lines = (stored_line(size, "upstream's checkpoint, served as it is"),)
    else:
        size = planned.source_bytes or planned.architecture.at("fp32").weights_bytes
        source = planned.source or "in fp32"
        lines = conversion_lines(size, shape.weights_bytes, source)
    return replace(plan, lines=plan.lines + lines)


def _of_set(found: WeightSet, data_dir: Path, precision: Precision | None) -> Planned:
    if found.shape is not None:
        return Planned(
            found.name,
            architecture=architecture_of(found.shape),
            source_bytes=found.tensors_bytes,
            source=f"{found.what}: to download",
        )
    if found.checkpoint is not None:
        return _of_what_is_here(found.name, found.checkpoint, data_dir, precision)
    raise UsageError(
        f"{found.name} is no model: {found.what}", hint=f"such as kit memory plan {PUBLISHED}"
    )


def _of_what_is_here(
    name: str, checkpoint: str, data_dir: Path, precision: Precision | None
) -> Planned:
    """A set by its conversion, else by its checkpoint."""
    for each in (precision,) if precision else (*PRECISIONS, "fp32"):
        directory = converted_dir(data_dir, name, each)
        if any(directory.glob("*.safetensors")):
            return Planned(name, converted=read_shape(directory))
    path = checkpoint_dir(data_dir, name) / checkpoint
    if path.exists():
        return replace(_of_checkpoint(path), name=name)
    raise EnvironmentNotReady(
        f"{name} is not here, and the catalogue does not tell its shape",
        hint=f"fetch it first: kit weights fetch {name}; or give it a shape = in the catalogue",
    )


def published(catalogue: Catalogue) -> Architecture:
    """The published 13B."""
    shape = catalogue.find(PUBLISHED).shape
    assert shape is not None  # noqa: S101  (the kit's own catalogue has it)
    return architecture_of(shape)


def architecture_of(shape: Shape) -> Architecture:
    """What the catalogue's numbers say. Heads are of the published size."""
    dimensions = Dimensions(shape.layers, shape.hidden, shape.intermediate, shape.vocabulary)
    return Architecture(dimensions, shape.max_context, shape.window, shape.hidden // HEAD_DIM)


def _of_checkpoint(path: Path) -> Planned:
    files = find_checkpoint(path)
    dimensions = read_model(files).dimensions
    config = model_config(dimensions, "bfloat16", find_arguments(None, files[0]))
    architecture = Architecture(
        dimensions,
        config["max_position_embeddings"],
        config["sliding_window"],
        config["num_attention_heads"],
    )
    size = sum(file.stat().st_size for file in files)
    name = (path if path.is_dir() else path.parent).resolve().name
    what = f"{len(files)} files" if len(files) > 1 else files[0].name
    return Planned(name, architecture=architecture, source_bytes=size, source=f"{what}, as it is")


def conversion_lines(source_bytes: int, output_bytes: int, what: str) -> tuple[PlanLine, ...]:
    """Lines of converting a checkpoint of ``source_bytes``.

    ``what`` says what the source is. Neither its size nor that of a tensor changes the memory.
    """
    converting = (Phase.CONVERT,)
    count = OUTPUT_BUFFERS + BUFFERS
    buffers_bytes = count * (DEFAULT_CHUNK_BYTES + ROOM_BYTES)
    each = (DEFAULT_CHUNK_BYTES + ROOM_BYTES) // MIB
    buffers = f"{count} of {each} MiB, whatever the size of a tensor"
    program = "the kit with numpy, as seen on x86-64"
    disk, computed = Pool.DISK, Basis.COMPUTED
    return (
        PlanLine("buffers", Pool.HOST, converting, buffers_bytes, computed, buffers),
        PlanLine("program", Pool.HOST, converting, PROGRAM_BYTES, Basis.MEASURED, program),
        PlanLine("checkpoint", disk, converting, source_bytes, computed, what),
        PlanLine(
            "converted copy",
            disk,
            (Phase.CONVERT, *LOADED),
            output_bytes,
            computed,
            "once complete, the checkpoint may go",
        ),
    )


def stored_line(size_bytes: int, why: str) -> PlanLine:
    """The line of weights that are on disk already."""
    return PlanLine("files", Pool.DISK, LOADED, size_bytes, Basis.COMPUTED, why)
