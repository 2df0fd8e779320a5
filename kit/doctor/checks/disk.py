"""Area ``disk``: room for what is still to come, and folders that can be written to."""

from kit.doctor.check import check, known
from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, failure, passed, size, warning
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable


@check("disk.weights", "room for the 53 GB download and its conversion", reads=["disk", "serving"])
def weights(facts: Facts) -> Finding:
    """A failure where the real model is to be served, else a warning."""
    rooms = known(facts.disk).weights
    if not rooms:
        return passed("no weights have to be fetched")
    short = [room for room in rooms if room.problem]
    if not short:
        return passed("; ".join(f"{_free(room)}, {size(room.need_bytes)} needed" for room in rooms))
    real = not isinstance(facts.serving, Unavailable) and facts.serving.real
    say = failure if real else warning
    seen = [Evidence(room.what, _free(room), f"{size(room.need_bytes)} free") for room in short]
    return say("not enough disk for iFlytekSpark-13B", *seen, remedy=short[0].remedy)


@check("disk.docker", "room for the image", reads=["disk"], requires=["docker.engine"])
def docker(facts: Facts) -> Finding:
    """In the engine's own folder."""
    found = known(facts.disk).docker
    if found is None:
        return passed("the image is here already")
    room = known(found)
    if room.problem:
        return warning(
            "not enough disk to build the image",
            Evidence(room.what, _free(room), f"{size(room.need_bytes)} free (assumed)"),
            remedy=room.remedy,
        )
    return passed(f"{_free(room)}, {size(room.need_bytes)} needed (assumed)")


@check("disk.writable", "the kit's folders can be written to", reads=["folders"])
def writable(facts: Facts) -> Finding:
    """Data and state."""
    refused = known(facts.folders).unwritable
    if refused:
        return failure(
            "the kit cannot write to its folders",
            *(Evidence(str(path), reason, "writable") for path, reason in refused),
            remedy="give this user the folder, or choose others: KIT_DATA_DIR, KIT_STATE_DIR",
        )
    return passed("data and state folder")


def _free(room: Room) -> str:
    return f"{size(room.free_bytes)} free"
