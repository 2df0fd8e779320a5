"""Where receipts and timelines are kept: below the state folder, named by date and model.

Those that the user put elsewhere, or named, are the user's.
"""

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from kit.errors import EnvironmentNotReady
from kit.memory.plan import Plan, Pool
from kit.memory.timeline import Run, planned_lines
from kit.runtime.protocol import ServeSpec

RECEIPTS, TIMELINES = "receipts", "timelines"
"""Of runs that were checked against their budget, and of those that were only watched."""
KEPT = 20
"""Runs whose evidence stays in each of these folders."""
_OURS = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-.+\.(json|jsonl|png|html)", re.DOTALL)
_UNSAFE = re.compile(r"[^\w.-]+")


def now() -> str:
    """Local time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def run_of(spec: ServeSpec, plan: Plan | None, started: str) -> Run:
    """What a timeline of ``spec`` is of."""
    pools = {Pool.HOST: spec.max_ram_bytes, Pool.DEVICE: spec.max_vram_bytes}
    planned = {pool.value: plan.peak_bytes(pool) for pool in pools} if plan else {}
    budget = {pool.value: size for pool, size in pools.items() if size is not None}
    return Run(
        model=spec.name,
        engine=spec.engine,
        device=spec.device,
        started=started,
        planned_bytes={pool: size for pool, size in planned.items() if size},
        budget_bytes=budget,
        plan=planned_lines(plan) if plan else (),
    )


def new_path(state_dir: Path, folder: str, run: Run, suffix: str) -> Path:
    """A name for evidence of ``run`` in ``folder`` of the state folder that is not taken.

    The oldest runs there are removed, so that ``KEPT`` stay, the new one among them.
    """
    _remove_oldest(state_dir / folder)
    stem = f"{run.started[:19].replace(':', '-')}-{_UNSAFE.sub('-', run.model)}"
    stem = os.fsdecode(stem.encode("utf-8", "surrogateescape"))  # the same bytes in every locale
    path, count = state_dir / folder / f"{stem}{suffix}", 1
    while path.exists():
        count += 1
        path = path.with_name(f"{stem}-{count}{suffix}")
    return path


def _remove_oldest(folder: Path) -> None:
    """All files of the runs that were written to the longest ago; other files are left alone."""
    runs: dict[str, list[tuple[int, Path]]] = {}
    with suppress(OSError):  # what cannot be removed stays
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                written = (path.stat().st_mtime_ns, path)
                runs.setdefault(path.name.removesuffix(path.suffix), []).append(written)
        by_age = sorted(runs.values(), key=max, reverse=True)
        for _, path in (file for run in by_age[KEPT - 1 :] for file in run):
            path.unlink()


def latest_timeline(state_dir: Path) -> Path:
    """The newest timeline that is kept.

    Raises:
        EnvironmentNotReady: there is none.
    """
    found = [path for name in (RECEIPTS, TIMELINES) for path in (state_dir / name).glob("*.jsonl")]
    if not found:
        raise EnvironmentNotReady(
            f"no timeline is kept in {state_dir}",
            hint="record one: kit memory watch; or kit memory assert",
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)
