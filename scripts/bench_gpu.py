"""What only a GPU can show, in one command: a receipt for each stage, written as soon as it ends.

    python scripts/bench_gpu.py /data/bench                     # 10 minutes, 45 GB of disk
    python scripts/bench_gpu.py /data/bench --stages demo bf16  # some of them
    python scripts/bench_gpu.py /tmp/bench --layers 2 --hidden 512 --ffn 1408   # a rehearsal

Stages, in this order:

    demo     start of the built-in demo and its first answer
    bf16     the 13B with random weights: load against the disk and pinned copies; peak by NVML
             against the plan, and under 30 GiB with 4096 tokens; decode against the bandwidth
             measured in the same run
    breach   the same with a budget that it cannot keep: exit code 5
    int8, int4
             as bf16
    loaders  upstream as it is, with the published fix and with the kit's stream, and the native
             engine, at a size that fits; needs `kit upstream fetch` before

It needs no network and no Docker. A stage that fails does not end the others; one for which no
time is left is not begun. The last lines say what was not shown. Receipts go to docs/receipts/ (or
--receipts), from which "Measured on" in both READMEs is made: see scripts/measured_on.py.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_load
import httpx
import torch
from bench_plan import free_port
from make_checkpoint import Sizes, write_arguments, write_checkpoint
from make_model import write_model

import kit
from kit.errors import KitError
from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.memory.plan.shape import DTYPES, Precision
from kit.memory.probes import nvml
from kit.memory.unavailable import Unavailable
from kit.settings import Settings
from kit.units import GIB, MIB
from kit.upstream.tree import read_pristine
from kit.weights.convert.locate import CHECKPOINT_NAME

CONTEXT = 4096
MAX_VRAM_BYTES = 30 * GIB
PLAN_TOLERANCE = 0.05
LOADER_LAYERS = 8
"""Of the loaders' checkpoint: 13 GB of fp32, read four times. All 40 would take 53 GB of disk."""
DECODE_TOKENS, WARM_UP_TOKENS = 128, 16
BREACH_OF_WEIGHTS = 0.8
"""Of the weights' size: a budget that is passed while they are loaded."""
ACCEPTED_BYTES = 256 * MIB
"""The plan may be as much off where 5 % are less: CUDA's context differs so much among drivers."""
BANDWIDTH_BYTES, BANDWIDTH_ROUNDS = GIB, 20
NEEDED_SECONDS = {"demo": 30, "bf16": 120, "breach": 40, "int8": 90, "int4": 80, "loaders": 150}
"""With less time left a stage is not begun. Estimates for an H200 and a disk of 2 GB/s."""
KIT = [sys.executable, "-m", "kit"]


