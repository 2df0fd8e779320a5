"""A run of the service recorded from its start, its receipt, and `kit up`'s report."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kit.errors import BudgetExceeded
from kit.lock import read_lock
from kit.memory.budget import Measured, Verdict, assess
from kit.memory.plan.line import Plan, Pool
from kit.memory.probes.nvml import Gpu
from kit.memory.probes.proc import total_ram_bytes
from kit.memory.timeline import Timeline
from kit.memory.unavailable import Unavailable
from kit.proof.assertion import Answering, Assessed, prove
from kit.proof.measure import DeviceUse, measure
from kit.proof.receipt import (
    RECEIPTS,
    MeasuredMachine,
    MeasuredModel,
    MeasuredService,
    MeasuredWork,
    PoolResult,
    Receipt,
    new_path,
    now,
    phase_results,
    run_of,
    write_receipt,
)
from kit.proof.recorder import Recorder, recording
from kit.runtime.client import Client, Failed, Health, Ready, base_url
from kit.runtime.protocol import (
    COMMIT_LABEL,
    REWRITES_LABEL,
    ImageRef,
    Images,
    Listener,
    Running,
    Runtime,
    ServeSpec,
)
from kit.service.intent import Intent
from kit.service.model import DEMO, Model
from kit.settings import bundled

UNKNOWN = "unknown"


@dataclass(frozen=True)
class MeasuredRun:
    """What is known of the run, while it goes on."""

    intent: Intent
    runtime: Runtime
    running: Running
    client: Client
    recorder: Recorder
    receipt: Path

    def prove(self, ready: Ready, listener: Listener) -> Assessed:
        """Let the service do its work, check its peaks, and write the receipt.

        Raises:
            KitError: see :func:`kit.proof.assertion.prove`.
        """
        answering = Answering(self.running, self.runtime, self.client, ready)
        held = prove(answering, self.intent.proof, self.recorder, listener)
        self._write(held, ready)
        return replace(held, receipt=self.receipt)

    def write_breach(self) -> None:
        """The receipt of a service that died, or was refused memory, at its budget."""
        spec, timeline = self.intent.spec, self.recorder.timeline()
        measured = measure(self.runtime, self.client, spec.device, timeline)
        verdicts = assess(spec.budget, measured)
        pool = None
        if all(verdict.passed for verdict in verdicts):  # it was held below by force
            now = self.runtime.status()
            by_kernel = now is not None and now.out_of_memory
            pool = Pool.HOST if by_kernel or spec.device == "cpu" else Pool.DEVICE
        self._write(Assessed(measured, verdicts, None, "it passed its budget before"), None, pool)

    def _write(self, held: Assessed, ready: Ready | None, refused: Pool | None = None) -> None:
        receipt = receipt_of(
            self.intent,
            self.runtime,
            held,
            self.recorder.timeline(),
            ready,
            self.client.version(),
            reported_by(self.client.health()),
        )
        write_receipt(self.receipt, receipt if refused is None else breached(receipt, refused))


@contextmanager
def measured_run(
    intent: Intent, runtime: Runtime, running: Running, device_use: DeviceUse | None = None
) -> Iterator[MeasuredRun]:
    """Record ``running`` until the block ends; a breach in it leaves a receipt, too.

    Args:
        device_use: of the GPUs before it was started.

    Raises:
        EnvironmentNotReady: the evidence cannot be written.
    """
    run = run_of(intent.spec, intent.plan, now())
    receipt = intent.proof.receipt or new_path(intent.settings.state_dir, RECEIPTS, run, ".json")
    timeline = receipt.with_suffix(".jsonl")
    client = intent.client
    with recording(timeline, run, runtime, client, device_use=device_use) as recorder:
        measured = MeasuredRun(intent, runtime, running, client, recorder, receipt)
        try:
            yield measured
        except BudgetExceeded:
            measured.write_breach()
            raise


def receipt_of(
    intent: Intent,
    runtime: Runtime,
    held: Assessed,
    timeline: Timeline,
    ready: Ready | None,
    version: Mapping[str, str | None],
    while_serving: tuple[str, ...] = (),
) -> Receipt:
    """Of a measured run.

    Args:
        ready: what the service said of itself; None: it never came so far.
        version: its answer to ``/version``.
    """
    return Receipt(
        date=timeline.run.started,
        model=_model(intent, ready),
        service=_service(intent, runtime, ready, version),
        machine=machine_of(intent.gpus),
        work=held.work,
        pools={v.pool.value: _pool(v, intent) for v in held.verdicts},
        phases=phase_results(timeline),
        while_serving=while_serving,
    )


def reported_by(health: Health) -> tuple[str, ...]:
    """What a service says of its memory budget: that it is over it now, and which peaks were."""
    if isinstance(health, Ready):
        return (*([health.breach] if health.breach else []), *health.passed_peaks)
    if isinstance(health, Failed) and health.exit_code == BudgetExceeded.exit_code:
        return (health.error,)
    return ()


def breached(receipt: Receipt, pool: Pool) -> Receipt:
    """The same, where ``pool`` was refused what it asked for: its peak never passed the budget."""
    return replace(
        receipt,
        pools={
            name: replace(result, passed=result.passed and name != pool.value)
            for name, result in receipt.pools.items()
        },
    )


def machine_of(gpus: tuple[Gpu, ...]) -> MeasuredMachine:
    """This machine, and the first of the GPUs that serve."""
    ram = total_ram_bytes()
    machine = MeasuredMachine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=os.cpu_count() or 1,
        ram_bytes=ram if isinstance(ram, int) else None,
    )
    if not gpus:
        return machine
    gpu = gpus[0]
    capability = gpu.capability
    return replace(
        machine,
        gpu=gpu.name,
        gpu_bytes=gpu.total_bytes if isinstance(gpu.total_bytes, int) else None,
        gpu_capability=None
        if isinstance(capability, Unavailable)
        else ".".join(map(str, capability)),
        driver=gpu.driver,
        simulated=gpu.simulated,
    )


def digests_of(intent: Intent) -> dict[str, str]:
    """Of the files that the weights come from: by kit.lock, else by the conversion's record."""
    from kit.weights.convert.record import sound_record

    if intent.model.demo:
        locked = read_lock(bundled("kit.lock")).weights[DEMO]
        return {name: f"sha256:{file.sha256}" for name, file in sorted(locked.items())}
    record = sound_record(intent.model.directory)
    if record is None:
        return {}
    adapter = record.lora.sources if record.lora else ()
    return {source.name: source.digest for source in (*record.sources, *adapter)}


