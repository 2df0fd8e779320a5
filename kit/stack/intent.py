"""What `kit up` decides, from its options and the machine, before it starts anything."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kit.errors import EnvironmentNotReady
from kit.memory import nvml
from kit.memory.hold import Budget, default_ram_budget
from kit.memory.limits import serving_limits
from kit.memory.nvml import Gpu
from kit.memory.plan import Device, Plan, Pool, plan_serving
from kit.memory.shape import read_shape
from kit.memory.torch_build import TorchBuild, installed_build
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from kit.stack.listener import Listener
from kit.stack.model import Model, resolve
from kit.stack.runtime import (
    HostFacts,
    Runtime,
    RuntimeName,
    ServeSpec,
    choose_runtime,
    docker_engine_found,
)
from kit.stack.service import Service, base_url


@dataclass(frozen=True)
class UpOptions:
    """What the user asks `kit up` for; None is decided from the model and the machine.

    Attributes:
        settings: folders, address and budgets, the command line's flags applied.
        model: ``demo``, a converted model directory, or None.
        preflight: refuse to start what does not fit into free memory.
    """

    settings: Settings
    model: str | None = None
    name: str | None = None
    context: int | None = None
    max_sequences: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "local", "container"] = "auto"
    timeout_seconds: float = 600.0
    preflight: bool = True


@dataclass(frozen=True)
class Intent:
    """Everything that is decided before something is started."""

    options: UpOptions
    runtime: RuntimeName
    model: Model
    spec: ServeSpec
    plan: Plan
    build: TorchBuild
    gpu: Gpu | None

    @property
    def budget(self) -> Budget:
        """What the measured peaks may not pass."""
        settings = self.options.settings
        vram = settings.max_vram_bytes if self.spec.device == "cuda" else None
        return Budget(
            settings.max_ram_bytes or default_ram_budget(self.plan.peak_bytes(Pool.HOST)), vram
        )

    def service(self) -> Service:
        """A client of the service once it runs."""
        return Service(base_url(self.spec.host, self.spec.port), self.options.settings.api_key)


def decide(
    options: UpOptions,
    runtimes: Mapping[RuntimeName, Runtime],
    listener: Listener,
    environ: Mapping[str, str],
) -> Intent:
    """Decide everything; the demo may be converted for it.

    Raises:
        EnvironmentNotReady: no model, no GPU where one was asked for, or the server is not
            installed.
        IntegrityError: the demo's or the model's files are damaged.
    """
    found = nvml.gpus()
    visible = () if isinstance(found, Unavailable) else nvml.visible(found, environ)
    facts = HostFacts(bool(visible), docker_engine_found(environ))
    choice = choose_runtime(options.runtime, facts, set(runtimes))
    if choice.note:
        listener.say(choice.note)
    if options.device == "cuda" and not visible:
        raise _no_gpu(found)
    device: Device = "cuda" if visible else "cpu"
    if options.device != "auto":
        device = options.device
    runtimes[choice.runtime].require_installed()
    model = resolve(options.model, options.settings.data_dir, bool(visible), listener)
    shape = read_shape(model.directory)
    context, sequences = serving_limits(shape, options.context, options.max_sequences)
    settings, key = options.settings, options.settings.api_key
    spec = ServeSpec(
        model_dir=model.directory,
        name=_unicode(options.name or model.name),
        host=settings.host,
        port=settings.port,
        context=context,
        max_sequences=sequences,
        device=device,
        api_key_digest=hashlib.sha256(key.encode()).hexdigest()[:16] if key else None,
    )
    build = installed_build()
    plan = plan_serving(shape, context=context, max_sequences=sequences, device=device, build=build)
    gpu = visible[0] if device == "cuda" else None
    return Intent(options, choice.runtime, model, spec, plan, build, gpu)


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
