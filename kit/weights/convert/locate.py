"""Finding a checkpoint's files, its tokenizer, an adapter; else what is there instead."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kit.checkpoint.lora import Adapter, read_adapter
from kit.checkpoint.shards import was_converted
from kit.checkpoint.source import unreadable
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.records import open_plain, read_json, read_plain

_ZERO_3 = "zero_pp_rank_*_mp_rank_*_model_states.pt"
_SINGLE = (".pt", ".pth", ".bin")
_SHOWN = 3


CHECKPOINT_NAME = "mp_rank_00_model_states.pt"
TOKENIZER_NAME = "tokenizer.model"
_TOKENIZER_FOLDERS = ("", "tokenizer", "Tokenizer")
_RANK_FILES = "mp_rank_*_model_states.pt"
_RANK_NAME = re.compile(r"mp_rank_(\d{2}|[1-9]\d{2,3})_model_states\.pt")
_LATEST = "latest"
_MEGATRON_LATEST = "latest_checkpointed_iteration.txt"
_MEGATRON_NAME = "model_optim_rng.pt"
_RANK_FOLDER = re.compile(r"mp_rank_(\d{2}|[1-9]\d{2,3})")
_TAG = re.compile(r"\w[\w.-]{0,200}")


def find_checkpoint(source: Path) -> tuple[Path, ...]:
    """The checkpoint's files: upstream's shards in the order of their ranks, or a single file.

    Args:
        source: a file (a shard stands for all shards beside it), a folder of shards, one that
            DeepSpeed's ``latest`` leads on from, Megatron-LM's folder (of a save, or of one
            iteration), or one that holds a MindSpore ``.ckpt``.

    Raises:
        EnvironmentNotReady: there is none (the message names what is there), or ranks are missing.
        UsageError: there are several, or it is cut in a way that is not read (pipeline parallel).
    """
    if source.is_file():
        if source.name == _MEGATRON_NAME and _RANK_FOLDER.fullmatch(source.absolute().parent.name):
            return _megatron_ranks(source.absolute().parents[1])
        ranked = _RANK_NAME.fullmatch(source.name)
        return _all_ranks(source.parent) if ranked else (source,)
    if any(source.glob(_RANK_FILES)):
        return _all_ranks(source)
    tag = _tag(source / _LATEST)
    if tag and any((source / tag).glob(_RANK_FILES)):
        return _all_ranks(source / tag)
    iteration = _tag(source / _MEGATRON_LATEST)
    named = f"iter_{int(iteration):07d}" if iteration.isdecimal() else iteration
    if paths := _megatron_ranks(source / named if named else source):
        return paths
    files = sorted(source.glob("*.ckpt"))
    if len(files) > 1:
        raise UsageError(
            f"{source} holds {len(files)} checkpoints, {files[0].name} to {files[-1].name}",
            hint="name one of the files",
        )
    if not files:
        raise no_checkpoint(source)
    return (files[0],)


def _tag(path: Path) -> str:
    """The name of a folder that a small file tells; empty where it tells none."""
    if not path.is_file():
        return ""
    tag = read_plain(path, 300).decode(errors="replace").strip()
    return tag if _TAG.fullmatch(tag) and tag.isascii() else ""


def _megatron_ranks(folder: Path) -> tuple[Path, ...]:
    """Megatron-LM's shards in the order of their ranks, each in a folder of its own; or none."""
    ranks = {}
    for path in folder.glob(f"mp_rank_*/{_MEGATRON_NAME}"):
        match = _RANK_FOLDER.fullmatch(path.parent.name)
        if not match:
            raise UsageError(
                f"{path.parent} is no tensor-parallel shard by its name",
                hint="mp_rank_00, mp_rank_01, … are read; pipeline-parallel shards "
                "(mp_rank_00_000, …) are not",
            )
        ranks[int(match[1])] = path
    return _in_order(folder, ranks) if ranks else ()


def _all_ranks(folder: Path) -> tuple[Path, ...]:
    ranks = {}
    for path in folder.glob(_RANK_FILES):
        match = _RANK_NAME.fullmatch(path.name)
        if not match:
            raise UsageError(
                f"{path} is no tensor-parallel shard by its name",
                hint="of upstream's names mp_rank_00_model_states.pt, mp_rank_01_… are read; "
                "pipeline-parallel shards (mp_rank_00_000_…) are not",
            )
        ranks[int(match[1])] = path
    return _in_order(folder, ranks)


