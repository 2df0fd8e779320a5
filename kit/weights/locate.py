"""Finding the files of a checkpoint: the tensors' files and the tokenizer that belongs to them."""

import re
from collections.abc import Mapping
from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError
from kit.records import read_plain
from kit.weights.no_checkpoint import no_checkpoint

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
