"""Services that passed their checks: remembered, and decided anew as they ran."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import kit
from kit.containers.compose import container_user, require_self_contained
from kit.containers.docker import Engine
from kit.containers.wanted_image import torch_in
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.line import Plan
from kit.memory.plan.torch_build import TorchBuild, installed_build
from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import PROOF, Proof
from kit.records import read_object
from kit.runtime.protocol import RuntimeName, ServeSpec
from kit.runtime.state import read_spec, spec_record, write_record
from kit.service.intent import Examine, Intent, key_digest, plan_of
from kit.service.model import gpus_of, model_at, shape_of
from kit.settings import Settings, api_key_file

FILE_NAME = "history.json"
_VERSION = 1
# Each keeps a name for its image: a rollback goes one back, seldom two.
_MOST = 5


@dataclass(frozen=True)
class Proven:
    """A service that was ready, answered, and stayed within its budget."""

    runtime: RuntimeName
    spec: ServeSpec


def read_history(state_dir: Path) -> tuple[Proven, ...]:
    """The proven services. What this version does not understand is left out."""
    try:
        content = read_object(state_dir / FILE_NAME)
        entries = content["proven"] if content["version"] == _VERSION else []
        return tuple(Proven(entry["runtime"], read_spec(entry["spec"])) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def remember(state_dir: Path, proven: Proven) -> None:
    """Make ``proven`` the newest entry.

    Raises:
        EnvironmentNotReady: the state folder cannot be written.
    """
    known = read_history(state_dir)
    earlier = [entry for entry in known if _settings(entry.spec) != _settings(proven.spec)]
    entries = [
        {"runtime": entry.runtime, "spec": spec_record(entry.spec)}
        for entry in (proven, *earlier)[:_MOST]
    ]
    write_record(state_dir / FILE_NAME, {"version": _VERSION, "proven": entries})


def before(state_dir: Path, spec: ServeSpec) -> Proven | None:
    """The newest proven service of other settings than ``spec``; None: there is none."""
    known = read_history(state_dir)
    found = (entry for entry in known if _settings(entry.spec) != _settings(spec))
    return next(found, None)


def _settings(spec: ServeSpec) -> ServeSpec:
    """All but the kit's own version: an earlier one cannot be run from here."""
    return replace(spec, kit_version=None)


def recall(
    proven: Proven,
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    *,
    timeout_seconds: float = 600.0,
    proof: Proof = PROOF,
    examine: Examine | None = None,
    to_run: bool = True,
) -> Intent:
    """The intent to run ``proven`` as it ran, with the API key that the settings have now.

    Args:
        proof: how it has to pass its checks once it answers.
        examine: asked before it is started.
        to_run: off, where it is only looked at: its image may be gone, and the plan is then the
            one for the larger build of torch.

    Raises:
        EnvironmentNotReady: its image, its model or its GPU is not here any more.
        UsageError: it asked for an API key, and there is none now.
    """
    spec = replace(proven.spec, api_key_digest=_key(proven.spec, settings))
    if proven.runtime == "local":
        spec = replace(spec, kit_version=kit.__version__)  # there is no other here
    if not spec.model_dir.is_dir():
        raise EnvironmentNotReady(
            f"{spec.model_dir} is not there any more", hint="name another model: kit up --model DIR"
        )
    if proven.runtime == "container" and to_run:
        require_self_contained(spec.model_dir)
        if (key_file := api_key_file(environ)) is not None:
            spec = replace(spec, user=container_user(spec.model_dir, key_file))
    model = model_at(spec.model_dir)
    ranks = gpus_of(model, spec.engine)
    return Intent(
        settings=settings,
        runtime=proven.runtime,
        model=model,
        shape=shape_of(model, spec.engine),
        spec=spec,
        build=_build(proven, environ, required=to_run),
        gpus=_gpus(spec, ranks, environ),
        timeout_seconds=timeout_seconds,
        examine=examine,
        proof=proof,
        ranks=ranks,
    )


def recall_plan(proven: Proven, environ: Mapping[str, str] = os.environ) -> Plan:
    """The memory plan of ``proven``.

    Raises:
        KitError: its image or its model's files are not here any more, or damaged.
    """
    model, engine = model_at(proven.spec.model_dir), proven.spec.engine
    shape, ranks = shape_of(model, engine), gpus_of(model, engine)
    return plan_of(proven.spec, shape, _build(proven, environ, required=True), ranks)


def _build(proven: Proven, environ: Mapping[str, str], *, required: bool) -> TorchBuild:
    spec = proven.spec
    if proven.runtime == "local" or spec.image is None:
        return installed_build()
    found = Engine(environ).image(spec.image.identity)
    if found is None and required:
        raise EnvironmentNotReady(
            f"the image {spec.image.name} as it was ({spec.image.identity[:19]}) is not here "
            "any more",
            hint="bring it back with docker pull or docker load, or start anew: kit up",
        )
    return torch_in(found, "cuda" if spec.device == "cuda" else "cpu")


def _key(spec: ServeSpec, settings: Settings) -> str | None:
    if spec.api_key_digest and not settings.api_key:
        raise UsageError(
            "the service asks for an API key, and none is set here",
            hint="set KIT_API_KEY or KIT_API_KEY_FILE (a new one takes effect with this command)",
        )
    return key_digest(settings.api_key)


def _gpus(spec: ServeSpec, ranks: int, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that a container had; a process gets the first that CUDA may use, one a rank."""
    if spec.device == "cpu":
        return ()
    found = nvml.gpus()
    visible = () if isinstance(found, Unavailable) else nvml.visible(found, environ)
    if spec.gpu is not None:
        named = spec.gpu.split(",")
        visible = tuple(gpu for gpu in visible if gpu.uuid in named)
    if not visible:
        raise EnvironmentNotReady(
            "the GPU that it ran on cannot be used", hint="look at nvidia-smi; or: kit up"
        )
    return visible if spec.gpu else visible[:ranks]
