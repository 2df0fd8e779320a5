"""What the Docker engine and Compose complain of, in plain words and with what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import EnvironmentNotReady, KitError, ServiceError


@dataclass(frozen=True)
class _Complaint:
    """If one of ``marks`` stands in what Docker said (in any case), this is what it means."""

    marks: tuple[str, ...]
    what: str
    hint: str


_TOOLKIT = (
    "install NVIDIA Container Toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker "
    "&& sudo systemctl restart docker (Docker from snap cannot use GPUs: install Docker's own); "
    "or do without containers: --runtime local"
)
_COMPLAINTS = (
    _Complaint(
        ("permission denied while trying to connect", "permissionerror(13"),
        "this user may not talk to the Docker engine",
        "sudo usermod -aG docker $USER, then log in again; or use --runtime local",
    ),
    _Complaint(
        (
            "cannot connect to the docker daemon",
            "couldn't connect to docker daemon",
            "is the docker daemon running",
            "error during connect",
            "error while fetching server api version",
        ),
        "the Docker engine does not answer",
        "start it: sudo systemctl start docker (docker info shows whether it runs, and "
        "DOCKER_HOST where it is looked for); or use --runtime local",
    ),
    _Complaint(
        ("is not a docker command", "unknown command: docker compose"),
        "docker has no compose plugin",
        "install the package docker-compose-plugin",
    ),
    _Complaint(
        ("invoking the nvidia container runtime hook directly",),
        "NVIDIA Container Toolkit is set to a mode in which Docker cannot ask it for GPUs",
        "sudo nvidia-ctk config --in-place --set nvidia-container-runtime.mode=legacy "
        "&& sudo systemctl restart docker",
    ),
    _Complaint(
        ("could not select device driver", "nvidia-container-runtime-hook"),
        "the Docker engine cannot hand out NVIDIA GPUs",
        _TOOLKIT,
    ),
    _Complaint(
        ("driver/library version mismatch",),
        "the NVIDIA driver was updated and the old one is still loaded",
        "restart the machine, or unload and load the nvidia kernel modules",
    ),
    _Complaint(
        ("unsatisfied condition: cuda", "driver version is insufficient"),
        "the NVIDIA driver is too old for the image",
        "update it: the image needs 525 or newer (CUDA 12)",
    ),
    _Complaint(
        ("nvidia-container-cli", "failed to discover gpu", "cdi device injection failed"),
        "the container could not be given its GPU",
        "look at nvidia-smi; after a driver update: sudo systemctl restart docker",
    ),
    _Complaint(
        ("port is already allocated", "address already in use", "ports are not available"),
        "the port is taken",
        "stop what holds it, or choose another one: kit up --port",
    ),
    _Complaint(
        ("bind source path does not exist",),
        "the Docker engine does not see the model's directory",
        "it must be on the engine's own machine, and Docker Desktop must share it",
    ),
    _Complaint(
        ("no space left on device",),
        "the disk that Docker keeps its data on is full",
        "see docker system df, and make room: docker image prune",
    ),
    _Complaint(
        ("unauthorized", "authentication required", "access denied", "access to the resource"),
        "the registry does not give this image to you",
        "log in: docker login; and check the name in KIT_IMAGE",
    ),
    _Complaint(
        ("manifest unknown", "manifest for", "not found: manifest", "no such image"),
        "there is no such image",
        "check the name and tag in KIT_IMAGE, or leave it out to have the image built",
    ),
    _Complaint(
        ("x509", "certificate"),
        "the registry's certificate is not trusted",
        "put its authority into /etc/docker/certs.d/REGISTRY/ca.crt",
    ),
    _Complaint(
        (
            "no such host",
            "i/o timeout",
            "dial tcp",
            "network is unreachable",
            "connection refused",
            "context deadline",
        ),
        "the registry cannot be reached",
        "check the network and the engine's proxy; or bring the image in by docker load",
    ),
    _Complaint(
        ("non-overlapping ipv4", "address pools"),
        "Docker has no network addresses left",
        "remove networks that nobody uses: docker network prune",
    ),
    _Complaint(
        ("iptables",),
        "Docker cannot set up the network",
        "after a change of the firewall: sudo systemctl restart docker",
    ),
    _Complaint(
        ('exec: "kit"', "no such file or directory: unknown"),
        "the image is not one of spark-kit",
        "check KIT_IMAGE; make image builds one",
    ),
)


def explain(doing: str, said: Sequence[str]) -> KitError:
    """The error to raise when ``doing`` failed and Docker ``said`` why, line by line.

    What the machine lacks is an EnvironmentNotReady, everything else a ServiceError.
    """
    for complaint in _COMPLAINTS:
        marked = (line for line in said if any(mark in line.lower() for mark in complaint.marks))
        if (line := next(marked, None)) is not None:
            return EnvironmentNotReady(
                f"{doing} failed: {complaint.what} ({line.strip()})", hint=complaint.hint
            )
    last = next((line.strip() for line in reversed(said) if line.strip()), "it did not say why")
    return ServiceError(f"{doing} failed: {last}", hint="see docker info and docker ps -a")
