"""Which adapter observes which fact."""

from kit.doctor.facts import Docker, Facts
from kit.doctor.gather import (
    Adapter,
    clock,
    disk,
    docker,
    folders,
    image,
    interpreter,
    machine,
    memory,
    network,
    probe,
    service,
    serving,
    toolkit,
    torch,
    upstream,
    weights,
)
from kit.doctor.request import Request
from kit.memory import nvml
from kit.memory.unavailable import Unavailable
from kit.stack.compose import find_compose


def _probe(request: Request, facts: Facts) -> object:
    """A container is started only where there are an engine and a GPU, and one is wanted."""
    if request.decided is not None and request.decided.plan.device == "cpu":
        return Unavailable("it is to be served on the CPU")
    if not isinstance(facts.docker, Docker):
        return facts.docker
    if not isinstance(facts.nvidia, nvml.Nvidia) or not facts.nvidia.gpus:
        return Unavailable("there is no GPU to look for")
    return probe.look(request.environ)


ADAPTERS = (
    Adapter("machine", lambda request, facts: machine.look()),
    Adapter("interpreter", lambda request, facts: interpreter.look()),
    Adapter("nvidia", lambda request, facts: nvml.probe(), seconds=10.0),
    Adapter("torch", lambda request, facts: torch.look()),
    Adapter("memory", lambda request, facts: memory.look()),
    Adapter("clock", lambda request, facts: clock.look(request)),
    Adapter("weights", lambda request, facts: weights.look(request)),
    Adapter("upstream", lambda request, facts: upstream.look(request), seconds=20.0),
    Adapter("service", lambda request, facts: service.look(request), seconds=10.0),
    Adapter("docker", lambda request, facts: docker.look(request.environ), seconds=12.0),
    Adapter("compose", lambda request, facts: find_compose(request.environ), seconds=20.0),
    Adapter("toolkit", lambda request, facts: toolkit.look(request.environ)),
    Adapter("image", image.look, after=("docker", "nvidia"), seconds=12.0),
    Adapter("probe", _probe, after=("docker", "nvidia"), seconds=probe.SECONDS + 5),
    Adapter("serving", serving.look, after=("nvidia",)),
    Adapter("disk", disk.look, after=("docker", "image")),
    Adapter("folders", lambda request, facts: folders.look(request)),
    Adapter("weights_sources", network.look_at_weights_sources),
    Adapter("index", network.look_at_index, seconds=2 * network.SECONDS + 1),
    Adapter("registry", network.look_at_registry, after=("docker",)),
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
