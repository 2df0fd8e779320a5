"""Loading as the published fix does it: everything on the CPU, whole, and freed afterwards."""

import gc
from typing import Any

from deepspeed.accelerator import get_accelerator

from .checkpoints import load_tensors


def load_on_cpu(path: str, map_location: object = None) -> Any:
    """The checkpoint's content in host memory, whatever device was asked for."""
    return load_tensors(path, mapped=False)


def free_memory() -> None:
    """Collect what nothing refers to, and give the accelerator's unused memory back."""
    gc.collect()
    get_accelerator().empty_cache()
