"""Area ``image``: the kit's container image is here, is this kit's, and suits driver and GPU."""

import kit
from kit.doctor.check import check, known
from kit.doctor.checks.torch import judge_architecture, judge_driver
from kit.doctor.facts import Facts, Image
from kit.doctor.finding import Evidence, Finding, passed, skipped, warning

_BUILD = "build it: make image; or name one that is here with KIT_IMAGE"


@check(
    "image.present",
    "the engine has the image",
    reads=["image"],
    requires=["docker.engine"],
)
def present(facts: Facts) -> Finding:
    """No problem if not: `kit up` brings it."""
    image = known(facts.image)
    if image.present:
        return passed(image.wanted)
    brings = "pulls" if image.named else "builds"
    return skipped(f"{image.wanted} is not here; kit up {brings} it where it runs a container")


@check(
    "image.version",
    "the image was made by this version of the kit and its rewrites",
    reads=["image"],
    requires=["image.present"],
)
def version(facts: Facts) -> Finding:
    """By the image's labels."""
    image = known(facts.image)
    if image.kit_version is None:
        return skipped(f"{image.wanted} does not say which kit made it")
    differing = tuple(_differences(image))
    if differing:
        return warning(f"{image.wanted} was made by another kit", *differing, remedy=_BUILD)
    return passed(f"made by spark-kit {image.kit_version}, with its rewrites of upstream")


def _differences(image: Image) -> list[Evidence]:
    found = []
    if image.kit_version != kit.__version__:
        found.append(Evidence("label version", str(image.kit_version), kit.__version__))
    expected = image.expected_rewrites
    if isinstance(expected, str) and image.rewrites != expected:
        shown = (image.rewrites or "none")[:12]
        found.append(Evidence("label upstream.rewrites", shown, expected[:12]))
    return found


@check(
    "image.driver",
    "the driver is new enough for the image's CUDA",
    reads=["image", "nvidia"],
    requires=["docker.engine", "gpu.driver"],
)
def driver(facts: Facts) -> Finding:
    """Known before the image is built."""
    return judge_driver(known(known(facts.image).torch), known(facts.nvidia))


@check(
    "image.architecture",
    "the image's torch has kernels for the GPU's architecture",
    reads=["image", "nvidia", "environ"],
    requires=["docker.engine", "gpu.visible"],
)
def architecture(facts: Facts) -> Finding:
    """Known before the image is built."""
    torch = known(known(facts.image).torch)
    return judge_architecture(torch, known(facts.nvidia), facts.environ)
