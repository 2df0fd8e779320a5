"""Behaves like `kit serve` towards `kit up`, at once and without torch.

STAND_IN chooses what happens: ok, slow (to load), load_error, crash, out_of_memory, hog (it takes
memory until it is killed), over_budget (it says so itself), never_ready, mute, no_answer, busy (it
is full from its second request on). A file `broken`, `heavy` or `over` in the directory does so,
too: it crashes, takes a gigabyte, or says that it is over its budget.
"""

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY_MEMORY = {
    "host_peak_bytes": 1,
    "host_private_bytes": 1,
    "device_peak_bytes": None,
    "weights_bytes": 1,
    "kv_cache_bytes": 1,
}


def setting(option: str) -> str | None:
    """What `kit serve` takes from its environment, as in a container."""
    return os.environ.get(f"KIT_{option.replace('-', '_').upper()}")


behaviour = os.environ.get("STAND_IN", "ok")
load_seconds = 8.0 if behaviour == "slow" else 0.3
parser = argparse.ArgumentParser()
parser.add_argument("directory")
for option in ("host", "device", "max-ram", "max-vram"):
    parser.add_argument(f"--{option}", default=setting(option))
parser.add_argument("--name", default=os.environ.get("KIT_MODEL_NAME"))
for option in ("port", "context", "max-sequences"):
    parser.add_argument(f"--{option}", type=int, default=setting(option))
options = parser.parse_args()
started = time.monotonic()
asked: list[str] = []

if behaviour == "load_error":
    print("error: the weights are damaged\nhint: convert them again", file=sys.stderr)
    sys.exit(4)
if behaviour == "crash" or os.path.exists(f"{options.directory}/broken"):  # noqa: PTH110
    raise RuntimeError("boom")
if behaviour == "out_of_memory":
    bytearray(1 << 60)
if behaviour == "hog" or os.path.exists(f"{options.directory}/heavy"):  # noqa: PTH110
    held = [b"x" * (1 << 20) for _ in range(1 << 10)]


class Handler(BaseHTTPRequestHandler):
    def reply(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.metrics()
            return
        if behaviour == "mute":
            time.sleep(600)
        if behaviour == "never_ready" or time.monotonic() - started < load_seconds:
            self.reply(503, {"status": "loading", "phase": "weights", "progress": 0.41})
            return
        over = os.path.exists(f"{options.directory}/over")  # noqa: PTH110
        if over or behaviour == "over_budget":
            told = {"error": "peak host RAM", "hint": "--max-ram", "exit_code": 5}
            self.reply(503, {"status": "failed", **told})
            return
        ready = {"status": "ready", "model": options.name, "engine": "native", "dtype": "bfloat16"}
        ready |= {"device": options.device, "context_length": options.context}
        ready |= {"max_sequences": options.max_sequences, "load_seconds": 0.3}
        device = {"device_peak_bytes": 1 << 20} if options.device == "cuda" else {}
        self.reply(200, {**ready, "memory": READY_MEMORY | device})

    def metrics(self) -> None:
        running = options.max_sequences if behaviour == "busy" and asked else 0
        data = f"# HELP x\nkit_sequences_running {running:.1f}\nkit_sequences_waiting 0.0\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())

    def do_POST(self) -> None:
        asked.append(self.path)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("KIT_API_KEY")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self.reply(401, {"error": {"message": "wrong key"}})
        elif behaviour == "no_answer" or (behaviour == "busy" and len(asked) > 1):
            self.reply(500, {"error": {"message": "the engine has died"}})
        elif self.path == "/v1/completions":
            self.stream(request["max_tokens"])
        else:
            answer = f"You said: {request['messages'][0]['content']}"
            self.reply(200, {"choices": [{"message": {"content": answer}}]})

    def stream(self, tokens: int) -> None:
        usage = {"choices": [], "usage": {"completion_tokens": tokens}}
        events = [*({"choices": [{"text": "x"}]} for _ in range(tokens)), usage]
        self.send_response(200)
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: %s\n\n" % json.dumps(event).encode())


ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
