"""The local process runtime: `kit serve` in a session of its own, with a state file and a log."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import kit
from kit.errors import KitError, ServiceError
from kit.files import writing
from kit.memory.probes.proc import descendants, process_memory, process_stat, tree_peak_bytes
from kit.memory.unavailable import Unavailable
from kit.runtime import state as states
from kit.runtime.bounds import bounds_of
from kit.runtime.orphan import OWNER_VARIABLE, Orphan, orphaned_server, owner_of
from kit.runtime.packages import require_megatron_packages, require_native_packages
from kit.runtime.protocol import (
    Details,
    EngineName,
    Images,
    Launch,
    MemoryUse,
    Running,
    RuntimeName,
    ServeSpec,
)
from kit.runtime.state import Process, State
from kit.settings import api_key_file
from kit.units import MIB

SERVER_COMMAND = (sys.executable, "-m", "kit", "serve")
# The server ends its running answers within 10 s; the rest is for its last words.
GRACE_SECONDS = 15.0
_VARIABLES = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
# Two of them are kept: weeks of requests, and an archive that can be mailed.
_ROTATE_BYTES = 10 * MIB
# Nobody notices a tenth of a second.
_POLL_SECONDS = 0.1


class LocalRuntime:
    """One service as a process of this machine.

    ``server_command`` is what the arguments of :func:`serve_arguments` are appended to.
    """

    name: RuntimeName = "local"
    images: Images | None = None

    def __init__(
        self,
        state_dir: Path,
        *,
        server_command: Sequence[str] = SERVER_COMMAND,
        environ: Mapping[str, str] = os.environ,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._state_file = state_dir / states.FILE_NAME
        self.log_file = state_dir / states.LOG_NAME
        self._command = tuple(server_command)
        self._environ = environ
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None

    def require_installed(self, engine: EngineName = "native") -> None:
        """What the kit's own server imports is there; another program answers for itself."""
        if self._command == SERVER_COMMAND:
            require_native_packages()
            if engine == "megatron":
                require_megatron_packages()

    def require_vacancy(self) -> None:
        """Processes do not replace each other; that the port is free is looked at by itself."""

    def launch(self, spec: ServeSpec) -> Launch:
        """The server's command line. The API key travels in the environment."""
        return Launch((*self._command, *serve_arguments(spec)), _VARIABLES)

    def start(self, spec: ServeSpec) -> Running:
        """Start the server; its output goes to the log file.

        Raises:
            EnvironmentNotReady: the state folder cannot be written.
            ServiceError: the server's program cannot be started, or ended at once.
        """
        command = self.launch(spec).command
        log_offset = self._open_log(command)
        self._child = self._spawn(command)
        stat = process_stat(self._child.pid)
        if isinstance(stat, Unavailable):
            self._child.kill()
            raise ServiceError(
                f"the server's process cannot be watched: {stat.reason}", hint="mount /proc"
            )
        pid, ticks, boot_id = self._child.pid, stat.start_ticks, states.boot_id()
        process = Process(pid, ticks, boot_id, log_offset, command, bounds_of(pid))
        state = State("local", spec, time.time(), process=process)
        try:
            states.write(self._state_file, state)
        except KitError:
            self._child.kill()  # nobody would ever find it again
            self._child.wait()
            raise
        return self._running(state, process)

    def status(self) -> Running | None:
        """The service that the state file names."""
        state, process = self._read()
        return self._running(state, process) if state and process else None

    def stop(self) -> bool:
        """SIGTERM, a time of grace, then SIGKILL for the whole process group."""
        state = states.read(self._state_file)
        if state is not None and state.process is None:
            return False  # it is a container's
        process = state.process if state else None
        was_alive = process is not None and states.is_alive(process)
        if process is not None and was_alive:
            self._end(process)
        if self._child is not None:
            self._child.wait()
        with writing(self._state_file):
            self._state_file.unlink(missing_ok=True)
        return was_alive

    def logs(self, lines: int, *, follow: bool = False, this_run: bool = False) -> Iterator[str]:
        """The last ``lines`` lines of the log, then new ones as they come."""
        if not self.log_file.exists():
            return
        _, process = self._read()
        with self.log_file.open(encoding="utf-8", errors="replace") as file:
            if this_run and process is not None:
                file.seek(process.log_offset)
            yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
            while follow and process is not None and states.is_alive(process):
                yield from (line.rstrip("\n") for line in file)
                time.sleep(_POLL_SECONDS)
            if follow:
                yield from (line.rstrip("\n") for line in file)

    def details(self, running: Running) -> Details | None:
        """Its memory, with that of its descendants."""
        pids = self.processes()
        if isinstance(pids, Unavailable):
            return None
        found = [process_memory(pid) for pid in pids]
        known = [memory for memory in found if not isinstance(memory, Unavailable)]
        used = sum(memory.anonymous_bytes + memory.shared_bytes for memory in known)
        memory = MemoryUse(used, tree_peak_bytes(pids[0]), None)
        return Details(running.where, running.uptime_seconds, memory)

    def configuration(self) -> None:
        """Its command line is all there is."""

    def processes(self) -> tuple[int, ...] | Unavailable:
        """The server and its descendants."""
        _, process = self._read()
        if process is None:
            return Unavailable("nothing was started")
        return (process.pid, *descendants(process.pid))

    def orphan(self, port: int) -> Orphan | None:
        """A `kit serve` on ``port``."""
        return orphaned_server(port, owner_of(self._state_file.parent))

    def _read(self) -> tuple[State, Process] | tuple[None, None]:
        state = states.read(self._state_file)
        if state is None or state.process is None:
            return None, None
        return state, state.process

    def _end(self, process: Process) -> None:
        """End the process group of ``process``, its leader, which is alive."""
        _signal_group(process.pid, signal.SIGTERM)
        _signal_group(process.pid, signal.SIGCONT)  # one that is stopped would not hear it
        deadline = time.monotonic() + self._grace_seconds
        while states.is_alive(process) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        _signal_group(process.pid, signal.SIGKILL)  # the leader, or what it left behind
        while states.is_alive(process):
            time.sleep(_POLL_SECONDS)

    def _running(self, state: State, process: Process) -> Running:
        child = self._child if self._child and self._child.pid == process.pid else None
        alive = states.is_alive(process)
        code = child.wait() if child and not alive else None
        if code is not None and code < 0:
            code = 128 - code  # as shells write it: 137 is SIGKILL
        return Running(
            spec=state.spec,
            alive=alive,
            where=f"process {process.pid}",
            pid=process.pid,
            started_at=state.started_at,
            exit_code=Unavailable("started by an earlier command") if code is None else code,
            bounds=process.bounds,
        )

    def _open_log(self, command: Sequence[str]) -> int:
        """Begin a run in the log; returns its offset. A log that has grown long is set aside."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with writing(self.log_file):
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if self.log_file.stat().st_size > _ROTATE_BYTES:
                    self.log_file.replace(self.log_file.with_suffix(".log.1"))
            self.log_file.touch(mode=0o600)
            with self.log_file.open("ab") as file:
                offset = file.tell()
                file.write(f"--- {now} {' '.join(command)}\n".encode("utf-8", "surrogateescape"))
        return offset

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start ``command`` detached from this terminal, in the folder that holds the kit.

        Whatever the locale, the server reads its arguments and writes its log as UTF-8.
        """
        paths, options = command[: len(self._command) + 1], command[len(self._command) + 1 :]
        words = [*map(os.fsencode, paths), *(word.encode("utf-8") for word in options)]
        ours = {**_VARIABLES, OWNER_VARIABLE: owner_of(self._state_file.parent)}
        if (key_file := api_key_file(self._environ)) is not None:
            ours["KIT_API_KEY_FILE"] = str(key_file)  # as seen from here
        with self.log_file.open("ab") as log:
            try:
                return subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=Path(kit.__file__).parent.parent,
                    env={**self._environ, **ours},
                    start_new_session=True,
                )
            except OSError as error:
                raise ServiceError(
                    f"cannot start {command[0]}: {error.strerror}",
                    hint="install the kit again: make setup",
                ) from error


def serve_arguments(spec: ServeSpec) -> tuple[str, ...]:
    """The arguments of `kit serve` for ``spec``. The API key travels in the environment."""
    options = {
        "--engine": spec.engine if spec.engine != "native" else None,
        "--host": spec.host,
        "--port": spec.port,
        "--name": spec.name,
        "--context": spec.context,
        "--max-sequences": spec.max_sequences,
        "--device": spec.device,
        "--max-ram": in_bytes(spec.max_ram_bytes),
        "--max-vram": in_bytes(spec.max_vram_bytes),
    }
    given = {option: str(value) for option, value in options.items() if value is not None}
    return (str(spec.model_dir), *(part for option in given.items() for part in option))


def in_bytes(size_bytes: int | None) -> str | None:
    """A size as `kit serve` reads it back without loss."""
    return None if size_bytes is None else f"{size_bytes}B"


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in between, which is what we want
        os.killpg(group, number)