def _in_order(folder: Path, ranks: Mapping[int, Path]) -> tuple[Path, ...]:
    missing = [f"mp_rank_{rank:02d}" for rank in range(max(ranks)) if rank not in ranks]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise EnvironmentNotReady(
            f"{folder} holds shards up to {ranks[max(ranks)].relative_to(folder)}, "
            f"but lacks {shown}",
            hint="all ranks' shards must be in one folder",
        )
    return tuple(ranks[rank] for rank in sorted(ranks))


def find_tokenizer(tokenizer: Path | None, checkpoint: Path) -> Path:
    """The SentencePiece model: the one given (file, folder, or prefix), else near the checkpoint.

    Looked for in the checkpoint's folder and the folder above it, and in ``tokenizer`` and
    ``Tokenizer`` below each: the layouts of upstream's repositories.

    Raises:
        EnvironmentNotReady: there is none.
    """
    if tokenizer is not None:
        candidates = [
            tokenizer,
            tokenizer / TOKENIZER_NAME,
            tokenizer.with_name(tokenizer.name + ".model"),
        ]
    else:
        folder = checkpoint.absolute().parent
        roots = (folder, folder.parent)
        candidates = [root / name / TOKENIZER_NAME for root in roots for name in _TOKENIZER_FOLDERS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise EnvironmentNotReady(
        f"there is no tokenizer at {tokenizer}"
        if tokenizer is not None
        else f"there is no {TOKENIZER_NAME} near {checkpoint}",
        hint=f"put the {TOKENIZER_NAME} of upstream's Tokenizer folder beside the checkpoint, "
        "or give its path",
    )


class _Found(NamedTuple):
    """Why there is no checkpoint, and what to do."""

    what: str
    hint: str


def no_checkpoint(source: Path) -> EnvironmentNotReady | IntegrityError:
    """The error for a path at which there is no checkpoint: it names what is there.

    Raises nothing itself, apart from PermissionError where ``source`` may not be looked into.
    """
    if source.exists() and not source.is_dir():
        try:
            open_plain(source).close()
        except OSError as error:
            return unreadable(source, error)
    found = next(found for look in _LOOKS if (found := look(source)))
    return EnvironmentNotReady(f"there is no checkpoint at {source}: {found.what}", hint=found.hint)


def _nothing(source: Path) -> _Found | None:
    if not source.exists():
        return _Found("nothing has that name", "check the path; is it mounted?")
    if not any(source.iterdir()):
        return _Found("the folder is empty", f"give a folder that holds {CHECKPOINT_NAME}")
    return None


def _zero_3(source: Path) -> _Found | None:
    folder = next((path.parent for path in _below(source) if path.match(_ZERO_3)), None)
    if folder is None:
        return None
    save = folder.parent if folder.name.startswith("global_step") else folder
    here = shlex.quote(str(save))
    return _Found(
        f"{folder} was saved with ZeRO stage 3, which cuts every tensor over the training's "
        "processes",
        f"join them: python {here}/zero_to_fp32.py {here} MERGED --max_shard_size 1000GB, "
        "then give MERGED/pytorch_model.bin",
    )


def _latest(source: Path) -> _Found | None:
    if not (source / "latest").is_file():
        return None
    with open_plain(source / "latest") as file:
        tag = printable(file.read(300).decode(errors="replace").strip())
    steps = sorted(path.parent for path in source.glob(f"*/{CHECKPOINT_NAME}"))
    held = ", ".join(step.name for step in steps) or "no checkpoint of another step either"
    way = f"give it: {shlex.quote(str(steps[-1]))}" if steps else "copy the whole save folder again"
    return _Found(
        f"its latest says {tag!r}, and no checkpoint is there; the folder holds {held}",
        f"if that is the one that you mean, {way}" if steps else way,
    )


def _megatron(source: Path) -> _Found | None:
    if any(path.suffix == ".distcp" for path in _below(source)):
        return _Found(
            "it is in Megatron-LM's distributed format (.distcp)",
            "load it in Megatron-LM and save it with --ckpt-format torch, then give that folder",
        )
    if (source / "latest_checkpointed_iteration.txt").is_file():
        return _Found(
            "its latest_checkpointed_iteration.txt leads to no "
            "iter_…/mp_rank_00/model_optim_rng.pt",
            "give the iter_… folder that you mean, or copy the whole save folder again",
        )
    return None


def _unpacked(source: Path) -> _Found | None:
    pickle = next((path for path in _below(source) if path.name == "data.pkl"), None)
    if pickle is None or not (pickle.parent / "data").is_dir():
        return None
    top = pickle.parent.resolve()
    return _Found(
        "the folder is an unpacked .pt file",
        "give the file itself, or pack it again without compression: "
        f"cd {shlex.quote(str(top.parent))} && zip -0 -D -r packed.pt {shlex.quote(top.name)}",
    )


def _peft(source: Path) -> _Found | None:
    if not (source / "adapter_config.json").is_file():
        return None
    return _Found(
        "the folder is an adapter in PEFT's format, without the model that it adapts",
        "load it on a converted directory with the peft library, merge_and_unload() and "
        "save_pretrained(); --lora takes adapters that upstream's own training saved",
    )


def _converted(source: Path) -> _Found | None:
    files = sorted(source.glob("*.safetensors"))
    if not files:
        return None
    if was_converted(files[0]):
        return _Found(
            "the folder is converted already",
            f"serve it: kit up --model {shlex.quote(str(source))}; "
            "kit weights export leads back to upstream's format",
        )
    return _Found(
        "the folder holds safetensors files, which are no checkpoint of upstream",
        f"if it is a converted model: kit up --model {shlex.quote(str(source))}",
    )


def _others(source: Path) -> _Found | None:
    """Files by other names: one that may be renamed, steps below, or whatever is there."""
    names = sorted(path.name for path in source.iterdir())
    files = [name for name in names if name.endswith(_SINGLE)]
    below = sorted(path.parent for path in source.glob(f"*/{CHECKPOINT_NAME}"))
    shown = printable(", ".join(names[:_SHOWN]))
    shown += f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    hint = (
        f"give a folder that holds {CHECKPOINT_NAME}, that file itself, or a MindSpore .ckpt file"
    )
    if below:
        hint = f"if you mean the one in it, give that: {shlex.quote(str(below[-1]))}"
    elif len(files) == 1:
        hint = f"if that is the one by another name, give it: {shlex.quote(str(source / files[0]))}"
    return _Found(f"the folder holds {shown}", hint)


def _below(source: Path) -> list[Path]:
    """What lies in a folder and in the folders of it: as deep as the formats here go."""
    return sorted([*source.glob("*"), *source.glob("*/*")])


_LOOKS: tuple[Callable[[Path], _Found | None], ...] = (
    _nothing,
    _zero_3,
    _latest,
    _megatron,
    _unpacked,
    _peft,
    _converted,
    _others,
)


CONFIG_NAME = "lora_config.json"


def open_adapter(source: Path, alpha: float | None) -> tuple[Adapter, float]:
    """Index an adapter in upstream's format.

    Args:
        source: its folder, or a file in it.
        alpha: the numerator of the scale alpha / rank; None takes it from ``lora_config.json`` in
            the adapter's folder or the folder above: ``{"rank": …, "alpha": …}``.

    Returns:
        The adapter and alpha.

    Raises:
        EnvironmentNotReady: there is no adapter.
        UsageError: alpha is not known, or no positive number.
        IntegrityError: the tensors are no adapter, or of another rank than the configuration says.
    """
    paths = find_checkpoint(source)
    adapter = read_adapter(paths)
    folder = paths[0].absolute().parent
    config = _read_config((folder / CONFIG_NAME, folder.parent / CONFIG_NAME))
    if config.get("rank", adapter.rank) != adapter.rank:
        raise IntegrityError(
            f"{CONFIG_NAME} says rank {config['rank']}, the tensors say {adapter.rank}",
            hint=f"put the {CONFIG_NAME} that belongs to this adapter beside it",
        )
    told: Any = config.get("alpha") if alpha is None else alpha
    if type(told) in (int, float) and 0 < told < float("inf"):
        return adapter, float(told)
    raise UsageError(
        "the adapter's alpha is not known" if told is None else f"alpha cannot be {told!r}",
        hint="give the lora_alpha of its training with --lora-alpha (upstream's script: 256), or "
        f'put it in {CONFIG_NAME} beside the adapter: {{"rank": {adapter.rank}, "alpha": …}}',
    )


def _read_config(candidates: tuple[Path, ...]) -> dict[str, Any]:
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return {}
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="give it as JSON") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not a JSON object", hint='it looks like {"alpha": 256, …}')
    return config
