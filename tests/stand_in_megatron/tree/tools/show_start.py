"""Says how it was started: a script of the kit's own, in place of upstream's."""

import json
import os
import sys
from pathlib import Path

import deepspeed
import megatron
import tools.retro  # as upstream's megatron/arguments.py does

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "DS_ACCELERATOR")

found = {
    "name": __name__,
    "file": __file__,
    "arguments": sys.argv[1:],
    "environment": {name: os.environ.get(name) for name in NAMES},
    "port": os.environ["MASTER_PORT"],
    "megatron": megatron.__file__,
    "tools": list(tools.__path__),
    "shm": deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"],
    "path": sys.path[:2],
}
if len(sys.argv) > 1 and sys.argv[1].startswith("--exit="):
    sys.exit(int(sys.argv[1].removeprefix("--exit=")))
text = json.dumps(found)
if os.environ["WORLD_SIZE"] == "1":
    print(text)
else:
    Path(sys.argv[1], os.environ["RANK"]).write_text(text)
