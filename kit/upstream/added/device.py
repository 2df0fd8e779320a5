"""The device that DeepSpeed chose (``DS_ACCELERATOR`` decides where it cannot tell)."""

from deepspeed.accelerator import get_accelerator


def current_device() -> str:
    """Its name as torch takes it: ``cuda:0``, ``cpu``."""
    return str(get_accelerator().current_device_name())


def synchronize() -> None:
    """Wait until all that was asked of it is done."""
    get_accelerator().synchronize()
