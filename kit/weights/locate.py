"""Finding the files of a checkpoint: the tensors' file and the tokenizer that belongs to it."""

from pathlib import Path

from kit.errors import EnvironmentNotReady, UsageError

CHECKPOINT_NAME = "mp_rank_00_model_states.pt"
TOKENIZER_NAME = "tokenizer.model"
_TOKENIZER_FOLDERS = ("", "tokenizer", "Tokenizer")


def find_checkpoint(source: Path) -> Path:
    """The checkpoint file that ``source`` means: itself, or ``mp_rank_00_model_states.pt`` in it.

    Raises:
        EnvironmentNotReady: there is none.
        UsageError: it is one of several tensor-parallel shards.
    """
    path = source / CHECKPOINT_NAME if source.is_dir() else source
    if not path.is_file():
        raise EnvironmentNotReady(
            f"there is no checkpoint at {path}",
            hint=f"give a folder that holds {CHECKPOINT_NAME}, or that file itself",
        )
    shards = sorted(path.parent.glob("mp_rank_*_model_states.pt"))
    if path in shards and len(shards) > 1:
        raise UsageError(
            f"{path.parent} holds {len(shards)} shards "
            f"({shards[0].name} to {shards[-1].name}); "
            "tensor-parallel shards are not supported yet",
            hint="merge them with upstream's tools/weight_convert first, "
            f"or move {CHECKPOINT_NAME} to its own folder if the others do not belong to it",
        )
    return path


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
