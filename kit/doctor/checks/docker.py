"""Area ``docker``: the engine, Compose, and how containers come by the GPU."""

import re

from kit.containers.compose import OLDEST
from kit.doctor.check import check, known
from kit.doctor.facts import Docker, Facts, NoDocker, Toolkit
from kit.doctor.finding import Evidence, Finding, dotted, failure, many, passed, skipped, warning
from kit.memory.unavailable import Unavailable

_INSTALL_DOCKER = "install Docker Engine: https://docs.docker.com/engine/install"


def _wants_container(facts: Facts) -> bool:
    return not isinstance(facts.serving, Unavailable) and facts.serving.runtime == "container"


@check("docker.engine", "a Docker engine answers", reads=["docker", "serving"])
def engine(facts: Facts) -> Finding:
    """Without one, `kit up` runs a local process."""
    found = facts.docker
    if isinstance(found, Docker):
        return passed(f"Docker {found.version}, images in {found.root}")
    remedy = found.remedy if isinstance(found, NoDocker) else "look at docker info"
    if remedy is None and not _wants_container(facts):
        return skipped(f"{found.reason}; kit up runs a local process")
    say = failure if _wants_container(facts) else warning
    seen = Evidence("Docker engine", found.reason, "an engine that answers")
    return say("the Docker engine cannot be used", seen, remedy=remedy or _INSTALL_DOCKER)


@check(
    "docker.kind",
    "an engine on this machine that can reach its GPU: no snap, rootless configured",
    reads=["docker", "toolkit"],
    requires=["docker.engine"],
)
def kind(facts: Facts) -> Finding:
    """Kinds of Docker with which GPUs are known to fail."""
    found = known(facts.docker)
    if found.remote:
        return warning(
            "the engine is on another machine, of whose GPU and disk nothing is seen from here",
            Evidence("DOCKER_HOST", facts.environ.get("DOCKER_HOST", ""), "an engine here"),
            remedy="run kit doctor there; a model folder has to be on that machine, too",
        )
    if found.snap:
        return warning(
            "Docker is a snap: it sees neither the GPU's libraries nor folders outside /home",
            Evidence("docker info", f"root {found.root}", "Docker's own packages"),
            remedy="sudo snap remove docker, then https://docs.docker.com/engine/install",
        )
    if found.rootless and not isinstance(facts.toolkit, Unavailable) and facts.toolkit.version:
        if not facts.toolkit.no_cgroups and not facts.toolkit.specs:
            return warning(
                "rootless Docker may not set device rules, so --gpus fails",
                Evidence("nvidia-container-runtime/config.toml", "no-cgroups is off", "on"),
                remedy="sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place",
            )
        return passed("rootless, and the toolkit leaves device rules alone")
    return passed("rootless" if found.rootless else "Docker's own packages, as root")


@check(
    "docker.compose",
    "a Compose that can ask for GPUs",
    reads=["compose", "serving"],
    requires=["docker.engine"],
)
def compose(facts: Facts) -> Finding:
    """The plugin, or docker-compose of the last version before it."""
    found = facts.compose
    if not isinstance(found, Unavailable):
        return passed(f"{' '.join(found.command)} {dotted(found.version)}")
    say = failure if _wants_container(facts) else warning
    return say(
        "there is no Docker Compose that the kit can use",
        Evidence("docker compose version", found.reason, f"{dotted(OLDEST)} or later"),
        remedy="install the package docker-compose-plugin (or docker-compose-v2)",
    )


@check(
    "docker.toolkit",
    "a container that asks for GPUs gets them (one is started)",
    reads=["probe", "nvidia", "serving", "environ"],
    requires=["docker.engine", "gpu.driver"],
)
def toolkit(facts: Facts) -> Finding:
    """The proof of NVIDIA Container Toolkit, which a local process does without."""
    probe, nvidia = known(facts.probe), known(facts.nvidia)
    if probe.image is None:
        return skipped(f"no image is here to try it with; by hand: {probe.command}")
    unused = facts.environ.get("KIT_RUNTIME") == "local" and not _wants_container(facts)
    say = warning if unused else failure
    expected = f"nvidia-smi names {many(len(nvidia.gpus), 'GPU')}"
    if probe.exit_code != 0:
        lines = [line.strip() for line in probe.error.splitlines()]
        seen = Evidence(probe.command, lines[0] if lines else "nothing", expected)
        what, remedy = _explain(probe.error)
        return say(f"containers get no GPU: {what}", seen, remedy=remedy)
    if not probe.gpus:
        seen = Evidence(probe.command, "it names none", expected)
        return say("containers get no GPU", seen, remedy=_INSTALL)
    return passed(f"a container sees {many(len(probe.gpus), 'GPU')} ({probe.image})")


