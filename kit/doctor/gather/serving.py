"""What `kit up` would serve here, the plan for it, and the room there is."""

import json
from pathlib import Path

from kit.doctor.facts import Facts, Serving
from kit.doctor.request import Request
from kit.lock import read_lock
from kit.memory.limits import serving_limits
from kit.memory.nvml import Gpu, Nvidia, visible
from kit.memory.plan import Plan, plan_serving
from kit.memory.shape import ModelShape, read_shape
from kit.memory.torch_build import installed_build
from kit.settings import bundled
from kit.stack.model import DEMO
from kit.stack.preflight import rooms
from kit.weights.catalogue import read_catalogue
from kit.weights.folder import converted_dir
from kit.weights.locate import CHECKPOINT_NAME
from kit.weights.preflight import serving_plan
from kit.weights.record import Precision, read_record

CHAT = "spark-13b-chat"
PRECISION: Precision = "bf16"
"""What the README's commands fetch and serve where nobody says otherwise."""


def look(request: Request, facts: Facts) -> Serving:
    """The service that is about to start, or the one that `kit up` would start.

    Raises:
        KitError: the model that is named cannot be served.
    """
    if request.decided is not None:
        wish = request.decided
        found = rooms(wish.plan, wish.build, wish.gpu, wish.freed)
        return Serving(wish.name, "kit up", True, wish.plan, wish.gpu, found, wish.runtime)
    gpu = usable_gpu(facts)
    model = request.model or request.environ.get("KIT_MODEL")
    if model == DEMO or (model is None and gpu is None):
        return _planned(DEMO, "demo/config.json", _demo_shape(), gpu, real=False)
    if model is not None:
        directory = Path(model).expanduser().absolute()
        return _planned(directory.name, str(directory), read_shape(directory), gpu)
    directory = converted_dir(request.settings.data_dir, CHAT, PRECISION)
    if read_record(directory) is not None:
        return _planned(directory.name, str(directory), read_shape(directory), gpu)
    return _from_catalogue(request, gpu)


def usable_gpu(facts: Facts) -> Gpu | None:
    """The GPU that CUDA would use first."""
    if not isinstance(facts.nvidia, Nvidia):
        return None
    return next(iter(visible(facts.nvidia.gpus, facts.environ)), None)


def _planned(
    name: str, known_by: str, shape: ModelShape, gpu: Gpu | None, *, real: bool = True
) -> Serving:
    context, sequences = serving_limits(shape)
    plan = plan_serving(
        shape,
        context=context,
        max_sequences=sequences,
        device="cpu" if gpu is None else "cuda",
        build=installed_build(),
    )
    return _serving(name, known_by, plan, gpu, real)


def _from_catalogue(request: Request, gpu: Gpu | None) -> Serving:
    weights = read_catalogue(request.settings.weights_catalogue).find(CHAT)
    plan = serving_plan(weights, PRECISION, on_gpu=gpu is not None)
    if plan is None:
        raise LookupError(f"the catalogue does not know the shape of {CHAT}")
    return _serving(f"{CHAT} in {PRECISION}", "the catalogue", plan, gpu, True)


def _serving(name: str, known_by: str, plan: Plan, gpu: Gpu | None, real: bool) -> Serving:
    return Serving(name, known_by, real, plan, gpu, rooms(plan, installed_build(), gpu))


def _demo_shape() -> ModelShape:
    """The demo's, without converting it: its weights take what its checkpoint takes, or less."""
    config = json.loads((bundled(DEMO) / "config.json").read_bytes())
    locked = read_lock(bundled("kit.lock")).weights[DEMO]
    checkpoint = next(entry for file, entry in locked.items() if file.endswith(CHECKPOINT_NAME))
    return ModelShape(
        layers=config["num_layers"],
        hidden=config["hidden_size"],
        intermediate=config["ffn_hidden_size"],
        vocabulary=config["vocab_size"],
        max_context=config["max_position_embeddings"],
        window=config["localsize"],
        dtype_bytes=2,
        weights_bytes=checkpoint.size_bytes,
    )
