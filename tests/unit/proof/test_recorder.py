"""Of a real process, whose memory grows, and a small HTTP server that tells its phase."""

import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.timeline import TimelineWriter, read_timeline
from kit.memory.unavailable import Unavailable
from kit.proof.measure import DeviceUse
from kit.proof.recorder import Recorder, is_news, recording
from kit.runtime.client import Client
from kit.runtime.protocol import Running
from kit.units import MIB
from tests.timelines import RUN, sample

CPU = replace(RUN, device="cpu")
GROWS = "import sys; sys.stdin.readline(); x = b'x' * (64 << 20); print(flush=True); input()"
READY = {"status": "ready", "model": "m", "dtype": "bfloat16", "device": "cpu"}
READY |= {"context_length": 8, "max_sequences": 1, "load_seconds": 1.0}
TOLD = {"host_private_bytes": 3 * MIB, "host_mapped_bytes": 2 * MIB, "host_peak_bytes": 7 * MIB}


class OneProcess:
    """A runtime whose service is ``process``; ``pid`` may be hidden."""

    def __init__(self, process, pid=None):
        self.process, self.pid = process, pid or process.pid

    def status(self):
        alive = self.process.poll() is None
        return Running(None, alive, "process", self.pid, 0.0, Unavailable("it runs"))


@pytest.fixture
def process():
    command = [sys.executable, "-c", GROWS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def client():
    """Says what is in ``service.tells`` as its health."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = server.tells
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.tells = (503, {"status": "loading", "phase": "startup", "progress": 0.0})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}")
    client.tell = lambda status, body: setattr(server, "tells", (status, body))
    yield client
    server.shutdown()
    server.server_close()


def wait_for(recorder, condition):
    deadline = time.monotonic() + 30
    while not any(map(condition, recorder.timeline().samples)):
        assert time.monotonic() < deadline, "no such sample came"
        time.sleep(0.02)


def grow(process):
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()


def test_memory_and_phases_of_a_process_until_it_ends(process, client):
    with Recorder(OneProcess(process), client, CPU) as recorder:
        wait_for(recorder, lambda one: one.phase == "starting")
        client.tell(503, {"status": "loading", "phase": "weights", "progress": 0.5})
        wait_for(recorder, lambda one: one.phase == "weights")
        grow(process)
        wait_for(recorder, lambda one: one.private_bytes > 64 * MIB)
        client.tell(200, {**READY, "memory": TOLD})
        wait_for(recorder, lambda one: one.phase == "serving")
        recorder.phase("prefill")
        wait_for(recorder, lambda one: one.phase == "prefill")
        recorder.phase(None)
        process.kill()
        assert recorder.ended.wait(30)
    samples = recorder.timeline().samples
    first, last = samples[0], samples[-1]
    assert first.private_bytes + 60 * MIB < last.private_bytes <= last.peak_bytes
    assert (first.device_bytes, first.pool_bytes) == (None, None)
    lived = recorder.lived()
    assert lived.address_space_peak_bytes > last.peak_bytes
    assert lived.pids == {process.pid}
    assert [one.seconds for one in samples] == sorted(one.seconds for one in samples)


def test_the_shortest_phase_has_a_sample(process, client):
    with Recorder(OneProcess(process), client, CPU) as recorder:
        for name in ("prefill", "decode", None):
            recorder.phase(name)
    phases = [one.phase for one in recorder.timeline().samples]
    assert [name for name in phases if name != "starting"] == ["prefill", "decode"]
    assert phases[-1] == "starting"


def test_children_count(client):
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GROWS!r}])"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with Recorder(OneProcess(process), client, CPU) as recorder:
            grow(process)
            wait_for(recorder, lambda one: one.private_bytes > 64 * MIB)
        process.communicate(b"\n")


def test_what_cannot_be_seen_is_what_the_service_says(process, client):
    client.tell(200, {**READY, "memory": TOLD})
    hidden = OneProcess(process, Unavailable("another machine"))
    with Recorder(hidden, client, CPU) as recorder:
        wait_for(recorder, lambda one: one.phase == "serving")
    last = recorder.timeline().samples[-1]
    assert (last.private_bytes, last.mapped_bytes, last.peak_bytes) == (
        3 * MIB,
        2 * MIB,
        7 * MIB,
    )


def test_a_service_that_failed_is_told_apart(process, client):
    client.tell(503, {"status": "failed", "error": "over", "hint": "less", "exit_code": 5})
    with Recorder(OneProcess(process), client, CPU) as recorder:
        wait_for(recorder, lambda one: one.phase == "failed")


def test_the_file_has_what_is_kept_at_every_moment(process, client, tmp_path):
    path = tmp_path / "new" / "t.jsonl"
    with recording(path, CPU, OneProcess(process), client) as recorder:
        wait_for(recorder, lambda one: True)
        assert read_timeline(path).run == CPU
    assert read_timeline(path) == recorder.timeline()


def test_a_place_that_cannot_be_written(process, client, tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(EnvironmentNotReady, match="timeline cannot be written"),
        recording(tmp_path / "file" / "t.jsonl", CPU, OneProcess(process), client),
    ):
        pass


def test_every_sample_is_told_and_few_are_kept(process, client):
    told = []
    file = io.StringIO()
    writer = TimelineWriter(file, CPU)
    with Recorder(
        OneProcess(process), client, CPU, writer=writer, on_sample=told.append
    ) as recorder:
        while len(told) < 15:
            time.sleep(0.02)
    kept = recorder.timeline().samples
    assert len(kept) < len(told)
    assert len(file.getvalue().splitlines()) == 1 + len(kept)


def test_what_is_news():
    last = sample(1, "serving", 100 * MIB, 500 * MIB)
    assert not is_news(last, replace(last, seconds=1.5, peak_bytes=last.peak_bytes + MIB))
    for change in (
        {"seconds": 2.0},
        {"phase": "prefill"},
        {"private_bytes": last.private_bytes + MIB},
        {"mapped_bytes": last.mapped_bytes - MIB},
        {"device_bytes": 501 * MIB},
        {"pool_bytes": None},
    ):
        assert is_news(last, replace(last, **change)), change


def test_vram_is_unavailable_where_no_driver_answers():
    assert isinstance(DeviceUse().measure(Unavailable("hidden")), Unavailable)
    assert isinstance(DeviceUse({"GPU-aaaa": 1}).measure(()), Unavailable)
