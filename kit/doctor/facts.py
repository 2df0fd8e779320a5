"""What was observed of the machine: plain frozen data, which the checks judge.

Every field of :class:`Facts` has a default, so that a machine is written down as a literal:
``Facts(nvidia=Nvidia("580.65.06", (13, 0), (gpu,)))``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from kit.containers.compose import ComposeProgram
from kit.errors import KitError
from kit.memory.plan.line import Plan
from kit.memory.probes.nvml import Gpu, Nvidia
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.runtime.protocol import RuntimeName

Version = tuple[int, int]
NOT_ASKED = Unavailable("it was not asked for")


@dataclass(frozen=True)
class Torch:
    """A build of torch.

    Attributes:
        cuda: of which CUDA; None: it can use the CPU only.
        architectures: that it has kernels for, as torch names them (``sm_90``, ``compute_90``).
        source: where the architectures were read.
    """

    version: str
    cuda: Version | None
    architectures: tuple[str, ...] | Unavailable
    source: str


@dataclass(frozen=True)
class Docker:
    """The engine that the docker command talks to.

    Attributes:
        cgroup_driver: ``cgroupfs`` or ``systemd``.
        root: where it keeps images.
        snap: whether it came as a snap.
        runtimes: names of its OCI runtimes.
        registries: addresses that it pulls from: mirrors first.
        remote: whether it is on another machine, of which no file can be seen from here.
        cdi_folders: where it looks for CDI specifications; empty: CDI is off.
        containerd: whether that stores the images, in a folder of its own.
    """

    version: str
    cgroup_driver: str = "cgroupfs"
    root: Path = Path("/var/lib/docker")
    rootless: bool = False
    snap: bool = False
    runtimes: tuple[str, ...] = ("runc",)
    registries: tuple[str, ...] = ()
    remote: bool = False
    cdi_folders: tuple[Path, ...] = ()
    containerd: bool = False


@dataclass(frozen=True)
class NoDocker(Unavailable):
    """No engine answers. ``remedy`` is None where there is no sign of one."""

    remedy: str | None


@dataclass(frozen=True)
class CdiSpec:
    """A CDI description of NVIDIA devices, and the driver version that it names libraries of."""

    path: Path
    driver: str | None


@dataclass(frozen=True)
class Toolkit:
    """NVIDIA Container Toolkit, as its files on this machine say.

    Attributes:
        version: of nvidia-ctk; None: it is not installed.
        hook: whether nvidia-container-runtime-hook is installed, which ``--gpus`` starts.
        mode: how nvidia-container-runtime brings GPUs in: ``auto``, ``legacy``, ``cdi``.
        no_cgroups: whether it leaves device rules alone, as rootless Docker needs.
        specs: CDI specifications for NVIDIA devices.
        device_links: whether /dev/char has the links that keep GPUs through a daemon-reload.
    """

    version: str | None
    hook: bool
    mode: str
    no_cgroups: bool
    specs: tuple[CdiSpec, ...]
    device_links: bool


@dataclass(frozen=True)
class ProbeRun:
    """A container that was started to look for GPUs.

    Attributes:
        image: it was run from; None: there is none here that could be.
        command: the line that was run, to be run again by hand.
        gpus: UUIDs that nvidia-smi named inside.
        error: what the engine or the container wrote on stderr.
    """

    image: str | None
    command: str
    exit_code: int
    gpus: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Image:
    """The kit's image.

    Attributes:
        wanted: its name.
        present: whether the engine has it.
        kit_version, rewrites: what its labels say it was made of.
        expected_rewrites: digest of the rewrites that this kit makes.
        named: whether ``KIT_IMAGE`` names it; else it is the one that this checkout makes.
        torch: the build inside, as far as it is known.
    """

    wanted: str
    present: bool
    kit_version: str | None = None
    rewrites: str | None = None
    expected_rewrites: str | Unavailable = NOT_ASKED
    torch: Torch | Unavailable = NOT_ASKED
    named: bool = False


@dataclass(frozen=True)
class Machine:
    """Kernel and hardware.

    Attributes:
        kernel: release, such as ``6.8.0-45-generic``.
        libc: name and version, such as ``("glibc", (2, 36))``.
        cpu_flags: of the first CPU, as /proc/cpuinfo spells them; empty where it lists none.
        wsl: version of the Windows Subsystem for Linux; None: it is not.
        container: what kind of container this runs in; None: none that can be told.
        nvidia_cards: PCI addresses of NVIDIA's display and compute controllers.
        nvidia_module: version of the loaded kernel module; None: it is not loaded.
        nouveau: whether the free driver for NVIDIA cards is loaded, with which CUDA cannot run.
    """

    kernel: str
    arch: str
    libc: tuple[str, Version] | Unavailable
    cpus: int
    cpu_flags: frozenset[str]
    wsl: Literal[1, 2] | None = None
    container: str | None = None
    nvidia_cards: tuple[str, ...] = ()
    nvidia_module: str | None = None
    nouveau: bool = False


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the kit, and the local server.

    Attributes:
        virtual: whether it is that of a virtual environment.
        lacking: what the native engine imports and is not installed, as `kit serve` says it.
    """

    version: tuple[int, int, int]
    executable: str
    virtual: bool
    lacking: KitError | None = None


