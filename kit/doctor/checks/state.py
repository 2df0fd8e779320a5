"""Areas ``kit`` and ``service``: the kit's own files, and what runs."""

from kit.commands import command
from kit.doctor.check import check, known
from kit.doctor.facts import Facts, NotServable
from kit.doctor.finding import Evidence, Finding, failure, many, passed, size, skipped, warning
from kit.settings import authority


@check("kit.settings", "the KIT_ variables can be understood", reads=["settings_problem"])
def settings(facts: Facts) -> Finding:
    """What every other command would refuse to start with."""
    problem = facts.settings_problem
    if problem is None:
        return passed("every KIT_ variable can be understood")
    return failure(
        problem,
        Evidence("environment", problem, "a value as the README's table describes"),
        remedy="correct the variable, or unset it; the defaults were used for this run",
    )


@check("kit.model", "what kit up would be asked for can be served", reads=["serving"])
def model(facts: Facts) -> Finding:
    """The model's directory, its format, and the limits asked for."""
    serving = facts.serving
    if isinstance(serving, NotServable):
        seen = Evidence("kit up", serving.reason, "a model that can be served")
        return failure(serving.reason, seen, remedy=serving.remedy)
    plan = known(serving).plan
    where = "the GPU" if plan.device == "cuda" else "the CPU"
    limits = f"{plan.context} tokens of context, {plan.max_sequences} at once"
    return passed(f"{known(serving).name} on {where}, {limits}")


@check("kit.lock", "kit.lock and the bundled demo are sound", reads=["weights"])
def lock(facts: Facts) -> Finding:
    """The kit's lock, the user's, and the demo's files against them."""
    found = known(facts.weights)
    problem = found.lock_problem or found.demo_problem
    if problem is not None:
        return failure(
            problem,
            Evidence("kit.lock", problem, "readable, and the demo as it says"),
            remedy="git checkout -- kit.lock demo, or install the kit again; your own lock: from "
            "a copy",
        )
    return passed("kit.lock is sound, the demo is as it says")


@check("kit.weights", "what was fetched or converted is whole", reads=["weights"])
def weights(facts: Facts) -> Finding:
    """By sizes and records; `kit weights verify` reads every byte."""
    found = known(facts.weights)
    if found.catalogue_problem:
        return failure(
            found.catalogue_problem,
            Evidence("KIT_WEIGHTS_CATALOGUE", found.catalogue_problem, "a catalogue"),
            remedy="write it as docs/weights.md says, or unset KIT_WEIGHTS_CATALOGUE",
        )
    if found.damaged:
        seen = "files missing, cut short or damaged"
        return failure(
            "a converted directory is not whole",
            *(Evidence(str(path), seen, "whole") for path in found.damaged),
            remedy=f"convert it again; see {command('kit weights verify', found.damaged[0])}",
        )
    if found.old_code:
        return warning(
            "a converted directory has the code of an older kit, which can give wrong text in a "
            "newer transformers",
            *(Evidence(str(path), "older code", "this kit's") for path in found.old_code),
            remedy=f"renew it: {command('kit weights refresh', found.old_code[0])}",
        )
    if found.unfinished:
        name, here, total = found.unfinished[0]
        return warning(
            f"the download of {name} was not finished",
            Evidence("data folder", f"{size(here)} here", f"{size(total)}" if total else "all"),
            remedy=f"go on with it: kit weights fetch {name}",
        )
    models = [path for path in found.converted if not path.name.startswith("demo-")]
    if not models:
        return passed("none yet but the demo")
    return passed(f"{many(len(models), 'model')}: {', '.join(path.name for path in models)}")


@check("kit.upstream", "upstream's tree, if it is here, is what the kit makes", reads=["upstream"])
def upstream(facts: Facts) -> Finding:
    """Needed by the megatron engine only."""
    tree = known(facts.upstream)
    if tree.state == "absent":
        return skipped("not here; only --engine megatron needs it")
    if tree.problem is None:
        return passed(f"{tree.path}: rewritten, as kit.lock says")
    say = failure if tree.state == "drifted" else warning
    seen = Evidence(str(tree.path), tree.state, "rewritten, every file as kit.lock says")
    return say(tree.problem, seen, remedy=tree.remedy or "make it again: kit upstream render")


@check("service.port", "the port is free, or the kit's own", reads=["service"])
def port(facts: Facts) -> Finding:
    """KIT_HOST and KIT_PORT."""
    found = known(facts.service)
    where = authority(found.host, found.port)
    if found.port_problem is None:
        return passed(f"{where} is free" if found.state == "stopped" else f"{where} is the kit's")
    return failure(
        found.port_problem,
        Evidence(where, found.port_problem, "free"),
        remedy=found.port_remedy or "choose another one: KIT_PORT",
    )


@check("service.state", "what was started runs", reads=["service"])
def state(facts: Facts) -> Finding:
    """As `kit status` sees it."""
    found = known(facts.service)
    if found.state in ("failed", "silent", "dead"):
        return failure(
            found.detail,
            Evidence("kit status", found.state, "ready, loading or stopped"),
            remedy="read kit logs; start it again: kit up",
        )
    return passed(found.detail if found.state != "stopped" else "nothing runs")


@check(
    "service.device",
    "the service uses the GPU, where there is one",
    reads=["service", "serving"],
    requires=["gpu.visible"],
)
def device(facts: Facts) -> Finding:
    """A service that fell back to the CPU answers, slowly."""
    found = known(facts.service)
    if found.device is None:
        return skipped("no service is ready")
    if found.device == "cpu":
        return warning(
            "the service computes on the CPU, and CUDA could use a GPU",
            Evidence("/health/ready", "device cpu", "device cuda"),
            remedy="start it again with kit up --device cuda; see torch.build and docker.toolkit",
        )
    return passed(f"device {found.device}")
