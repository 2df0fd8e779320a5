"""An adapter in upstream's format as a directory that the ``peft`` library loads.

PEFT adapts the modules of the converted model, so query, key and value have factors of their own;
gate and up projection share A and take the even and the odd rows of B. Format: PEFT's
``adapter_config.json``, and ``adapter_model.safetensors`` whose tensors are named
``base_model.model.<module>.lora_A.weight``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.encoding import OutputDType
from kit.checkpoint.journal import JOURNAL_NAME
from kit.checkpoint.layout import Mapping, Part, Tensor
from kit.checkpoint.lora import Adapter
from kit.files import (
    exclusive,
    publish,
    require_free,
    require_outside,
    work_directory,
    write_durably,
)
from kit.weights.adapter import open_adapter

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class PeftAdapter:
    """What was written."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]


def export_peft(
    source: Path, output: Path, *, alpha: float | None = None, overwrite: bool = False
) -> PeftAdapter:
    """Write a PEFT adapter directory for the converted model.

    Args:
        source: an adapter in upstream's format; see ``open_adapter``.
        output: directory to make.
        alpha: the adapter's alpha, where no ``lora_config.json`` tells it.
        overwrite: replace whatever ``output`` is.

    Raises:
        UsageError: alpha is not known, or ``output`` exists.
        EnvironmentNotReady: there is no adapter, or no space.
        IntegrityError: the adapter is damaged or unsafe (``UnsafePickle``).
    """
    adapter, alpha = open_adapter(source, alpha)
    modules = sorted({name.split(".")[-2] for name in adapter.factors})
    with exclusive(output, "writing"):
        require_outside(tuple(file.path for file in adapter.files), output)
        if not overwrite:
            require_free(output, "free")
        work = work_directory(output)
        conversion = Conversion(adapter.files, peft_mappings(adapter), _dtype(adapter))
        convert_tensors(conversion, work, max_shard_bytes=2**62)
        (work / "model.safetensors").rename(work / WEIGHTS_NAME)
        text = json.dumps(_config(adapter.rank, alpha, modules), indent=2) + "\n"
        write_durably(work / CONFIG_NAME, text.encode())
        (work / JOURNAL_NAME).unlink()
        publish(work, output)
    return PeftAdapter(adapter.rank, alpha, tuple(modules))


def peft_mappings(adapter: Adapter) -> tuple[Mapping, ...]:
    """Upstream's factors and the tensors of PEFT's file that are made of them."""
    parts: dict[Tensor, list[Part]] = {}
    for name, factors in adapter.factors.items():
        module = "base_model.model." + name.removesuffix(".weight")
        a_rows = range(factors.a.shape[0])
        parts.setdefault(factors.a, []).append(Part(f"{module}.lora_A.weight", a_rows))
        parts.setdefault(factors.b, []).append(Part(f"{module}.lora_B.weight", factors.b_rows))
    return tuple(Mapping(tensor, tuple(of)) for tensor, of in parts.items())


def _dtype(adapter: Adapter) -> OutputDType:
    """What holds all factors exactly."""
    dtypes = {tensor.dtype for f in adapter.factors.values() for tensor in (f.a, f.b)}
    return "bfloat16" if dtypes == {"bfloat16"} else "float32"


def _config(rank: int, alpha: float, modules: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
    }
