import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from kit.lock import read_lock
from kit.memory.budget import Measured, assess
from kit.memory.plan.line import Pool
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CUDA_BUILD
from kit.memory.probes.nvml import Gpu
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import Assessed
from kit.proof.receipt import MeasuredWork
from kit.runtime.client import Failed, Ready, Silent
from kit.runtime.local import LocalRuntime
from kit.runtime.protocol import ServeSpec
from kit.service.intent import Intent
from kit.service.measured_run import breached, digests_of, machine_of, receipt_of, reported_by
from kit.service.model import Model
from kit.settings import Settings, bundled
from kit.units import GIB
from kit.weights.convert.record import ConversionRecord, MergedLora, Source, write_record
from tests.timelines import TIMELINE

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/receipt.schema.json").read_text("utf-8"))
SHAPE = ModelShape(40, 5120, 14336, 60000, 32768, 8192, 2, 26_627_072_000)
GPU = Gpu(0, "GPU-aaaa", "Stub 80", 80 * GIB, GIB, "580.65.06", (9, 0))
READY = Ready("spark", "int8 (bfloat16)", "cuda:0", 4096, 2, 8.0, 27 * GIB, weights_bytes=13 * GIB)
VERSION = {"version": "9.9", "torch": "2.13.0"}


@pytest.fixture
def intent(tmp_path):
    spec = ServeSpec(
        tmp_path,
        "spark",
        "127.0.0.1",
        8000,
        4096,
        2,
        "cuda",
        max_ram_bytes=30 * GIB,
        max_vram_bytes=30 * GIB,
    )
    model = Model("spark", tmp_path, False, "?")
    settings = Settings(tmp_path / "data", tmp_path / "state")
    return Intent(settings, "local", model, SHAPE, spec, CUDA_BUILD, (GPU,))


def made(intent, host=3 * GIB, device=27 * GIB, ready=READY, work=None):
    by = "driver-by-process" if isinstance(device, int) else None
    measured = Measured(host, device, "kernel", by)
    held = Assessed(measured, assess(intent.spec.budget, measured), work, None)
    runtime = LocalRuntime(intent.settings.state_dir)
    return receipt_of(intent, runtime, held, TIMELINE, ready, VERSION if ready else {})


def valid(receipt):
    record = json.loads(json.dumps(receipt.record()))
    jsonschema.validate(record, SCHEMA)
    return record


def test_every_fact(intent):
    record = valid(made(intent, work=MeasuredWork(2, 4000, 96, 1.5)))
    assert record["outcome"] == "held"
    assert record["date"] == TIMELINE.run.started
    assert record["model"] == {
        "name": "spark",
        "dtype": "int8 (bfloat16)",
        "weights_bytes": 13 * GIB,
        "digests": {},
    }
    assert record["service"]["kit_version"] == "9.9"
    assert record["service"]["device"] == "cuda:0"
    machine = record["machine"]
    assert (machine["gpu"], machine["gpu_capability"], machine["driver"]) == (
        "Stub 80",
        "9.0",
        "580.65.06",
    )
    by = [record["pools"][name]["measured_by"] for name in ("host", "device")]
    assert by == ["kernel", "driver-by-process"]
    planned = intent.plan.peak_bytes(Pool.DEVICE)
    assert record["pools"]["device"]["planned_bytes"] == planned
    assert record["pools"]["device"]["of_plan"] == round(27 * GIB / planned, 4)


def test_a_service_that_never_was_ready(intent):
    record = valid(made(intent, device=Unavailable("NVML is silent"), ready=None))
    assert record["outcome"] == "unmeasured"
    assert record["pools"]["device"]["measured_by"] is None
    assert record["model"]["dtype"] == "unknown"
    assert record["model"]["weights_bytes"] == SHAPE.weights_bytes
    assert record["service"]["torch"] is None


def test_a_pool_that_was_refused_memory_is_breached_below_its_budget(intent):
    record = valid(breached(made(intent), Pool.DEVICE))
    assert record["outcome"] == "breached"
    assert record["pools"]["host"]["passed"] is True


def test_a_machine_without_a_gpu():
    machine = machine_of(())
    assert (machine.gpu, machine.driver) == (None, None)
    assert machine.system
    untold = replace(GPU, total_bytes=Unavailable("shared"), capability=Unavailable("old"))
    assert machine_of((untold,)).gpu_bytes is None


def test_digests_of_what_was_converted_and_of_the_demo(intent, tmp_path):
    def source(name, digest):
        return Source(name, 1, 1, "f", digest)

    lora = MergedLora((source("adapter.bin", "blake3:" + "c" * 64),), 8, 16.0)
    sources = (source("a.pt", "sha256:" + "a" * 64), source("b.pt", "blake3:" + "b" * 64))
    write_record(tmp_path, ConversionRecord("1", sources, lora, "bf16", {}, {}, {}, {}))
    assert digests_of(intent) == {
        "a.pt": "sha256:" + "a" * 64,
        "b.pt": "blake3:" + "b" * 64,
        "adapter.bin": "blake3:" + "c" * 64,
    }
    demo = replace(intent, model=Model("demo", tmp_path, True, "?"))
    locked = read_lock(bundled("kit.lock")).weights["demo"]
    assert digests_of(demo) == {name: f"sha256:{file.sha256}" for name, file in locked.items()}


OVER = "host RAM is 3.0 GiB, 1.0 GiB over the budget of 2.0 GiB"


@pytest.mark.parametrize(
    ("health", "reports"),
    [
        (READY, ()),
        (replace(READY, breach=OVER, passed_peaks=("peak VRAM",)), (OVER, "peak VRAM")),
        (Failed(OVER, "--max-ram", 5), (OVER,)),
        (Failed("the engine has died", "kit logs", 6), ()),
        (Silent("refused", refused=True), ()),
    ],
)
def test_what_a_service_reports_of_its_budget(health, reports):
    assert reported_by(health) == reports