@dataclass(frozen=True)
class Bench:
    """What all stages share."""

    folder: Path
    receipts: Path
    sizes: Sizes
    environ: dict[str, str]

    def kit(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """A command of the kit; what it says goes to stderr, what it prints is returned."""
        command = [*KIT, *map(str, words)]
        print(f"$ kit {' '.join(command[3:])}", file=sys.stderr, flush=True)
        return subprocess.run(
            command, env=self.environ, stdout=subprocess.PIPE, text=True, check=False
        )

    def model(self, precision: Precision) -> Path:
        """Random weights as ``kit weights convert`` would leave them; made unless they are there.
        Those of another precision make room for them.
        """
        directory = self.folder / precision
        if not directory.exists():
            self.clear()
            write_model(directory, self.sizes, precision)
            os.sync()
        return directory

    def clear(self) -> None:
        """Remove the weights."""
        for precision in DTYPES:
            shutil.rmtree(self.folder / precision, ignore_errors=True)


Figures = dict[str, Any]
Stage = Callable[[Bench], Figures]


class Failed(Exception):
    """A stage that did not do what it must; its message says what."""


def demo(bench: Bench) -> Figures:
    """Start of the demo and its first answer, both as a user sees them."""
    begin = time.monotonic()
    up = bench.kit(*["up", "--model", "demo", "--device", "cuda", "--no-exercise", "--json"])
    seconds = time.monotonic() - begin
    bench.kit("down")
    told = told_by(up, 0)
    require(bool(told["answer"]), "no answer")
    kept = {name: told[name] for name in ("device", "dtype", "load_seconds", "answer", "memory")}
    return {"seconds": seconds, **kept}


def serve_bf16(bench: Bench) -> Figures:
    """The 13B as it is; its weights stay for the breach."""
    return served(bench, "bf16")


def serve_int8(bench: Bench) -> Figures:
    """The 13B in 8 bits."""
    return served(bench, "int8")


def serve_int4(bench: Bench) -> Figures:
    """The 13B in 4 bits."""
    return served(bench, "int4")


def served(bench: Bench, precision: Precision) -> Figures:
    """Load, peak and decode of one precision."""
    model = bench.model(precision)
    size_bytes = weights_bytes(model)
    figures: Figures = {"weights_bytes": size_bytes, "load": load_rates(model, size_bytes)}
    path = bench.receipts / f"gpu-{precision}-memory.json"
    options = f"--context {CONTEXT} --max-sequences 1 --device cuda --max-vram 30GiB --keep"
    done = bench.kit("memory", "assert", "--model", model, "--receipt", path, *options.split())
    try:
        require(done.returncode == 0, f"kit memory assert ended with {done.returncode}", figures)
        figures["decode"] = decode(bench, size_bytes)
    finally:
        bench.kit("down")
    pool = figures["memory"] = json.loads(path.read_bytes())["pools"]["device"]
    planned, off = pool["planned_bytes"], abs(pool["peak_bytes"] - pool["planned_bytes"])
    require(pool["peak_bytes"] < MAX_VRAM_BYTES, "the peak is not under 30 GiB", figures)
    close = off <= max(PLAN_TOLERANCE * planned, ACCEPTED_BYTES)
    require(close, f"the plan is {off / planned:.1%} off", figures)
    return figures


def weights_bytes(model: Path) -> int:
    """Size of its files."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def load_rates(model: Path, size_bytes: int) -> Figures:
    """Bytes a second of the disk, of pinned copies and of the kit, one after the other."""
    jobs = {
        "disk": "disk: plain read, cold",
        "pinned": "bus: pinned copies",
        "cold": "kit, cold",
        "warm": "kit, warm",
    }
    measured = {name: bench_load.run(job, model, "cuda") for name, job in jobs.items()}
    rates = {name: size_bytes / run.seconds for name, run in measured.items()}
    return {
        "bytes_per_second": rates,
        "cold_of_limit": rates["cold"] / min(rates["disk"], rates["pinned"]),
        "warm_of_pinned": rates["warm"] / rates["pinned"],
        "host_growth_bytes": measured["cold"].growth_bytes,
    }


def decode(bench: Bench, size_bytes: int) -> Figures:
    """Tokens a second of one sequence, and what share of the bandwidth of this run that is.

    Two answers of different length to the same prompt: their difference is decode alone. A token
    reads every weight once: the embedding table, of which it takes one row, is the head's, too.
    """
    name = json.loads(told(bench, "/v1/models"))["data"][0]["id"]

    def answer(tokens: int) -> float:
        begin = time.perf_counter()
        body = {"model": name, "prompt": "1 2 3", "max_tokens": tokens, "ignore_eos": True}
        post = httpx.post(f"{url(bench)}/v1/completions", json=body, timeout=120, trust_env=False)
        require(post.status_code == 200, f"no answer: {post.text[:200]}")
        came = post.json()["usage"]["completion_tokens"]
        require(came == tokens, f"{came} tokens came instead of {tokens}")
        return time.perf_counter() - begin

    answer(WARM_UP_TOKENS)
    short, long = answer(WARM_UP_TOKENS), answer(WARM_UP_TOKENS + DECODE_TOKENS)
    rate, bandwidth = DECODE_TOKENS / (long - short), read_bandwidth()
    return {
        "tokens_per_second": rate,
        "bandwidth_bytes_per_second": bandwidth,
        "of_bandwidth": rate * size_bytes / bandwidth,
    }


def read_bandwidth() -> float:
    """Bytes a second that the GPU reads, by a sum over a gigabyte; in a process of its own."""
    code = f"""
import time, torch
data = torch.zeros({BANDWIDTH_BYTES} // 4, dtype=torch.float32, device="cuda")
for _ in range(3): data.sum()
torch.cuda.synchronize(); begin = time.perf_counter()
for _ in range({BANDWIDTH_ROUNDS}): data.sum()
torch.cuda.synchronize()
print({BANDWIDTH_BYTES} * {BANDWIDTH_ROUNDS} / (time.perf_counter() - begin))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def breach(bench: Bench) -> Figures:
    """A budget below the weights: the start must fail with exit code 5, and leave a receipt."""
    model = bench.model("bf16")
    budget = int(weights_bytes(model) * BREACH_OF_WEIGHTS) + CUDA_CONTEXT_BYTES
    path = bench.receipts / "gpu-breach-memory.json"
    options = f"--device cuda --no-preflight --max-vram {budget}B --context {CONTEXT}"
    done = bench.kit("memory", "assert", "--model", model, "--receipt", path, *options.split())
    bench.kit("down")
    require(done.returncode == 5, f"exit code {done.returncode} instead of 5")
    outcome = json.loads(path.read_bytes())["outcome"]
    require(outcome == "breached", f"its receipt says {outcome}")
    return {"exit_code": done.returncode, "budget_bytes": budget, "outcome": outcome}


def loaders(bench: Bench) -> Figures:
    """Every way of loading, once each; its receipt is that of `kit bench loaders`."""
    bench.clear()
    checkpoint = bench.folder / "checkpoint"
    path = bench.receipts / "gpu-loaders-runs.json"
    layers = min(LOADER_LAYERS, bench.sizes.layers)
    checkpoint.mkdir()
    sizes = replace(bench.sizes, layers=layers)
    write_checkpoint(checkpoint / CHECKPOINT_NAME, sizes, seed=0)
    write_arguments(checkpoint / "config.json", sizes)
    try:
        options = ("--device", "cuda", "--rounds", 1, "--json", path)
        done = bench.kit("bench", "loaders", checkpoint, *options)
    finally:
        shutil.rmtree(checkpoint)
    require(done.returncode == 0, f"kit bench loaders ended with {done.returncode}")
    print(done.stdout, file=sys.stderr)
    return {"runs": json.loads(path.read_bytes())["runs"]}


STAGES: dict[str, Stage] = {
    "demo": demo,
    "bf16": serve_bf16,
    "breach": breach,
    "int8": serve_int8,
    "int4": serve_int4,
    "loaders": loaders,
}


def require(holds: bool, what: str, figures: Figures | None = None) -> None:
    """Return when it holds.

    Raises:
        Failed: it does not; ``figures`` are kept in the receipt.
    """
    if not holds:
        raise Failed(what, figures or {})


def told_by(done: "subprocess.CompletedProcess[str]", code: int) -> dict[str, Any]:
    """What a command printed as JSON; it must have ended with ``code``."""
    require(done.returncode == code, f"exit code {done.returncode} instead of {code}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def url(bench: Bench) -> str:
    """Of the service."""
    return f"http://127.0.0.1:{bench.environ['KIT_PORT']}"


def told(bench: Bench, path: str) -> str:
    """What the service answers."""
    return httpx.get(url(bench) + path, timeout=30, trust_env=False).text


def machine() -> dict[str, Any]:
    """Where it ran; simulated: on the tests' pretended GPU."""
    found = nvml.gpus()
    gpus = () if isinstance(found, Unavailable) else nvml.visible(found, os.environ)
    return {
        "gpu": gpus[0].name if gpus else None,
        "gpu_bytes": gpus[0].total_bytes if gpus else None,
        "driver": gpus[0].driver if gpus else None,
        "simulated": any(gpu.simulated for gpu in gpus),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run(name: str, bench: Bench) -> bool:
    """One stage; writes its receipt; whether it passed."""
    begin = time.monotonic()
    passed, why, figures = True, None, {}
    try:
        figures = STAGES[name](bench)
    except Failed as failed:
        passed, why, figures = False, failed.args[0], failed.args[1]
    except Exception as error:  # the other stages are to be had all the same
        passed, why = False, f"{type(error).__name__}: {error}"
    receipt = {
        "kind": "gpu-bench",
        "stage": name,
        "passed": passed,
        "why": why,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kit": kit.__version__,
        "machine": machine(),
        "sizes": asdict(bench.sizes),
        "seconds": round(time.monotonic() - begin, 3),
        "figures": figures,
    }
    path = bench.receipts / f"gpu-{name}.json"
    path.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    print(
        f"{name}: {'passed' if passed else f'FAILED: {why}'} ({receipt['seconds']:.0f} s), {path}"
    )
    sys.stdout.flush()
    return passed


def left_out(name: str, seconds_left: float) -> str | None:
    """Why a stage is not begun; None: it is."""
    if name == "loaders":
        try:
            read_pristine(Settings.from_environ())
        except KitError as error:
            return error.message
    needed = NEEDED_SECONDS[name]
    return f"{seconds_left:.0f} s are left, it needs {needed}" if needed > seconds_left else None


def options() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description="Prove on a GPU what only a GPU can show.")
    parser.add_argument("folder", type=Path, help="models are made in it, and removed again")
    parser.add_argument("--receipts", type=Path, default=Path("docs/receipts"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seconds", type=float, default=600, help="in all")
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    """Run the stages in their order; exit code 1 when one failed or was left out."""
    chosen = options()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; kit doctor says why")
    begin = time.monotonic()
    chosen.receipts.mkdir(parents=True, exist_ok=True)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    own = {"KIT_PORT": str(free_port()), "KIT_RUNTIME": "local"}
    own["KIT_STATE_DIR"] = str(chosen.folder / "state")
    sizes = Sizes(chosen.layers, chosen.hidden, chosen.ffn, chosen.vocab)
    bench = Bench(
        chosen.folder.absolute(), chosen.receipts.absolute(), sizes, {**os.environ, **own}
    )
    missing: dict[str, str] = {}
    for name in (stage for stage in STAGES if stage in chosen.stages):
        why = left_out(name, chosen.seconds - (time.monotonic() - begin))
        if why is None and not run(name, bench):
            why = "failed, see its receipt"
        if why is not None:
            missing[name] = why
    bench.clear()
    for name, why in missing.items():
        print(f"not shown: {name} ({why})")
    print("not shown: vllm (the kit does not serve with it yet)")
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
