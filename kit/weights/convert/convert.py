"""From a checkpoint to a directory that Hugging Face tools and the kit's server open.

Everything is made in a hidden work directory beside the output, which takes the output's name when
it is complete. After any interruption the same call goes on behind the last finished shard.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import kit
from kit.checkpoint.convert import Conversion, Converted, convert_tensors
from kit.checkpoint.encoding import OutputDType
from kit.checkpoint.journal import JOURNAL_NAME
from kit.checkpoint.lora import Adapter, require_fit
from kit.checkpoint.model import Model, read_model, read_published
from kit.checkpoint.published import find_shards
from kit.checkpoint.source import Progress
from kit.errors import IntegrityError, UsageError
from kit.files import (
    exclusive,
    full_disk_explained,
    publish,
    require_free,
    require_outside,
    work_directory,
    write_durably,
)
from kit.memory.plan.shape import DTYPES
from kit.weights.convert.facts import find_arguments, model_config
from kit.weights.convert.locate import find_checkpoint, find_tokenizer, open_adapter
from kit.weights.convert.published import read_config, write_published_files
from kit.weights.convert.record import (
    ConversionRecord,
    MergedLora,
    Precision,
    Source,
    match_all,
    sound_record,
    write_record,
)
from kit.weights.convert.support_files import write_support_files
from kit.weights.digest import sha256_file

_KEPT = "the tensors that are converted stay, and it goes on"

Known = Callable[[Path], str | None]
"""Tells the sha256 of a file that was checked and has not changed since; None of any other."""


@dataclass(frozen=True)
class _Opened:
    """A checkpoint that can be converted, and what writes the files beside its tensors."""

    model: Model
    write_support: Callable[..., None]
    adapter: Adapter | None = None
    alpha: float = 0.0


@dataclass(frozen=True)
class _Job:
    """Everything known before the first byte is converted. ``support`` holds finished files."""

    opened: _Opened
    precision: Precision
    support: Path
    output: Path
    known: Known
    allow_nonfinite: bool

    @property
    def model(self) -> Model:
        return self.opened.model

    @property
    def adapter(self) -> Adapter | None:
        return self.opened.adapter

    @property
    def alpha(self) -> float:
        return self.opened.alpha

    @property
    def conversion(self) -> Conversion:
        scale = self.alpha / self.adapter.rank if self.adapter else 1.0
        return Conversion(
            self.model.files,
            self.model.mappings,
            DTYPES[self.precision],
            self.adapter,
            scale,
            {f.path: f"sha256:{sha}" for f in self.model.files if (sha := self.known(f.path))},
        )

    def made(self, record: ConversionRecord) -> bool:
        """Whether ``record`` is of this job."""
        return (
            record.precision == self.precision
            and match_all(record.sources, self.model.files)
            and self._merged(record.lora)
        )

    def _merged(self, lora: MergedLora | None) -> bool:
        if lora is None or self.adapter is None:
            return lora is None and self.adapter is None
        return lora.alpha == self.alpha and match_all(lora.sources, self.adapter.files)


def _published(
    folder: Path, shards: Sequence[Path], dtype: OutputDType, lora: Path | None
) -> _Opened:
    if lora is not None:
        raise UsageError(
            "adapters in upstream's format are merged into iFlytekSpark's checkpoints alone",
            hint="merge it with peft first, or leave --lora out",
        )
    config = read_config(folder)
    model = read_published(shards, config)
    write = partial(write_published_files, folder=folder, model=model, config=config, dtype=dtype)
    return _Opened(model, write)


def _upstreams(
    paths: Sequence[Path], tokenizer: Path | None, lora: Path | None, lora_alpha: float | None
) -> _Opened:
    """Upstream's checkpoint; what is written beside its tensors lacks the configuration yet."""
    model = read_model(paths)
    write = partial(write_support_files, tokenizer_model=find_tokenizer(tokenizer, paths[0]))
    if lora is None:
        return _Opened(model, write)
    adapter, alpha = open_adapter(lora, lora_alpha)
    require_fit(adapter, model.shapes())
    return _Opened(model, write, adapter, alpha)


