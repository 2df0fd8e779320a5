"""The rank processes as the server sees them: started, told what to do, watched, ended."""

import contextlib
import fcntl
import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple
from multiprocessing.connection import Connection, wait
from pathlib import Path

from kit.serve.gpu import DeviceMemory
from kit.serve.megatron import launch
from kit.serve.megatron.messages import (
    Done,
    End,
    Failed,
    Forward,
    FromRank,
    Hello,
    Loaded,
    Progress,
    Task,
    ToRank,
)
from kit.serve.worker import EngineDied

_PREFIX = "kit-ranks-"


class MeetingPlace:
    """A new folder of this process in the system's folder for temporary files.

    Attributes:
        folder: readable for this user alone.
    """

    def __init__(self) -> None:
        _remove_stale()
        self._lock: int | None
        self.folder, self._lock = _new_folder()

    def remove(self) -> None:
        """Remove it. A second call changes nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _new_folder() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with contextlib.suppress(FileNotFoundError):  # another start removed it before the lock
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_stale() -> None:
    """Remove the folders of this user's servers that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or no folder
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


logger = logging.getLogger("kit.serve.megatron")

# A traceback of upstream's, which passes through DeepSpeed's launcher.
_LOG_LINES = 40
_ACCEPT_SECONDS = 0.2
# For a rank to end by itself once its socket is closed; then it is killed.
_END_SECONDS = 5.0
_NOTICE_SECONDS = 1.0
"""Until the end of a process is noticed that has made others fail."""
_LAUNCHER_SECONDS = 10.0
"""DeepSpeed's launcher looks once a second whether a rank has ended, and then says how."""


