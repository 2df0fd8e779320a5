"""The real command line, with the stand-in server in place of `kit serve`."""

import sys
from pathlib import Path

from kit.cli.main import run

run(server_command=(sys.executable, str(Path(__file__).with_name("stand_in_server.py"))))
