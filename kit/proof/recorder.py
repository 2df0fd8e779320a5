"""Samples what a running service takes of memory, from its start until it ends."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

from kit.errors import EnvironmentNotReady, KitError
from kit.memory.probes import nvml
from kit.memory.probes.proc import ProcessMemory, descendants, process_memory
from kit.memory.timeline import Run, Sample, Timeline, TimelineWriter
from kit.memory.unavailable import Unavailable
from kit.proof.measure import DeviceUse
from kit.runtime.client import Client, Failed, Health, Loading, Ready
from kit.runtime.postmortem import Lived
from kit.runtime.protocol import Runtime
from kit.units import MIB

# Ten looks a second: a look costs milliseconds, and the spikes of loading last longer.
SAMPLE_SECONDS = 0.1
IDLE_SECONDS = 1.0
"""While nothing changes, a sample this often is kept."""
_CHANGE_BYTES = MIB
# Asking Docker costs more than a look at /proc, and processes change seldom.
_ASK_RUNTIME_SECONDS = 1.0
_PHASES = {"startup": "starting"}
_Host = tuple[int, int, int, int]
"""Private, shared, mapped and peak bytes."""


class Recorder:
    """Looks at the processes of ``runtime``'s service in a thread of its own; a context manager.

    Args:
        runtime: says which processes the service has.
        service: says in which phase it is, and how large torch's pool.
        run: what the timeline is of.
        writer: is given the samples that are kept.
        device_use: measures VRAM.
        on_sample: called with every sample, kept or not.

    Attributes:
        ended: set once the service has ended, or can no longer be looked at.
    """

    def __init__(
        self,
        runtime: Runtime,
        client: Client,
        run: Run,
        *,
        writer: TimelineWriter | None = None,
        device_use: DeviceUse | None = None,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> None:
        self.ended = threading.Event()
        self._address_space_peak_bytes = 0
        self._pids: set[int] = set()
        self._tree = _Tree(runtime)
        self._client, self._run, self._writer = client, run, writer
        self._device_use = None if run.device == "cpu" else device_use or DeviceUse()
        self._on_sample = on_sample
        self._asked: str | None = None
        self._phase = "starting"
        self._ready: Ready | None = None
        self._kept: list[Sample] = []
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._record, name="recorder", daemon=True),
            threading.Thread(target=self._ask, name="recorder-health", daemon=True),
        ]

    def __enter__(self) -> "Recorder":
        self._ask_once()  # it may be serving already
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more. A question to the service that waits for its answer is not waited for."""
        self._stop.set()
        self._threads[0].join()

    def phase(self, name: str | None) -> None:
        """From now on samples are of this phase; None: of that which the service tells.

        One is taken at once: a phase shorter than the time between two samples has one, too.
        """
        self._asked = name
        self._take_sample()

    def timeline(self) -> Timeline:
        """What has been kept so far."""
        return Timeline(self._run, tuple(self._kept))

    def lived(self) -> Lived:
        """What has been seen so far, in case the service dies."""
        return Lived(self.timeline(), self._address_space_peak_bytes, frozenset(self._pids))

    def _record(self) -> None:
        due = time.monotonic()
        with nvml.kept_open() if self._device_use else nullcontext():
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + SAMPLE_SECONDS, time.monotonic())
                if not self._take_sample():
                    break
        self.ended.set()

    def _take_sample(self) -> bool:
        """Take a sample; False: the service has ended."""
        with self._looking:
            pids = self._tree.pids()
            if pids is None:
                return False
            if (sample := self._sample(pids)) is not None:
                self._add(sample)
        return True

    def _ask(self) -> None:
        while not self._stop.is_set() and not self.ended.wait(SAMPLE_SECONDS):
            self._ask_once()

    def _ask_once(self) -> None:
        health = self._client.health()
        self._phase = _phase(health) or self._phase
        self._ready = health if isinstance(health, Ready) else self._ready

    def _sample(self, pids: tuple[int, ...] | Unavailable) -> Sample | None:
        host = self._told() if isinstance(pids, Unavailable) else self._look(pids)
        if host is None:
            return None
        device = self._device_use.measure(pids) if self._device_use else None
        return Sample(
            round(time.monotonic() - self._begin, 3),
            self._asked or self._phase,
            *host,
            device_bytes=device if isinstance(device, int) else None,
            pool_bytes=self._ready.device_reserved_bytes if self._ready else None,
        )

    def _look(self, pids: tuple[int, ...]) -> _Host | None:
        """The processes' memory together; None: they have just ended."""
        found = [m for pid in pids if isinstance(m := process_memory(pid), ProcessMemory)]
        if not found:
            return None
        spaces = (memory.address_space_peak_bytes for memory in found)
        self._address_space_peak_bytes = max(self._address_space_peak_bytes, *spaces)
        self._pids.update(pids)
        return (
            sum(memory.anonymous_bytes for memory in found),
            sum(memory.shared_bytes for memory in found),
            sum(memory.file_bytes for memory in found),
            sum(memory.peak_bytes for memory in found),
        )

    def _told(self) -> _Host | None:
        """What the service says of itself, where its processes cannot be seen; None: not yet."""
        ready = self._ready
        if ready is None or ready.host_private_bytes is None:
            return None
        return (
            ready.host_private_bytes,
            0,
            ready.host_mapped_bytes or 0,
            ready.host_peak_bytes or 0,
        )

    def _add(self, sample: Sample) -> None:
        if self._on_sample is not None:
            self._on_sample(sample)
        if self._kept and not is_news(self._kept[-1], sample):
            return
        self._kept.append(sample)
        if self._writer is not None:
            self._writer.add(sample)


