from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.memory.probes.vram import estimated_peak, proven_peak
from kit.memory.unavailable import Unavailable
from kit.units import GIB

HIDDEN = Unavailable("NVML lists no process of the service")


def test_the_driver_counts_the_processes_and_nothing_may_be_below_what_was_seen():
    assert proven_peak(29 * GIB, 28 * GIB, 27 * GIB) == (29 * GIB, "driver-by-process")
    assert proven_peak(26 * GIB, 28 * GIB, 27 * GIB) == (28 * GIB, "driver-by-process")
    assert proven_peak(26 * GIB, None, 27 * GIB) == (27 * GIB, "driver-by-process")
    assert proven_peak(26 * GIB, None, None) == (26 * GIB, "driver-by-process")


def test_where_it_names_no_process_the_samples_count_but_never_less_than_pool_and_context():
    assert proven_peak(HIDDEN, 28 * GIB, 27 * GIB) == (28 * GIB, "driver-by-samples")
    others_freed = proven_peak(HIDDEN, 20 * GIB, 27 * GIB)
    assert others_freed == (27 * GIB + CUDA_CONTEXT_BYTES, "driver-by-samples")
    assert proven_peak(HIDDEN, 28 * GIB, None) == (28 * GIB, "driver-by-samples")


def test_torch_alone_is_no_proof():
    peak, by = proven_peak(HIDDEN, None, 27 * GIB)
    assert isinstance(peak, Unavailable)
    assert peak.reason.startswith(HIDDEN.reason)
    assert by is None


def test_but_it_tells_that_a_proven_service_has_grown():
    assert estimated_peak(HIDDEN, 27 * GIB) == (27 * GIB + CUDA_CONTEXT_BYTES, "torch")
    assert estimated_peak(26 * GIB, 27 * GIB) == (27 * GIB, "driver-by-process")
    assert estimated_peak(HIDDEN, None) == (HIDDEN, None)