_INSTALL = (
    "install nvidia-container-toolkit (https://docs.nvidia.com/datacenter/cloud-native), then: "
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)
_EXPLANATIONS = (
    ("could not select device driver", "the engine knows no NVIDIA runtime", _INSTALL),
    (
        "unresolvable CDI device",
        "its CDI files are missing or stale",
        "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    ),
    (
        "driver/library version mismatch",
        "library and kernel module differ in version",
        "reboot: the driver was upgraded and the old one is still loaded",
    ),
    (
        "libnvidia-ml.so",
        "the toolkit does not find the driver's libraries",
        "sudo ldconfig, then try again; with Docker as a snap, install Docker's own packages",
    ),
    (
        "bpf_prog_query",
        "the toolkit may not set device rules",
        "upgrade nvidia-container-toolkit; rootless Docker needs no-cgroups, see docker.kind",
    ),
    (
        "nvidia-smi",
        "the toolkit did not bring nvidia-smi in",
        f"update it; {_INSTALL}",
    ),
)


def _explain(error: str) -> tuple[str, str]:
    """What an error of the engine or the toolkit means, and the remedy."""
    for mark, what, remedy in _EXPLANATIONS:
        if mark.lower() in error.lower():
            return what, remedy
    return "see the error", _INSTALL


@check(
    "docker.runtime",
    "NVIDIA Container Toolkit is installed and the engine knows of it",
    reads=["toolkit", "docker", "probe"],
    requires=["docker.engine", "gpu.driver"],
)
def runtime(facts: Facts) -> Finding:
    """Its programs and configuration; what a container really got counts more."""
    found, docker = known(facts.toolkit), known(facts.docker)
    text = f"toolkit {found.version or 'of another kind'}, mode {found.mode}"
    if not isinstance(facts.probe, Unavailable) and facts.probe.gpus:
        return passed(text)
    if found.version is None and not found.hook:
        return warning(
            "NVIDIA Container Toolkit is not installed",
            Evidence("PATH", "neither nvidia-ctk nor nvidia-container-runtime-hook", "both"),
            remedy=_INSTALL,
        )
    if "nvidia" not in docker.runtimes and not (docker.cdi_folders and found.specs):
        return warning(
            "the engine has neither the nvidia runtime nor CDI files",
            Evidence("docker info", f"runtimes {', '.join(docker.runtimes)}", "nvidia among them"),
            remedy="sudo nvidia-ctk runtime configure --runtime=docker && "
            "sudo systemctl restart docker",
        )
    return passed(text)


@check(
    "docker.cdi",
    "CDI files, if there are any, are of the running driver",
    reads=["toolkit", "nvidia"],
    requires=["docker.engine", "gpu.driver"],
)
def cdi(facts: Facts) -> Finding:
    """They name the driver's libraries by version, and go stale when it is upgraded."""
    found, nvidia = known(facts.toolkit), known(facts.nvidia)
    if not found.specs:
        return skipped("there are no CDI files for NVIDIA devices")
    stale = [spec for spec in found.specs if spec.driver not in (None, nvidia.driver)]
    if stale:
        path = stale[0].path
        return warning(
            f"{path} is of driver {stale[0].driver}",
            Evidence(str(path), f"libcuda.so.{stale[0].driver}", f"libcuda.so.{nvidia.driver}"),
            remedy=f"sudo nvidia-ctk cdi generate --output={path}",
        )
    return passed(", ".join(str(spec.path) for spec in found.specs))


@check(
    "docker.cgroups",
    "containers keep their GPU when systemd reloads",
    reads=["docker", "toolkit"],
    requires=["docker.engine", "gpu.driver"],
)
def cgroups(facts: Facts) -> Finding:
    """With the systemd cgroup driver, `systemctl daemon-reload` takes away what runc put in.

    See https://github.com/NVIDIA/nvidia-docker/issues/1730.
    """
    docker, toolkit = known(facts.docker), known(facts.toolkit)
    if toolkit.version is None and not toolkit.hook:
        return skipped("there is no NVIDIA Container Toolkit whose GPUs could be lost")
    if docker.cgroup_driver != "systemd":
        return passed(f"cgroup driver {docker.cgroup_driver}")
    by_cdi = toolkit.mode == "cdi" or _hands_out_by_cdi(docker, toolkit)
    if by_cdi or toolkit.device_links:
        why = "CDI" if by_cdi else "links in /dev/char"
        return passed(f"cgroup driver systemd, with {why}")
    return warning(
        "`systemctl daemon-reload` will take the GPU away from running containers",
        Evidence("docker info", "cgroup driver systemd", "cgroupfs, or devices known to systemd"),
        Evidence("/dev/char", "no link for NVIDIA's devices", "links, or CDI mode"),
        remedy="sudo nvidia-ctk system create-dev-char-symlinks --create-all (after every boot), "
        'or "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json',
    )


def _hands_out_by_cdi(docker: Docker, toolkit: Toolkit) -> bool:
    """From 29.2 on the engine does, where it finds CDI files: systemd knows their devices."""
    found = re.match(r"(\d+)\.(\d+)", docker.version)
    new = found is not None and (int(found[1]), int(found[2])) >= (29, 2)
    return new and bool(docker.cdi_folders) and bool(toolkit.specs)