class Ranks:
    """The processes of one model.

    Args:
        count: how many.
        device: "cpu" or "cuda".
        on_death: called once, from a thread, when a rank has ended unasked.

    Attributes:
        rendezvous: a file by which they find each other.

    Raises:
        EngineDied: they could not be started.
    """

    def __init__(self, count: int, device: str, on_death: Callable[[EngineDied], None]) -> None:
        self._count = count
        self._on_death = on_death
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._arrived: queue.SimpleQueue[tuple[int, FromRank | EngineDied]] = queue.SimpleQueue()
        self._memory: dict[int, DeviceMemory | None] = {}
        self._stopping = threading.Lock()
        self._stopped = False
        self._dying = threading.Event()
        self._place = MeetingPlace()
        self.rendezvous = self._place.folder / "rendezvous"
        path = self._place.folder / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(count)
            listener.settimeout(_ACCEPT_SECONDS)
            self._process = _start(launch.command(count, device, path, os.environ), count, device)
            threading.Thread(target=self._pump_log, name="ranks-log", daemon=True).start()
            self._connections = self._accept(listener)
        threading.Thread(target=self._listen, name="ranks", daemon=True).start()

    def load(self, task: Task, progress: Callable[[str, float], None]) -> tuple[Loaded, ...]:
        """Let every rank load; returns what each has to say, in their order.

        Raises:
            KitError: a rank failed; all of them have ended then.
        """
        self._send(task)
        loaded: dict[int, Loaded] = {}
        while len(loaded) < self._count:
            rank, message = self._next()
            if isinstance(message, Loaded):
                loaded[rank] = message
                self._memory[rank] = message.memory
            elif isinstance(message, Progress) and rank == 0:
                progress(message.phase, message.fraction)
            elif isinstance(message, Failed):
                death = self._death_of_another()
                self._say_last_words()
                self._stop(orderly=False)
                raise death or message.error
        return tuple(loaded[rank] for rank in range(self._count))

    def forward(self, order: Forward) -> bytes:
        """Let every rank make the same forward pass; returns its scores, fp32 ``[vocab]``.

        Raises:
            KitError: it failed; a single rank can go on.
            EngineDied: a rank has ended or lost its GPU, or others could not follow one that
                failed.
        """
        self._send(order)
        done: dict[int, Done] = {}
        while len(done) < self._count:
            rank, message = self._next()
            if isinstance(message, Done):
                done[rank] = message
                self._memory[rank] = message.memory
            elif isinstance(message, Failed):
                death = self._death_of_another()
                self._say_last_words()
                if self._count == 1 and not isinstance(message.error, EngineDied):
                    raise message.error
                self._stop(orderly=False)
                own = EngineDied(f"rank {rank}: {message.error.message}", hint=message.error.hint)
                raise death or own
        return done[0].scores

    def device_memory(self) -> DeviceMemory | None:
        """torch's pools of all ranks added up; None on the CPU."""
        known = [memory for memory in self._memory.values() if memory is not None]
        if not known:
            return None
        return DeviceMemory(*map(sum, zip(*map(astuple, known), strict=True)))

    def close(self) -> None:
        """End all ranks: by request, then by force."""
        self._stop(orderly=True)

    def _stop(self, *, orderly: bool) -> int | None:
        """End all ranks, unless they have been; the exit code, if they ended by themselves.

        Args:
            orderly: ask them; else their connections end, which ends them wherever they are.
        """
        with self._stopping:
            if self._stopped:
                return None
            self._stopped = True
            if orderly:
                self._send(End())
            else:
                for connection in self._connections:
                    _hang_up(connection)
            code = _end(self._process, _END_SECONDS if orderly else _LAUNCHER_SECONDS)
            self._place.remove()
            return code

    def _accept(self, listener: socket.socket) -> list[Connection]:
        connections: dict[int, Connection] = {}
        while len(connections) < self._count:
            try:
                accepted, _ = listener.accept()
            except TimeoutError:
                if self._process.poll() is None:
                    continue
                self._say_last_words()
                self._place.remove()
                raise _died("a rank did not start", self._process.returncode) from None
            accepted.setblocking(True)
            connection = Connection(accepted.detach())
            with contextlib.suppress(EOFError):  # if it has ended, the process soon has, too
                connections[_rank_of(connection)] = connection
        return [connections[rank] for rank in range(self._count)]

    def _listen(self) -> None:
        """Hand on what the ranks send, until they are gone."""
        ranks = {connection: rank for rank, connection in enumerate(self._connections)}
        ended = os.pidfd_open(self._process.pid)  # becomes readable when it has, pidfd_open(2)
        while ranks:
            for ready in wait([*ranks, ended]):
                if not isinstance(ready, Connection):
                    self._lost("DeepSpeed's launcher" if self._count > 1 else "rank 0")
                    ranks.clear()
                    break
                try:
                    self._arrived.put((ranks[ready], ready.recv()))
                except (EOFError, OSError):
                    self._lost(f"rank {ranks.pop(ready)}")
        os.close(ended)

    def _lost(self, who: str) -> None:
        """One has ended: if unasked, end the others too, and say why."""
        if self._stopped:
            return
        self._dying.set()
        code = self._stop(orderly=False)
        self._say_last_words()
        death = _died(f"{who} ended unexpectedly", code)
        self._arrived.put((0, death))
        self._on_death(death)

    def _death_of_another(self) -> EngineDied | None:
        """When a rank has failed: the end of another one, if that is why."""
        if self._count == 1 or not self._dying.wait(_NOTICE_SECONDS):
            return None
        while True:
            _, message = self._arrived.get()
            if isinstance(message, EngineDied):
                return message

    def _next(self) -> tuple[int, FromRank]:
        rank, message = self._arrived.get()
        if isinstance(message, EngineDied):
            raise message
        return rank, message

    def _send(self, message: ToRank) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):  # who waits for the answer hears why there is none
                connection.send(message)

    def _pump_log(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            self._log.append(line.rstrip("\n"))
            logger.debug("rank | %s", line.rstrip("\n"))

    def _say_last_words(self) -> None:
        """Show the last lines that the ranks have written."""
        time.sleep(_ACCEPT_SECONDS)  # the lines may come a moment after the socket's end
        while self._log:
            logger.error("rank | %s", self._log.popleft())


def _rank_of(connection: Connection) -> int:
    """Who has connected.

    Raises:
        EOFError: it is gone already.
    """
    hello = connection.recv()
    assert isinstance(hello, Hello)  # noqa: S101
    return hello.rank


def _start(command: Sequence[str], count: int, device: str) -> "subprocess.Popen[str]":
    """In a session of its own: a terminal's Ctrl-C is for the server, which lets answers finish."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=launch.environment(count, device),
        start_new_session=True,
    )


def _hang_up(connection: Connection) -> None:
    """End the conversation. The descriptor stays: another thread may be about to write to it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same, contextlib.suppress(OSError):
        same.shutdown(socket.SHUT_RDWR)


def _end(process: "subprocess.Popen[str]", seconds: float) -> int | None:
    """Wait for the process, then kill whatever is left of its session.

    Returns the exit code of a process that has ended by itself.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    code = process.returncode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return code


def _died(what: str, code: int | None) -> EngineDied:
    return EngineDied(
        f"megatron engine: {what}{_cause(code)}",
        hint="its last lines are in the log; if they do not tell, the kernel may have killed it "
        "for memory: dmesg | tail",
    )


def _cause(code: int | None) -> str:
    """The exit code in words; DeepSpeed's launcher passes on a signal -N as 256 - N."""
    if not code:
        return ""
    number = -code if code < 0 else 256 - code
    if code < 0 or number < signal.NSIG:
        with contextlib.suppress(ValueError):
            return f": killed by {signal.Signals(number).name}"
    return f" with exit code {code}"
