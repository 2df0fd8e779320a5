"""The real command line, with a server whose GPU is full."""

import sys
from pathlib import Path

from kit.cli.main import run

run(server_command=(sys.executable, str(Path(__file__).with_name("full_gpu_server.py"))))
