"""The memory plan against what is measured: models of several sizes and precisions, side by side.

Every model is made anew with random weights, which take the memory that real ones take, and served
by a fresh process that fills the stated context: a prefill of all of it but the last tokens, which
are generated. What that took at its peak comes from `kit memory assert`, whose receipts are kept:

    python scripts/bench_plan.py /data/bench                        # on the CPU; needs 8 GB of disk
    python scripts/bench_plan.py /data/bench --sizes 60m --precisions bf16 int4
    python scripts/bench_plan.py /data/bench --device cuda          # the 13B; needs 30 GB of disk

The exit code is 1 when a plan is off by more than its tolerance, and when a promised figure could
not be measured: 10 % of the host's RAM on a CPU, 5 % of the VRAM on a GPU, whose peak must stay
under 30 GiB as well.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from make_checkpoint import Sizes
from make_model import write_model

from kit.memory.plan.fit import serving_limits
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import DTYPES, Precision, read_shape
from kit.memory.plan.torch_build import installed_build
from kit.memory.probes.proc import tree_peak_bytes
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import fill_context
from kit.runtime.client import Client, Ready
from kit.units import GIB, format_gib

SIZES = {
    "60m": Sizes(8, 512, 1408, 60000),
    "300m": Sizes(18, 1024, 2816, 60000),
    "1b": Sizes(18, 2048, 5632, 60000),
    "13b": Sizes(),
}
CONTEXTS = {"60m": 2048, "300m": 4096, "1b": 2048, "13b": 4096}
TOLERANCE = {"cpu": 0.10, "cuda": 0.05}
MAX_VRAM = "30GiB"
_SECONDS = 1800.0


@dataclass(frozen=True)
class Case:
    """A model and how it is served. ``cast`` is the type its numbers get while it is loaded."""

    size: str
    precision: Precision
    device: str
    context: int
    max_sequences: int = 1
    cast: str | None = None

    @property
    def name(self) -> str:
        """Such as ``60m-bf16``."""
        parts = [self.size, self.precision, *([f"as-{self.cast}"] if self.cast else [])]
        return "-".join(parts) + (f"-x{self.max_sequences}" if self.max_sequences > 1 else "")


@dataclass(frozen=True)
class Outcome:
    """Planned and measured peak of one pool in bytes; None: it could not be measured."""

    case: Case
    planned_bytes: int
    peak_bytes: int | None

    @property
    def ratio(self) -> float | None:
        """Measured by planned."""
        return None if self.peak_bytes is None else self.peak_bytes / self.planned_bytes

    @property
    def passed(self) -> bool:
        """Within the tolerance both ways, and on a GPU under 30 GiB."""
        if self.ratio is None or self.peak_bytes is None:
            return False
        if self.case.device == "cuda" and self.peak_bytes >= 30 * GIB:
            return False
        return abs(self.ratio - 1) <= TOLERANCE[self.case.device]


def cases(device: str, sizes: list[str], precisions: list[Precision]) -> Iterator[Case]:
    """Each size in each precision; on the CPU one cast while it loads, and one for several."""
    for size in sizes:
        for precision in precisions:
            yield Case(size, precision, device, CONTEXTS[size])
    if device == "cpu":
        yield Case(sizes[0], "bf16", device, CONTEXTS[sizes[0]], cast="float32")
        yield Case(sizes[0], "bf16", device, CONTEXTS[sizes[0]], max_sequences=4)


def run(case: Case, folder: Path) -> Outcome:
    """Make the model, serve it, measure; the model is removed, the receipt stays."""
    model = folder / case.name
    write_model(model, SIZES[case.size], case.precision)
    try:
        return cast_run(case, model) if case.cast else held_run(case, model, folder)
    finally:
        shutil.rmtree(model)


def held_run(case: Case, model: Path, folder: Path) -> Outcome:
    """By `kit memory assert`; exit code 5, a breach of the default budget, is an outcome too."""
    receipt = folder / f"{case.name}.json"
    options = {
        "--model": model,
        "--context": case.context,
        "--max-sequences": case.max_sequences,
        "--device": case.device,
        "--runtime": "local",
        "--port": free_port(),
        "--receipt": receipt,
        "--timeout": _SECONDS,
        "--max-vram": MAX_VRAM,
    }
    words = [str(part) for option in options.items() for part in option]
    done = subprocess.run([*KIT, "memory", "assert", *words], stdout=sys.stderr, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"kit memory assert failed for {case.name}: exit code {done.returncode}")
    pools: Mapping[str, Any] = json.loads(receipt.read_bytes())["pools"]
    pool = pools["device" if case.device == "cuda" else "host"]
    return Outcome(case, pool["planned_bytes"], pool["peak_bytes"])


def cast_run(case: Case, model: Path) -> Outcome:
    """By `kit serve --dtype`, which `kit memory assert` does not know."""
    shape, number_bytes = read_shape(model), {"float32": 4, "bfloat16": 2}[str(case.cast)]
    cast = replace(shape, dtype_bytes=number_bytes)
    context, sequences = serving_limits(cast, case.context, case.max_sequences)
    plan = plan_serving(
        shape,
        context=context,
        max_sequences=sequences,
        device="cpu",
        build=installed_build(),
        dtype_bytes=number_bytes,
    )
    port = free_port()
    options = f"--device cpu --context {context} --max-sequences {sequences} --port {port}"
    command = [*KIT, "serve", str(model), *options.split(), "--dtype", str(case.cast)]
    with subprocess.Popen(command) as server:
        try:
            client = Client(f"http://127.0.0.1:{port}")
            ready = await_ready(client, server)
            fill_context(client, ready, on_phase=lambda phase: None, timeout_seconds=_SECONDS)
            peak = tree_peak_bytes(server.pid)
        finally:
            server.terminate()
    measured = None if isinstance(peak, Unavailable) else peak
    return Outcome(case, plan.peak_bytes(Pool.HOST), measured)


def await_ready(client: Client, server: "subprocess.Popen[bytes]") -> Ready:
    """Wait until the model answers."""
    while server.poll() is None:
        health = client.health()
        if isinstance(health, Ready):
            return health
        subprocess.run(["sleep", "0.2"], check=True)  # noqa: S607
    raise SystemExit(f"kit serve ended with {server.returncode}")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


KIT = [sys.executable, "-m", "kit"]


def table(outcomes: list[Outcome]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| model | context | at once | planned | measured | measured / planned |",
        "|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        case, ratio = each.case, each.ratio
        what = f"{case.size} {case.precision}" + (f" as {case.cast}" if case.cast else "")
        measured = "not measured" if each.peak_bytes is None else format_gib(each.peak_bytes)
        shown = "–" if ratio is None else f"{ratio:.3f}{'' if each.passed else ' FAILED'}"
        lines.append(
            f"| {what} | {case.context} | {case.max_sequences} "
            f"| {format_gib(each.planned_bytes)} | {measured} | {shown} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description="Hold the memory plan against measured peaks.")
    parser.add_argument("folder", type=Path, help="models are made in it, receipts stay")
    parser.add_argument("--device", choices=TOLERANCE, default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--precisions", nargs="+", choices=DTYPES)
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    sizes = options.sizes or (["60m", "300m", "1b"] if on_cpu else ["13b"])
    precisions = options.precisions or ["bf16", *(["fp32"] if on_cpu else []), "int8", "int4"]
    options.folder.mkdir(parents=True, exist_ok=True)
    outcomes = [run(case, options.folder) for case in cases(options.device, sizes, precisions)]
    print(table(outcomes))
    if not all(outcome.passed for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
