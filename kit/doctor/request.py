"""What the doctor is asked to look at."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kit.errors import KitError, UsageError
from kit.memory.plan.line import Plan
from kit.memory.plan.torch_build import TorchBuild
from kit.memory.probes.nvml import Gpu
from kit.runtime.protocol import EngineName, Runtime, RuntimeName
from kit.service.preflight import NOTHING, Freed
from kit.settings import Settings


@dataclass(frozen=True)
class Decided:
    """What `kit up` is about to start.

    Attributes:
        name: of the model, for messages.
        gpus: that it will be served on, a rank each; none: on the CPU.
        build: of the torch that will serve it.
        freed: what the service that is replaced will have given back by then.
    """

    name: str
    plan: Plan
    build: TorchBuild
    gpus: tuple[Gpu, ...]
    runtime: RuntimeName
    freed: Freed = NOTHING


@dataclass(frozen=True)
class Wanted:
    """What `kit up` would be asked for; None is decided from the model and the machine."""

    model: str | None = None
    engine: EngineName = "native"
    context: int | None = None
    max_sequences: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Request:
    """Where to look, and at what.

    Attributes:
        offline: leave the network alone.
        decided: what is about to be started; None: the doctor works out what would be.
        runtimes: that `kit up` may choose from, for the state of the service.
        settings_problem: a setting that cannot be understood; the others are in effect.
    """

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    wanted: Wanted = Wanted()
    offline: bool = False
    decided: Decided | None = None
    runtimes: Mapping[RuntimeName, Runtime] = field(default_factory=dict)
    settings_problem: KitError | None = None


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, KitError | None]:
    """The settings; where one cannot be understood, the defaults for all but the folders."""
    try:
        return Settings.from_environ(environ), None
    except UsageError as error:
        kept = {name: environ[name] for name in _PLACES if name in environ}
        return Settings.from_environ(kept), error


_PLACES = ("HOME", "KIT_DATA_DIR", "KIT_STATE_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME")
