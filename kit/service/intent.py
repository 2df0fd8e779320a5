"""What `kit up` decides, from its options and the machine, before it starts anything."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import kit
from kit.containers.compose import container_user, require_self_contained
from kit.containers.docker import Engine
from kit.containers.wanted_image import WantedImage, torch_in, wanted_image
from kit.errors import EnvironmentNotReady
from kit.memory.budget import default_ram_budget
from kit.memory.plan.fit import serving_limits
from kit.memory.plan.line import Device, Plan, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import TorchBuild, installed_build
from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu, NoDriver
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import PROOF, Proof
from kit.runtime.client import Client, base_url
from kit.runtime.protocol import (
    EngineName,
    HostFacts,
    Image,
    ImageRef,
    Listener,
    Running,
    Runtime,
    RuntimeName,
    ServeSpec,
    choose_runtime,
    docker_engine_found,
)
from kit.service.model import Model, Wish, fitting, gpus_of, resolve, shape_of
from kit.settings import Settings, api_key_file

Examine = Callable[["Intent", Running | None, Mapping[str, str]], tuple[str, ...]]
"""Whether this machine can run what was decided, once a running service has made room for it:
warnings; what would end it badly is raised. The doctor stands above this room, and is handed in."""


@dataclass(frozen=True)
class UpOptions:
    """What the user asks `kit up` for; None is decided from the model and the machine.

    Attributes:
        settings: folders, address and budgets, the command line's flags applied.
        model: ``demo``, a model directory, or None.
        image: of the container; None is the one that this checkout makes.
        examine: asked before anything starts; None: nobody is.
        proof: how it has to pass its checks once it answers.
    """

    settings: Settings
    model: str | None = None
    name: str | None = None
    context: int | None = None
    max_sequences: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: EngineName = "native"
    runtime: Literal["auto", "local", "container"] = "auto"
    image: str | None = None
    timeout_seconds: float = 600.0
    examine: Examine | None = None
    proof: Proof = PROOF


@dataclass(frozen=True)
class Intent:
    """Everything that is decided before something is started.

    Attributes:
        image: that the container is made from.
        examine: asked before it is started; None: nobody is.
        proof: how it has to pass its checks once it answers.
        gpus: that the model is served on, in CUDA's order.
        ranks: processes that the model is cut over, see :func:`kit.service.model.gpus_of`.
    """

    settings: Settings
    runtime: RuntimeName
    model: Model
    shape: ModelShape
    spec: ServeSpec
    build: TorchBuild
    gpus: tuple[Gpu, ...]
    image: WantedImage | None = None
    timeout_seconds: float = 600.0
    examine: Examine | None = None
    proof: Proof = PROOF
    ranks: int = 1

    @cached_property
    def plan(self) -> Plan:
        """What serving takes, line by line."""
        return plan_of(self.spec, self.shape, self.build, self.ranks)

    @cached_property
    def client(self) -> Client:
        """A client of the service once it runs."""
        return Client(base_url(self.spec.host, self.spec.port), self.settings.api_key)

    def with_image(self, found: Image) -> "Intent":
        """The same, made from an image that is here: its torch decides the plan."""
        if self.image is None:
            return self
        spec = replace(self.spec, image=ImageRef(self.image.name, found.identity))
        build = torch_in(found, self.image.target)
        return replace(self, spec=spec, build=build).with_budget()

    def with_budget(self) -> "Intent":
        """The same, with what the settings promise; host RAM by the plan where they do not."""
        ram = self.settings.max_ram_bytes or default_ram_budget(self.plan.peak_bytes(Pool.HOST))
        vram = self.settings.max_vram_bytes if self.spec.device == "cuda" else None
        return replace(self, spec=replace(self.spec, max_ram_bytes=ram, max_vram_bytes=vram))


def plan_of(spec: ServeSpec, shape: ModelShape, build: TorchBuild, ranks: int) -> Plan:
    """The memory plan of ``spec``, for a model of that shape cut over so many processes."""
    return plan_serving(
        shape,
        context=spec.context,
        max_sequences=spec.max_sequences,
        device=spec.device,
        build=build,
        engine=spec.engine,
        ranks=ranks,
    )


def decide(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    environ: Mapping[str, str] = os.environ,
    *,
    dry: bool = False,
) -> Intent:
    """Decide everything; the demo may be converted for it, unless ``dry``.

    Raises:
        EnvironmentNotReady: no model, no GPU where one was asked for, or something that the
            service is run from is not installed.
        IntegrityError: the demo's or the model's files are damaged.
    """
    found = nvml.gpus()
    visible = () if isinstance(found, Unavailable) else nvml.visible(found, environ)
    facts = HostFacts(bool(visible), docker_engine_found(environ))
    runtime = choose_runtime(options.runtime, facts, set(runtimes))
    if options.device == "cuda" and not visible:
        raise _no_gpu(found)
    if options.device == "auto" and isinstance(found, NoDriver) and found.cause in _UNUSABLE:
        raise EnvironmentNotReady(
            f"there is a GPU, but it cannot be used: {found.reason}",
            hint="kit doctor says what to do; --device cpu serves without it",
        )
    device: Device = "cuda" if visible else "cpu"
    if options.device != "auto":
        device = options.device
    runtimes[runtime].require_installed(options.engine)
    settings = options.settings
    wish = Wish(
        options.model,
        settings.data_dir,
        bool(visible),
        options.engine,
        dry,
        settings.weights_catalogue,
        fitting(device, visible, settings.max_vram_bytes, options.context, options.max_sequences),
    )
    model = resolve(wish, listener)
    shape, ranks = shape_of(model, options.engine), gpus_of(model, options.engine)
    wanted = wanted_image(options.image, device, environ) if runtime == "container" else None
    intent = Intent(
        settings=settings,
        runtime=runtime,
        model=model,
        shape=shape,
        spec=_spec(options, runtime, model, shape, device),
        build=torch_in(None, wanted.target) if wanted else installed_build(),
        gpus=first_gpus(visible, ranks) if device == "cuda" else (),
        image=wanted,
        timeout_seconds=options.timeout_seconds,
        examine=options.examine,
        proof=options.proof,
        ranks=ranks,
    ).with_budget()
    return intent if wanted is None else _in_container(intent, wanted, environ)


def _spec(
    options: UpOptions, runtime: RuntimeName, model: Model, shape: ModelShape, device: Device
) -> ServeSpec:
    settings, wanted_sequences = options.settings, options.max_sequences
    if options.engine == "megatron":
        wanted_sequences = wanted_sequences or 1  # it generates one answer at a time
    context, sequences = serving_limits(shape, options.context, wanted_sequences)
    return ServeSpec(
        model_dir=model.directory,
        name=_unicode(options.name or model.name),
        host=settings.host,
        port=settings.port,
        context=context,
        max_sequences=sequences,
        device=device,
        api_key_digest=key_digest(settings.api_key),
        engine=options.engine,
        kit_version=kit.__version__ if runtime == "local" else None,
    )


def _in_container(intent: Intent, wanted: WantedImage, environ: Mapping[str, str]) -> Intent:
    """What a container needs besides: its GPU, its user, and the image, if that is here."""
    if intent.model.ready:
        require_self_contained(intent.model.directory)
    spec = replace(
        intent.spec,
        gpu=",".join(gpu.uuid for gpu in intent.gpus) or None,
        user=container_user(intent.model.directory, api_key_file(environ))
        if intent.model.ready
        else None,
    )
    found = Engine(environ).image(wanted.name)
    intent = replace(intent, spec=spec)
    return intent if found is None else intent.with_image(found)


def key_digest(api_key: str | None) -> str | None:
    """What identifies an API key, without giving it away."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16] if api_key else None


def first_gpus(visible: tuple[Gpu, ...], needed: int) -> tuple[Gpu, ...]:
    """The first of those that CUDA may use, one for each rank.

    Raises:
        EnvironmentNotReady: there are not so many.
    """
    if len(visible) < needed:
        raise EnvironmentNotReady(
            f"the checkpoint is cut for {needed} GPUs, and {len(visible)} can be used",
            hint="cut it anew with kit weights export --tp, or see CUDA_VISIBLE_DEVICES",
        )
    return visible[:needed]


_UNUSABLE = ("lost", "mismatch", "no permission")
"""Causes that only a machine with a GPU has: to serve on its CPU would be a surprise."""


def _no_gpu(found: tuple[Gpu, ...] | Unavailable) -> EnvironmentNotReady:
    if isinstance(found, Unavailable):
        why = found.reason
    else:
        why = "CUDA_VISIBLE_DEVICES hides them all" if found else "the machine has none"
    return EnvironmentNotReady(
        f"--device cuda, but no GPU can be used: {why}",
        hint="look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu",
    )


def _unicode(name: str) -> str:
    """``name`` with the bytes that the locale could not decode, if any, read as UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
