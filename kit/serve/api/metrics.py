"""Figures for Prometheus, in a registry of each server's own."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kit.memory.budget import Budget
from kit.serve.api.generation import OnToken
from kit.serve.budget import measured_peaks, memory_figures
from kit.serve.model import Model
from kit.serve.readiness import Readiness, Ready

MEMORY_LABELS = {
    "host_peak_bytes": ("host", "peak"),
    "host_private_bytes": ("host", "private"),
    "host_mapped_bytes": ("host", "mapped"),
    "device_peak_bytes": ("device", "peak"),
    "device_reserved_bytes": ("device", "reserved"),
    "device_allocated_bytes": ("device", "allocated"),
}
"""Pool and kind in ``kit_memory_bytes``, by the names of ``memory_figures``."""

_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)
_FIRST_TOKEN_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_REQUEST_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """What is counted as it happens; the engine's own figures are read when they are asked for."""

    def __init__(self, readiness: Readiness, budget: Budget, max_waiting: int) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ModelCollector(readiness, budget, max_waiting))
        self._requests = Counter(
            "kit_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._request_seconds = self._histogram(
            "kit_request_seconds",
            "From a request to the end of its answer.",
            _REQUEST_SECONDS,
            "route",
        )
        self._first_token_seconds = self._histogram(
            "kit_time_to_first_token_seconds",
            "From a sequence's submission to its first token.",
            _FIRST_TOKEN_SECONDS,
        )
        self._token_seconds = self._histogram(
            "kit_inter_token_seconds", "Between two tokens of a sequence.", _TOKEN_SECONDS
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has been answered; ``route`` is a path's template, never a path."""
        self._requests.labels(route, str(status)).inc()
        if route.startswith("/v1/"):
            self._request_seconds.labels(route).observe(seconds)

    def token_clock(self) -> OnToken:
        """What to call for every token of a request that starts now."""
        last: dict[int, float] = {}
        started = time.monotonic()

        def on_token(index: int) -> None:
            now = time.monotonic()
            if index in last:
                self._token_seconds.observe(now - last[index])
            else:
                self._first_token_seconds.observe(now - started)
            last[index] = now

        return on_token

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(
        self, name: str, what: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, what, labels, buckets=buckets, registry=self._registry)


class _ModelCollector(Collector):
    """The model's state, read at the moment of the scrape."""

    def __init__(self, readiness: Readiness, budget: Budget, max_waiting: int) -> None:
        self._readiness, self._budget, self._max_waiting = readiness, budget, max_waiting

    def collect(self) -> Iterator[Metric]:
        state = self._readiness.state()
        yield GaugeMetricFamily("kit_ready", "1 when it can answer.", isinstance(state, Ready))
        yield _budget(self._budget)
        over = self._readiness.breach is not None
        yield GaugeMetricFamily("kit_memory_over_budget", "1 while it holds more.", over)
        if (model := self._readiness.loaded) is None:
            return
        stats = model.engine.stats()
        yield GaugeMetricFamily("kit_load_seconds", "Time loading took.", model.load_seconds)
        yield GaugeMetricFamily("kit_sequences_running", "Being generated.", stats.running)
        yield GaugeMetricFamily("kit_sequences_waiting", "Queued.", stats.waiting)
        yield GaugeMetricFamily("kit_sequences_waiting_limit", "Queued at most.", self._max_waiting)
        yield CounterMetricFamily("kit_prompt_tokens", "Prompt tokens.", stats.prompt_tokens)
        yield CounterMetricFamily(
            "kit_generated_tokens", "Generated tokens.", stats.generated_tokens
        )
        yield _memory(model)


def _memory(model: Model) -> Metric:
    """What is known of memory: ``{pool="host", kind="private"}`` and so on."""
    family = GaugeMetricFamily("kit_memory_bytes", "Memory by pool.", labels=["pool", "kind"])
    figures = memory_figures(model)
    pool = "device" if model.info.device.startswith("cuda") else "host"
    if pool == "device":  # the peak that the budget is checked against, not that of torch's pool
        peak = measured_peaks(model).device_peak_bytes
        figures["device_peak_bytes"] = peak if isinstance(peak, int) else None
    for name, labels in {
        **MEMORY_LABELS,
        "weights_bytes": (pool, "weights"),
        "kv_cache_bytes": (pool, "kv_cache"),
    }.items():
        if (size_bytes := figures[name]) is not None:
            family.add_metric(labels, size_bytes)
    return family


def _budget(budget: Budget) -> Metric:
    """What was promised of each pool."""
    family = GaugeMetricFamily("kit_memory_budget_bytes", "Memory budget by pool.", labels=["pool"])
    for pool, size_bytes in (("host", budget.max_ram_bytes), ("device", budget.max_vram_bytes)):
        if size_bytes is not None:
            family.add_metric([pool], size_bytes)
    return family