def _model(intent: Intent, ready: Ready | None) -> MeasuredModel:
    return MeasuredModel(
        name=intent.spec.name,
        dtype=ready.dtype if ready else UNKNOWN,
        weights_bytes=(ready.weights_bytes if ready else 0) or intent.shape.weights_bytes,
        digests=digests_of(intent),
    )


def _service(
    intent: Intent, runtime: Runtime, ready: Ready | None, version: Mapping[str, str | None]
) -> MeasuredService:
    from kit import __version__

    spec = intent.spec
    service = MeasuredService(
        engine=spec.engine,
        runtime=intent.runtime,
        device=ready.device if ready else spec.device,
        context_length=ready.context_length if ready else spec.context,
        max_sequences=ready.max_sequences if ready else spec.max_sequences,
        kit_version=version.get("version") or __version__,
        torch=version.get("torch"),
    )
    if runtime.images is not None and spec.image is not None:
        return _by_image(service, spec, spec.image, runtime.images)
    if spec.engine == "megatron":
        return _by_upstream(service, intent)
    return service


def _by_image(
    service: MeasuredService, spec: ServeSpec, named: ImageRef, images: Images
) -> MeasuredService:
    """The image's digest as its registry knows it, else of its configuration; upstream's labels."""
    image = images.find(named.identity)
    labels = image.labels if image and spec.engine == "megatron" else {}
    return replace(
        service,
        image=named.name,
        image_digest=image.digest if image else named.identity,
        upstream_commit=labels.get(COMMIT_LABEL),
        rewrite_digest=labels.get(REWRITES_LABEL),
    )


def _by_upstream(service: MeasuredService, intent: Intent) -> MeasuredService:
    from kit.upstream.files import read_manifest
    from kit.upstream.tree import rewritten_dir

    manifest = read_manifest(rewritten_dir(intent.settings))
    if manifest is None:
        return service
    return replace(service, upstream_commit=manifest.commit, rewrite_digest=manifest.digest)


def _pool(verdict: Verdict, intent: Intent) -> PoolResult:
    return PoolResult.of(verdict, intent.plan.peak_bytes(verdict.pool))


@dataclass(frozen=True)
class UpReport:
    """A service that came up, or was up, and was asked one question.

    Attributes:
        where: what it runs in, such as ``process 4711``.
        started: whether this call started it (else it already ran).
        seconds: from the call to the first answer.
        answer: None where a service that already ran was too busy to be asked.
        verdicts: the measured peaks checked against their budgets; when one failed, the service has
            been stopped.
        work: that it did before its peaks were measured; None: it did nothing but answer, and
            ``skipped`` says why.
        receipt: where it was written; None: there is none of a service that already ran.
    """

    model: Model
    spec: ServeSpec
    plan: Plan
    ready: Ready
    where: str
    pid: int | Unavailable
    started: bool
    seconds: float
    question: str
    answer: str | None
    measured: Measured
    verdicts: tuple[Verdict, ...]
    work: MeasuredWork | None = None
    skipped: str | None = None
    receipt: Path | None = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        return base_url(self.spec.host, self.spec.port) + "/v1"

    @property
    def within_budget(self) -> bool:
        """Whether the service may go on running."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failure(self) -> str:
        """Why it may not; a peak that was promised and not measured counts like a breach."""
        over = any(
            v.peak_bytes > v.budget_bytes for v in self.verdicts if isinstance(v.peak_bytes, int)
        )
        return "it took more memory than its budget" if over else "its peak was not measured"
