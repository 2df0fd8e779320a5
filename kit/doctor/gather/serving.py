"""What `kit up` would serve here, the plan for it, and the room there is."""

from kit.doctor.facts import Facts, NotServable, Serving
from kit.doctor.request import Request
from kit.errors import KitError
from kit.memory.plan.fit import PRECISIONS, serving_limits
from kit.memory.plan.line import Plan
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.torch_build import installed_build
from kit.memory.probes.nvml import Gpu, Nvidia, visible
from kit.service.intent import first_gpus
from kit.service.missing_weights import WEIGHTS, WeightsMissing
from kit.service.model import Fits, Wish, fitting, gpus_of, resolve, shape_of
from kit.service.preflight import rooms
from kit.weights.catalogue import read_catalogue
from kit.weights.convert.record import Precision
from kit.weights.planned import architecture_of
from kit.weights.preflight import serving_plan

PRECISION: Precision = "bf16"
"""What `kit weights fetch --convert` makes where nobody says otherwise."""


class _Nobody:
    """A listener that does not listen."""

    def say(self, text: str) -> None: ...

    def progress(self, phase: str, fraction: float | None) -> None: ...


def look(request: Request, facts: Facts) -> Serving | NotServable:
    """The service that is about to start, or the one that `kit up` would start.

    Weights that are not here yet are planned for as the catalogue describes them.
    """
    if request.decided is not None:
        start = request.decided
        found = rooms(start.plan, start.build, start.gpus, start.freed)
        return Serving(start.name, True, start.plan, start.gpus, found, start.runtime)
    try:
        return _would_be(request, facts)
    except KitError as error:
        return NotServable(error.message, error.hint)
    except PermissionError as error:
        remedy = "let this user read it: chmod -R a+rX, also for the folders above it"
        return NotServable(f"{error.filename}: permission denied", remedy)


def usable_gpu(facts: Facts) -> Gpu | None:
    """The GPU that CUDA would use first."""
    return next(iter(_usable_gpus(facts)), None)


def _usable_gpus(facts: Facts) -> tuple[Gpu, ...]:
    if not isinstance(facts.nvidia, Nvidia):
        return ()
    return visible(facts.nvidia.gpus, facts.environ)


def _would_be(request: Request, facts: Facts) -> Serving:
    wanted = request.wanted
    visible_gpu = usable_gpu(facts)
    gpu = None if wanted.device == "cpu" else visible_gpu
    data_dir, has_gpu = request.settings.data_dir, visible_gpu is not None
    fits = fitting(
        "cpu" if gpu is None else "cuda",
        () if gpu is None else (gpu,),
        request.settings.max_vram_bytes,
        wanted.context,
        wanted.max_sequences,
    )
    try:
        wish = Wish(
            wanted.model,
            data_dir,
            has_gpu,
            wanted.engine,
            dry=True,
            catalogue=request.settings.weights_catalogue,
            fits=fits,
        )
        model = resolve(wish, _Nobody())
    except WeightsMissing:
        precision, plan = _plan_of_catalogue(request, gpu, fits)
        cards = () if gpu is None else (gpu,)
        return _serving(f"{WEIGHTS} in {precision}", plan, cards, real=True)
    shape = shape_of(model, wanted.engine)
    one = 1 if wanted.engine == "megatron" else None  # it generates one answer at a time
    context, sequences = serving_limits(shape, wanted.context, wanted.max_sequences or one)
    ranks = gpus_of(model, wanted.engine)
    gpus = () if gpu is None else first_gpus(_usable_gpus(facts), ranks)
    plan = plan_serving(
        shape,
        context=context,
        max_sequences=sequences,
        device="cpu" if gpu is None else "cuda",
        build=installed_build(),
        engine=wanted.engine,
        ranks=ranks,
    )
    return _serving(model.name, plan, gpus, real=not model.demo)


def _plan_of_catalogue(request: Request, gpu: Gpu | None, fits: Fits) -> tuple[Precision, Plan]:
    """In the best precision that fits, as `kit up --model NAME` chooses it, else the smallest."""
    weights = read_catalogue(request.settings.weights_catalogue).find(WEIGHTS)
    if weights.shape is None:
        raise LookupError(f"the catalogue does not know the shape of {WEIGHTS}")
    known = architecture_of(weights.shape)
    found = (each for each in PRECISIONS if fits(known.at(each)))
    precision = next(found, PRECISIONS[-1])
    plan = serving_plan(weights, precision, on_gpu=gpu is not None)
    assert plan is not None  # noqa: S101  (its shape is known)
    return precision, plan


def _serving(name: str, plan: Plan, gpus: tuple[Gpu, ...], *, real: bool) -> Serving:
    return Serving(name, real, plan, gpus, rooms(plan, installed_build(), gpus))
