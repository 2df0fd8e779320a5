"""A server process with the fake engine, which the tests send signals to.

Usage: python fake_server_main.py PORT MODE; MODE is ready, paused (each answer stops after three
tokens until the process gets SIGUSR1), stuck (it stops for ever), loading (loading never ends),
fails or crashes (loading does). The last lines are what the command line prints for an error.
"""

import signal
import sys

from serve_fakes import FakeEngine, source

from kit.errors import IntegrityError, KitError
from kit.serve.server import ServerOptions, run

port, mode = int(sys.argv[1]), sys.argv[2]
engine = FakeEngine()
if mode in ("paused", "stuck"):
    engine.pause_after = 3
if mode == "paused":
    signal.signal(signal.SIGUSR1, lambda *_: engine.go_on())
if mode == "loading":
    engine.load_gate.clear()
if mode == "fails":
    engine.load_error = IntegrityError("shard 3 is damaged", hint="fetch it again")
if mode == "crashes":
    engine.load_error = ZeroDivisionError("a bug")
try:
    run(source(engine), ServerOptions(port=port, grace_seconds=1 if mode == "stuck" else 20))
except KitError as error:
    print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)
