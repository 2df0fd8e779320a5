"""Simulated beside planned and published: a table and a record."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kit.memory.plan.line import Engine, Phase, Plan, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.proof.simulate.ledger import Stage
from kit.proof.simulate.run import Simulated
from kit.units import GIB

STAGES = {
    Phase.LOAD: (Stage.BUILD, Stage.LOAD, Stage.MOVE),
    Phase.SERVE: (Stage.PROMPT, Stage.DECODE),
}
NOT_SIMULATED = frozenset(
    {"CUDA context", "cuBLAS", "runtime", "CUDA on the host", "upstream's process", "launcher"}
)
"""Lines of the plan that are no tensors: measured or assumed, and the same on both sides."""
PUBLISHED: dict[Engine, tuple[str, str]] = {
    "stock": ("71-78 GB", "94.5 GB virtual"),
    "cpu-first": ("26 GB", "43.1 GB virtual"),
}
"""VRAM and host RAM as people reported them of the 13B in bf16, after short prompts."""
_PUBLISHED_PARAMETERS = 13_312_542_720
_LOADERS: dict[Engine, str] = {"megatron": "stream"}
"""The loader of that engine, where its name is another."""
MEANING: dict[Engine, str] = {
    "stock": "upstream as it is",
    "cpu-first": "with the published fix",
    "megatron": "with the kit's rewrites",
    "native": "the kit's engine",
}


@dataclass(frozen=True)
class Figures:
    """A pool's peak in a phase, in bytes, with what cannot be simulated in both."""

    pool: Pool
    phase: Phase
    simulated_bytes: int
    planned_bytes: int

    @property
    def ratio(self) -> float:
        """Planned by simulated."""
        return self.planned_bytes / self.simulated_bytes


def plan_of(found: Simulated) -> Plan:
    """The plan for the same model, context and engine on a GPU."""
    job = found.job
    return plan_serving(
        job.model.at(job.precision),
        context=job.context,
        max_sequences=job.max_sequences,
        device="cuda",
        build=CUDA_BUILD,
        engine=job.engine,
    )


def figures(found: Simulated) -> list[Figures]:
    """VRAM and host RAM, loading and serving."""
    plan = plan_of(found)
    made = []
    for pool in (Pool.DEVICE, Pool.HOST):
        for phase, stages in STAGES.items():
            outside = _outside(plan, pool, phase)
            own = found.reserved_bytes(stages) if pool is Pool.DEVICE else found.host_bytes(stages)
            made.append(Figures(pool, phase, own + outside, plan.phase_bytes(pool, phase)))
    return made


def outside_bytes(found: Simulated, pool: Pool, stage: Stage) -> int:
    """What a path holds in a stage that is no tensor: the plan's own lines."""
    phase = next(phase for phase, stages in STAGES.items() if stage in stages)
    return _outside(plan_of(found), pool, phase)


def _outside(plan: Plan, pool: Pool, phase: Phase) -> int:
    return sum(
        line.size_bytes
        for line in plan.lines
        if line.pool is pool and phase in line.phases and line.name in NOT_SIMULATED
    )


def table(all_found: Sequence[Simulated]) -> str:
    """Markdown: peaks in GiB, simulated / planned, and what a decode step does."""
    heads = ["engine", "VRAM published", "VRAM loading", "VRAM serving"]
    heads += ["RAM published", "RAM loading", "RAM serving", "kernels a token", "GiB moved a token"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for found in all_found:
        vram, ram = _published(found)
        cells = [
            f"{each.simulated_bytes / GIB:.1f} / {each.planned_bytes / GIB:.1f}"
            for each in figures(found)
        ]
        row = [found.job.engine, vram, *cells[:2], ram, *cells[2:]]
        row += [str(found.kernels), f"{found.bytes_moved / GIB:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _published(found: Simulated) -> tuple[str, str]:
    job = found.job
    known = job.model.parameters == _PUBLISHED_PARAMETERS and job.precision == "bf16"
    return PUBLISHED.get(job.engine, ("–", "–")) if known else ("–", "–")


def loading_table(all_found: Sequence[Simulated]) -> str:
    """Markdown: what loading alone takes, in units of 10^9 bytes, as loaders are compared."""
    lines = ["| loader | GPU: torch's pool | host memory, private |", "|---|---|---|"]
    for found in all_found:
        stages = STAGES[Phase.LOAD]
        sizes = (found.reserved_bytes(stages), found.host_bytes(stages))
        cells = " | ".join(f"{size / 1e9:.2f} GB" for size in sizes)
        lines.append(f"| {_LOADERS.get(found.job.engine, found.job.engine)} | {cells} |")
    return "\n".join(lines)


def record(all_found: Sequence[Simulated]) -> dict[str, Any]:
    """Everything, for a program; ``simulated`` says that nothing of it was measured."""
    return {
        "kind": "simulated",
        "paths": [
            {
                **asdict(found.job),
                "peaks": [asdict(each) for each in found.peaks],
                "figures": [asdict(each) for each in figures(found)],
                "decode_step": {
                    "kernels": found.kernels,
                    "bytes_moved": found.bytes_moved,
                    "reads": found.reads,
                },
                "moments": [asdict(moment) for moment in found.moments],
            }
            for found in all_found
        ],
    }