@contextmanager
def recording(
    path: Path,
    run: Run,
    runtime: Runtime,
    client: Client,
    *,
    device_use: DeviceUse | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> Iterator[Recorder]:
    """A recorder at work that keeps its samples in a new file, until the block ends.

    Raises:
        EnvironmentNotReady: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise EnvironmentNotReady(
            f"the timeline cannot be written: {path}: {error.strerror}",
            hint="name another place, or set KIT_STATE_DIR to a folder that can be written",
        ) from error
    with (
        file,
        Recorder(
            runtime,
            client,
            run,
            writer=TimelineWriter(file, run),
            device_use=device_use,
            on_sample=on_sample,
        ) as recorder,
    ):
        yield recorder


def is_news(last: Sample, sample: Sample) -> bool:
    """Whether ``sample`` is kept: it is of another phase, differs by a MiB, or a second passed."""
    if sample.phase != last.phase or sample.seconds - last.seconds >= IDLE_SECONDS:
        return True
    return any(
        abs((now or 0) - (then or 0)) >= _CHANGE_BYTES
        for now, then in zip(_sizes(sample), _sizes(last), strict=True)
    )


def _sizes(sample: Sample) -> tuple[int | None, ...]:
    return (
        sample.private_bytes,
        sample.shared_bytes,
        sample.mapped_bytes,
        sample.device_bytes,
        sample.pool_bytes,
    )


def _phase(health: Health) -> str | None:
    """The phase's name in a timeline; None: it does not say, or is not up yet."""
    match health:
        case Ready():
            return "serving"
        case Loading(phase, _):
            return _PHASES.get(phase, phase)
        case Failed():
            return "failed"
    return None


class _Tree:
    """The processes of a service, of which an engine is asked no more often than need be."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._root: int | Unavailable = Unavailable("not looked for yet")
        self._ask_at = 0.0

    def pids(self) -> tuple[int, ...] | Unavailable | None:
        """Its first process and the descendants of that; None: it has ended."""
        now = time.monotonic()
        if now >= self._ask_at or not _lives(self._root):
            self._ask_at = now + _ASK_RUNTIME_SECONDS
            try:
                running = self._runtime.status()
            except KitError:
                return None
            if running is None or not running.alive:
                return None
            self._root = running.pid
        root = self._root
        return root if isinstance(root, Unavailable) else (root, *descendants(root))


def _lives(root: int | Unavailable) -> bool:
    """Whether the process is there; one that cannot be seen is taken to be."""
    return isinstance(root, Unavailable) or isinstance(process_memory(root), ProcessMemory)
