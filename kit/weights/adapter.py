"""Finding an adapter's files and its alpha, which leaves no trace in the tensors."""

from pathlib import Path
from typing import Any

from kit.checkpoint.lora import Adapter, read_adapter
from kit.errors import IntegrityError, UsageError
from kit.records import read_json
from kit.weights.locate import find_checkpoint

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
