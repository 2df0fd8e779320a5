"""`kit serve` whose engine finds no room on its GPU while it loads, in torch's own words.

FULL_GPU chooses how that comes to light: ``raised`` as torch raises it, ``told`` as the native
engine does.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.errors import KitError
from kit.serve.engine import ModelInfo, Progress
from kit.serve.gpu import gpu_failed
from kit.serve.server import ServerOptions, run
from tests.unit.serve.serve_fakes import FakeEngine, source

FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 280.00 MiB. GPU 0 has a total capacity of 23.65 GiB of "
    "which 98.06 MiB is free. Including non-PyTorch memory, this process has 23.54 GiB memory in "
    "use. Of the allocated memory 23.02 GiB is allocated by PyTorch, and 14.81 MiB is reserved."
)


class FullGpu(FakeEngine):
    def load(self, progress: Progress) -> ModelInfo:
        progress("weights", 0.93)
        if os.environ["FULL_GPU"] == "raised":
            raise FULL
        raise gpu_failed(FULL)


parser = argparse.ArgumentParser()
parser.add_argument("--host")
parser.add_argument("--port", type=int)
options, _ = parser.parse_known_args()
try:
    run(source(FullGpu()), ServerOptions(options.host, options.port))
except KitError as error:
    print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)
