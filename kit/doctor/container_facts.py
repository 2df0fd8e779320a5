"""What was observed of torch, of the Docker engine, and of how containers come by the GPU."""

from dataclasses import dataclass
from pathlib import Path

from kit.memory.unavailable import Unavailable

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
