"""Areas ``memory`` and ``budget``: host memory, its limits, and what the settings allow."""

from kit.doctor.check import check, known
from kit.doctor.facts import Facts, Serving
from kit.doctor.finding import Evidence, Finding, failure, less, passed, size, skipped, warning
from kit.memory.plan.line import Pool
from kit.memory.room import Limit, Room
from kit.memory.unavailable import Unavailable
from kit.units import KIB, MIB

# The kernel's own default of old; pinned memory of CUDA is not counted here.
_LOCKED_BYTES = 64 * KIB
_SHM = "/dev/shm"  # noqa: S108  (a name in messages)
_SHM_BYTES = 64 * MIB
"""Docker's default for a container; the kit passes no tensors through it."""


@check("memory.ram", "the plan fits into free RAM", reads=["serving", "memory"])
def ram(facts: Facts) -> Finding:
    """MemAvailable against the plan."""
    serving = known(facts.serving)
    room = _room(serving, "ram")
    if room is None:
        return skipped("the plan asks for none")
    total = known(facts.memory).total_bytes
    return _judge(room, serving, "/proc/meminfo", f"{size(room.free_bytes)} of {size(total)} free")


@check("memory.cgroup", "the plan fits under the control group's limit", reads=["serving"])
def cgroup(facts: Facts) -> Finding:
    """A container's or a service's memory limit."""
    serving = known(facts.serving)
    room = _room(serving, "cgroup")
    if room is None:
        return passed("no memory limit on this control group")
    return _judge(room, serving, room.what, f"{size(room.free_bytes)} free")


@check("memory.address-space", "the plan fits under ulimit -v and -d", reads=["serving"])
def address_space(facts: Facts) -> Finding:
    """What counts whether used or not: RLIMIT_AS (mapped weights and CUDA's reservations in full),
    RLIMIT_DATA, and all that the kernel promises where it does not overcommit."""
    serving = known(facts.serving)
    found = [room for room in serving.rooms if room.limit == "address space"]
    if not found:
        return passed("ulimit -v and -d unlimited")
    room = next((one for one in found if one.problem), found[0])
    return _judge(room, serving, room.what, size(room.free_bytes))


@check("memory.locked", "programs may lock a little memory (ulimit -l)", reads=["memory"])
def locked(facts: Facts) -> Finding:
    """The kit locks none; rings for asynchronous reads need a few pages on older kernels."""
    limit = known(facts.memory).locked_bytes
    if limit is not None and limit < _LOCKED_BYTES:
        return warning(
            "almost no memory may be locked",
            Evidence("ulimit -l", size(limit), f"{size(_LOCKED_BYTES)} or more"),
            remedy="ulimit -l 64 in this shell; for a container: --ulimit memlock=-1",
        )
    return passed(f"ulimit -l {size(limit)}")


@check("memory.shm", f"{_SHM} is there and not full", reads=["memory"])
def shm(facts: Facts) -> Finding:
    """Python's multiprocessing and torch.distributed keep their semaphores and buffers there."""
    free = known(facts.memory).shm_free_bytes
    if isinstance(free, Unavailable) or free < _SHM_BYTES:
        shown = free.reason if isinstance(free, Unavailable) else f"{size(free)} free"
        return warning(
            f"{_SHM} is missing or nearly full",
            Evidence(_SHM, shown, f"{size(_SHM_BYTES)} free"),
            remedy="empty it, or mount more: mount -o remount,size=1G /dev/shm; for a container: "
            "--shm-size 1g",
        )
    return passed(f"{size(free)} free in {_SHM}")


@check("budget.vram", "the plan stays within the VRAM budget", reads=["serving", "budgets"])
def vram_budget(facts: Facts) -> Finding:
    """KIT_MAX_VRAM against the plan; a budget beyond the card promises nothing."""
    serving, budget = known(facts.serving), known(facts.budgets).max_vram_bytes
    if serving.plan.device == "cpu":
        return skipped(f"{serving.name} is served on the CPU")
    planned = serving.plan.peak_bytes(Pool.DEVICE)
    if planned > budget:
        return failure(
            f"the plan of {serving.name} passes the VRAM budget",
            Evidence("kit memory plan", size(planned), f"at most {size(budget)}"),
            remedy="allow more with --max-vram or KIT_MAX_VRAM; or ask for less: --context, "
            "--max-sequences, or a conversion to int8 or int4",
        )
    share = planned // max(1, len(serving.gpus))
    if any(isinstance(gpu.total_bytes, int) and gpu.total_bytes < share for gpu in serving.gpus):
        return skipped("the card is too small for the plan, see gpu.memory")
    return passed(f"{size(planned)} planned, {size(budget)} allowed")


@check("budget.ram", "the plan stays within the RAM budget", reads=["serving", "budgets"])
def ram_budget(facts: Facts) -> Finding:
    """KIT_MAX_RAM against the plan."""
    serving, budget = known(facts.serving), known(facts.budgets).max_ram_bytes
    planned = serving.plan.peak_bytes(Pool.HOST)
    if budget is None:
        return passed(f"{size(planned)} planned; the plan and a quarter is allowed")
    if planned > budget:
        return failure(
            f"the plan of {serving.name} passes the RAM budget",
            Evidence("kit memory plan", size(planned), f"at most {size(budget)}"),
            remedy="allow more with --max-ram or KIT_MAX_RAM",
        )
    return passed(f"{size(planned)} planned, {size(budget)} allowed")


def _room(serving: Serving, limit: Limit) -> Room | None:
    return next((room for room in serving.rooms if room.limit == limit), None)


def _judge(room: Room, serving: Serving, source: str, free: str) -> Finding:
    need = f"{size(room.need_bytes)} planned for {serving.name}"
    if isinstance(room.free_bytes, Unavailable):
        seen = Evidence(source, room.free_bytes.reason, need)
        return warning(f"{room.what} unknown", seen, remedy="look at it by hand before kit up")
    if room.problem is not None:
        return failure(room.problem, Evidence(source, free, need), remedy=less(room.remedy))
    return passed(f"{free}, {need}")