def convert_checkpoint(
    source: Path,
    output: Path,
    *,
    precision: Precision = "bf16",
    tokenizer: Path | None = None,
    config: Path | None = None,
    num_heads: int | None = None,
    lora: Path | None = None,
    lora_alpha: float | None = None,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    known: Known = lambda path: None,
    progress: Progress | None = None,
) -> ConversionRecord:
    """Convert a checkpoint, unless ``output`` already is its conversion.

    Args:
        source: upstream's ``.pt`` file or folder of tensor-parallel shards, or MindSpore's
            ``.ckpt``; see ``find_checkpoint``. Or the folder of Baichuan2-13B or ChatGLM-6B as its
            hub publishes it.
        output: directory to make. Tensors are in ``precision`` there.
        tokenizer: SentencePiece model or its folder; None looks near the checkpoint.
        config: JSON file in upstream's argument names; None takes ``config.json`` near the
            checkpoint, if there is one.
        num_heads: attention heads, where no configuration tells them; else the 13B's head size.
        lora: an adapter in upstream's format to merge; see ``open_adapter``.
        lora_alpha: the adapter's alpha, where no ``lora_config.json`` tells it.
        overwrite: replace whatever ``output`` is.
        allow_nonfinite: convert infinite and NaN weights, too.
        known: what it tells is not hashed again.
        progress: called as ``progress(done_bytes, total_bytes)`` of the source.

    Raises:
        UsageError: ``output`` is something else, the configuration cannot be understood, or the
            adapter's alpha is not known.
        EnvironmentNotReady: checkpoint, shards, adapter or tokenizer are missing, the disk is full,
            or another conversion into ``output`` is running.
        IntegrityError: checkpoint, adapter or tokenizer are damaged, unsafe (``UnsafePickle``), or
            not of one piece with each other or with the configuration.
    """
    if shards := find_shards(source):
        opened = _published(source, shards, DTYPES[precision], lora)
    else:
        opened = _upstreams(find_checkpoint(source), tokenizer, lora, lora_alpha)
        model = opened.model
        arguments = find_arguments(config, model.files[0].path)
        facts = model_config(model.dimensions, DTYPES[precision], arguments, num_heads)
        opened = replace(opened, write_support=partial(opened.write_support, config=facts))
    with exclusive(output, "writing"), tempfile.TemporaryDirectory() as support:
        # Written first: a tokenizer that does not fit should show before an hour of conversion.
        with full_disk_explained(Path(support), "nothing was begun"):
            opened.write_support(Path(support))
        job = _Job(opened, precision, Path(support), output, known, allow_nonfinite)
        return _already_converted(job, overwrite) or _convert(job, progress)


def _already_converted(job: _Job, overwrite: bool) -> ConversionRecord | None:
    """The output's record if it is this conversion; UsageError if it may not be replaced.

    Support files that would come out differently now (a newer kit, another configuration) are
    renewed. Otherwise they are left alone, a user's own edits included.
    """
    output = job.output
    require_outside(tuple(file.path for file in job.conversion.all_files), output)
    record = sound_record(output)
    if record is None or not job.made(record):
        if not overwrite:
            source = job.model.files[0].path
            lora = f" with {job.adapter.files[0].path.parent}" if job.adapter else ""
            require_free(output, f"the {job.precision} conversion of {source}{lora}")
        return None
    if not record.is_intact(output):
        return None
    (output / JOURNAL_NAME).unlink(missing_ok=True)
    if (fresh := _digests(job.support)) != record.support:
        record = replace(record, support=fresh, kit_version=kit.__version__)
        with full_disk_explained(output, _KEPT):
            _copy_support(job.support, output, kept=record.edited)
            write_record(output, record)
    return record


def _convert(job: _Job, progress: Progress | None) -> ConversionRecord:
    work = work_directory(job.output)
    converted = convert_tensors(job.conversion, work, progress=progress)
    if converted.nonfinite and not job.allow_nonfinite:
        raise IntegrityError(
            nonfinite_text(converted.nonfinite),
            hint="get the checkpoint again; if it has to be so: --allow-nonfinite",
        )
    record = _record(job, converted)
    with full_disk_explained(job.output.parent, _KEPT):
        _copy_support(job.support, work)
        write_record(work, record)
        publish(work, job.output)
    (job.output / JOURNAL_NAME).unlink()
    return record


def _record(job: _Job, converted: Converted) -> ConversionRecord:
    pairs = zip(job.conversion.all_files, converted.sources, strict=True)
    sources = tuple(Source.of(file, digest) for file, digest in pairs)
    count = len(job.model.files)
    return ConversionRecord(
        kit_version=kit.__version__,
        sources=sources[:count],
        lora=MergedLora(sources[count:], job.adapter.rank, job.alpha) if job.adapter else None,
        precision=job.precision,
        tensors=converted.tensors,
        files=converted.files,
        support=_digests(job.support),
        nonfinite=converted.nonfinite,
    )


def nonfinite_text(nonfinite: Mapping[str, int]) -> str:
    """Which tensors hold infinite or NaN weights, and how many."""
    shown = [f"{name} ({count})" for name, count in list(nonfinite.items())[:3]]
    rest = [f"{len(nonfinite) - 3} more tensors"] if len(nonfinite) > 3 else []
    return f"weights are infinite or NaN: {', '.join(shown + rest)}"


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.iterdir())}


def _copy_support(support: Path, directory: Path, kept: Collection[str] = ()) -> None:
    for path in support.iterdir():
        if path.name in kept:
            continue
        write_durably(directory / path.name, path.read_bytes())
