"""Every check in the order in which it is shown; every adapter that observes a fact."""

import importlib

from kit.doctor.check import Check
from kit.doctor.checks import (
    disk,
    docker,
    gpu,
    image,
    machine,
    memory,
    network,
    python,
    state,
    torch,
)
from kit.doctor.facts import Facts
from kit.doctor.gather import Adapter, Look
from kit.doctor.request import Request


def look_in(module: str, function: str = "look") -> Look:
    """What observes: a function of one of this package's modules, imported when it is called.

    So what is broken there is one fact less, not the end of the doctor.
    """

    def look(request: Request, facts: Facts) -> object:
        found = importlib.import_module(f"kit.doctor.gather.{module}")
        return getattr(found, function)(request, facts)

    return look


ADAPTERS = (
    Adapter("machine", look_in("machine")),
    Adapter("interpreter", look_in("machine", "look_at_interpreter")),
    Adapter("nvidia", look_in("machine", "look_at_nvidia")),
    Adapter("torch", look_in("torch")),
    Adapter("memory", look_in("machine", "look_at_memory")),
    Adapter("clock", look_in("network", "look_at_clock")),
    Adapter("weights", look_in("weights")),
    Adapter("upstream", look_in("weights", "look_at_upstream")),
    Adapter("service", look_in("service")),
    Adapter("docker", look_in("docker")),
    Adapter("compose", look_in("docker", "look_at_compose"), seconds=20.0),
    Adapter("toolkit", look_in("toolkit")),
    Adapter("image", look_in("image"), after=("docker", "nvidia")),
    Adapter("probe", look_in("probe"), after=("docker", "nvidia"), seconds=70.0),
    Adapter("serving", look_in("serving"), after=("nvidia",)),
    Adapter("disk", look_in("disk"), after=("docker", "image")),
    Adapter("folders", look_in("disk", "look_at_folders")),
    Adapter("weights_sources", look_in("network", "look_at_weights_sources"), seconds=8.0),
    Adapter("index", look_in("network", "look_at_index"), seconds=8.0),
    Adapter("registry", look_in("network", "look_at_registry"), after=("docker",), seconds=8.0),
)


def needed(facts: set[str]) -> tuple[Adapter, ...]:
    """The adapters that observe ``facts``, and those that these build on, in their order."""
    by_fact = {adapter.fact: adapter for adapter in ADAPTERS}
    wanted: set[str] = set()
    wave = facts & by_fact.keys()
    while wave:
        wanted |= wave
        wave = {name for fact in wave for name in by_fact[fact].after} - wanted
    return tuple(adapter for adapter in ADAPTERS if adapter.fact in wanted)


CHECKS: tuple[Check, ...] = (
    machine.platform,
    machine.cpu,
    machine.wsl,
    python.version,
    python.environment,
    python.packages,
    gpu.driver,
    gpu.lost,
    gpu.may_be_used,
    gpu.memory,
    torch.build,
    torch.driver,
    torch.architecture,
    docker.engine,
    docker.kind,
    docker.compose,
    docker.toolkit,
    docker.runtime,
    docker.cdi,
    docker.cgroups,
    image.present,
    image.version,
    image.driver,
    image.architecture,
    memory.ram,
    memory.cgroup,
    memory.address_space,
    memory.locked,
    memory.shm,
    memory.vram_budget,
    memory.ram_budget,
    disk.weights,
    disk.docker,
    disk.writable,
    network.weights,
    network.index,
    network.registry,
    network.plausible,
    network.skew,
    state.settings,
    state.model,
    state.lock,
    state.weights,
    state.upstream,
    state.port,
    state.state,
    state.device,
)
