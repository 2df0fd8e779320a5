"""The device that DeepSpeed chose (``DS_ACCELERATOR`` decides where it cannot tell)."""

from functools import partial

import torch
from deepspeed.accelerator import get_accelerator

_TYPE = str(get_accelerator().device_name())

custom_fwd = partial(torch.amp.custom_fwd, device_type=_TYPE)
custom_bwd = partial(torch.amp.custom_bwd, device_type=_TYPE)
"""torch.amp's decorators; their namesakes in torch.cuda.amp warn."""


def current_device() -> str:
    """Its name as torch takes it: ``cuda:0``, ``cpu``."""
    return str(get_accelerator().current_device_name())


def synchronize() -> None:
    """Wait until all that was asked of it is done."""
    get_accelerator().synchronize()
