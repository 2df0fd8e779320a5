"""A run of the service that is recorded from its start and ends in a receipt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kit.errors import BudgetExceeded
from kit.memory.budget import hold
from kit.memory.plan import Pool
from kit.proof.assertion import Answering, Held, prove
from kit.proof.device_use import DeviceUse
from kit.proof.evidence import RECEIPTS, new_path, now, run_of
from kit.proof.measure import measure
from kit.proof.receipt import write_receipt
from kit.proof.recorder import Recorder, recording
from kit.runtime.client import Ready, Service
from kit.runtime.listener import Listener
from kit.runtime.protocol import Running, Runtime
from kit.service.intent import Intent
from kit.service.receipt import breached, receipt_of


@dataclass(frozen=True)
class MeasuredRun:
    """What is known of the run, while it goes on."""

    intent: Intent
    runtime: Runtime
    running: Running
    service: Service
    recorder: Recorder
    receipt: Path

    def prove(self, ready: Ready, listener: Listener) -> Held:
        """Let the service do its work, hold its peaks, and write the receipt.

        Raises:
            KitError: see :func:`kit.proof.assertion.prove`.
        """
        answering = Answering(self.running, self.runtime, self.service, ready)
        held = prove(answering, self.intent.proof, self.recorder, listener)
        self._write(held, ready)
        return replace(held, receipt=self.receipt)

    def write_breach(self) -> None:
        """The receipt of a service that died, or was refused memory, at its budget."""
        spec, timeline = self.intent.spec, self.recorder.timeline()
        measured = measure(self.runtime, self.service, spec.device, timeline)
        verdicts = hold(spec.budget, measured)
        pool = None
        if all(verdict.passed for verdict in verdicts):  # it was held below by force
            now = self.runtime.status()
            by_kernel = now is not None and now.out_of_memory
            pool = Pool.HOST if by_kernel or spec.device == "cpu" else Pool.DEVICE
        self._write(Held(measured, verdicts, None, "it passed its budget before"), None, pool)

    def _write(self, held: Held, ready: Ready | None, refused: Pool | None = None) -> None:
        receipt = receipt_of(
            self.intent,
            self.runtime,
            held,
            self.recorder.timeline(),
            ready,
            self.service.version(),
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
    service = intent.service()
    with recording(timeline, run, runtime, service, device_use=device_use) as recorder:
        measured = MeasuredRun(intent, runtime, running, service, recorder, receipt)
        try:
            yield measured
        except BudgetExceeded:
            measured.write_breach()
            raise