@dataclass(frozen=True)
class HostMemory:
    """RAM, what may be locked of it (None: all), and what is free of /dev/shm."""

    total_bytes: int
    locked_bytes: int | None
    shm_free_bytes: int | Unavailable


@dataclass(frozen=True)
class Serving:
    """What is to be served, the plan for it, and the room there is.

    Attributes:
        name: of the model, for messages.
        real: whether it is more than the demo.
        gpus: that it would be served on, a rank each; none: on the CPU.
        runtime: that it would be served by, where that has been decided.
        rooms: each limit that stands before the plan.
    """

    name: str
    real: bool
    plan: Plan
    gpus: tuple[Gpu, ...]
    rooms: tuple[Room, ...]
    runtime: RuntimeName | None = None


@dataclass(frozen=True)
class NotServable(Unavailable):
    """The model that is named cannot be served so; ``remedy`` as `kit up` words it."""

    remedy: str


@dataclass(frozen=True)
class Disk:
    """Room on disk.

    Attributes:
        weights: what fetching and converting the catalogue's chat weights would still write;
            empty: they are here, or another model is served.
        docker: what the image would still take in the engine's folder; None: it is here.
    """

    weights: tuple[Room, ...]
    docker: Room | Unavailable | None


@dataclass(frozen=True)
class Folders:
    """The kit's folders. ``unwritable`` are those that it cannot write to, with the reason."""

    unwritable: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Reply:
    """How an address answered.

    Attributes:
        url: without credentials, query and fragment.
        why: what made the kit ask this one: a setting's name, or ``default``.
        problem: None: it answered.
        server_ahead_seconds: its clock against ours, by the Date header.
    """

    url: str
    why: str
    problem: str | None
    server_ahead_seconds: float | Unavailable = NOT_ASKED


@dataclass(frozen=True)
class Clock:
    """This machine's clock. ``not_before`` must lie in the past, by ``because``."""

    now: datetime
    not_before: datetime
    because: str


@dataclass(frozen=True)
class WeightsFolder:
    """The data folder.

    Attributes:
        unfinished: sets whose fetch was begun and not finished: name, bytes here, bytes in all.
        damaged: converted directories from which something is missing, or whose record is damaged.
        converted: whole converted directories.
        old_code: those of them whose code is an older kit's.
        lock_problem: what is wrong with the lock in effect.
        catalogue_problem: what is wrong with a catalogue of one's own.
        demo_problem: what is wrong with the bundled demo.
    """

    unfinished: tuple[tuple[str, int, int | None], ...] = ()
    damaged: tuple[Path, ...] = ()
    converted: tuple[Path, ...] = ()
    old_code: tuple[Path, ...] = ()
    lock_problem: str | None = None
    catalogue_problem: str | None = None
    demo_problem: str | None = None


@dataclass(frozen=True)
class UpstreamTree:
    """Upstream's rewritten tree. ``problem`` is None where it is what this kit makes."""

    path: Path
    state: Literal["absent", "rewritten", "outdated", "drifted"]
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class ServiceState:
    """What runs, and who holds the port.

    Attributes:
        state: as `kit status` names it.
        device: that a ready service says it computes on; None: none is ready.
        port_problem: why the port cannot be bound; None: it can, or the service itself holds it.
    """

    host: str
    port: int
    state: str
    detail: str
    device: str | None = None
    port_problem: str | None = None
    port_remedy: str | None = None


@dataclass(frozen=True)
class Budgets:
    """What the settings allow (``KIT_MAX_VRAM``, ``KIT_MAX_RAM``); None: the plan decides."""

    max_vram_bytes: int
    max_ram_bytes: int | None


@dataclass(frozen=True)
class Facts:
    """All of it. What was not looked at, or could not be seen, is Unavailable."""

    machine: Machine | Unavailable = NOT_ASKED
    interpreter: Interpreter | Unavailable = NOT_ASKED
    nvidia: Nvidia | Unavailable = NOT_ASKED
    torch: Torch | Unavailable = NOT_ASKED
    docker: Docker | Unavailable = NOT_ASKED
    compose: ComposeProgram | Unavailable = NOT_ASKED
    toolkit: Toolkit | Unavailable = NOT_ASKED
    probe: ProbeRun | Unavailable = NOT_ASKED
    image: Image | Unavailable = NOT_ASKED
    memory: HostMemory | Unavailable = NOT_ASKED
    serving: Serving | Unavailable = NOT_ASKED
    disk: Disk | Unavailable = NOT_ASKED
    folders: Folders | Unavailable = NOT_ASKED
    weights_sources: tuple[Reply, ...] | Unavailable = NOT_ASKED
    index: Reply | Unavailable = NOT_ASKED
    registry: Reply | Unavailable = NOT_ASKED
    clock: Clock | Unavailable = NOT_ASKED
    weights: WeightsFolder | Unavailable = NOT_ASKED
    upstream: UpstreamTree | Unavailable = NOT_ASKED
    service: ServiceState | Unavailable = NOT_ASKED
    budgets: Budgets | Unavailable = NOT_ASKED
    settings_problem: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
