"""`GET /metrics`: what schedulers count, and what HTTP adds to it, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from .served import ServedModel

GAUGES = {
    "queue_length": "Requests that wait for their encoder or for room.",
    "running_rows": "Requests that decode.",
    "tokens_per_s": "Tokens a second over the last half minute.",
    "requests_per_s": "Requests a second over the last half minute.",
    "cache_bytes": "Bytes that running rows hold.",
    "cache_bytes_reserved": "Bytes that admitted rows may come to.",
    "cache_bytes_budget": "Bytes that they may be.",
    "encoder_slice_s": "Seconds of encoder work between two steps of running rows.",
}
COUNTERS = {
    "submitted": "Requests handed to the model's scheduler.",
    "finished": "Requests answered.",
    "failed": "Requests that failed.",
    "cancelled": "Requests given up by their clients.",
    "expired": "Requests whose deadline passed.",
    "refused": "Requests that met a full queue.",
    "tokens": "Tokens generated.",
    "batch_rows": "Rows times steps: by deed_step_seconds_count, the mean batch.",
}
TIMES = {
    "step_s": ("step_seconds", "A decoding step of all running rows."),
    "gap_s": ("token_gap_seconds", "Between two steps of a running row."),
    "first_token_s": ("first_token_seconds", "From the submission to the first token."),
    "encode_s": ("encode_seconds", "An encoder call, waits for decoding steps included."),
}


class HttpMetrics:
    """What HTTP adds, and the registry of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deed_http_requests", "Answers by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "deed_http_seconds", "Until an answer was complete.", ["path"], registry=self.registry
        )
        self.running = Gauge("deed_http_running", "Requests being answered.", registry=self.registry)

    def watch(self, models: Any) -> None:
        """Collect from the schedulers of these models, too."""
        self.registry.register(SchedulerCollector(models))
        self.registry.register(DriftCollector(models))
        self.registry.register(PoolCollector(models))

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


DRIFT = {
    "samples": "Requests compared with full depth at the present threshold.",
    "disagreement": "Share of them whose answers differ.",
    "disagreement_lower": "Lower confidence bound of that share, at all times together.",
    "disagreement_limit": "What it is to stay below.",
    "alarms": "How often the bound was above the limit.",
    "threshold": "Exit threshold of requests that say none.",
    "dropped": "Sampled requests that were not compared.",
}


class ModelsCollector:
    """Asks the models when Prometheus asks.

    Args:
        models: `.all()` gives those that are loaded.
    """

    def __init__(self, models: Any) -> None:
        self.models = models

    def describe(self) -> Iterable[Any]:
        """Nothing to ask beforehand."""
        return []


class DriftCollector(ModelsCollector):
    """Reads every model's `DriftMonitor`."""

    def collect(self) -> Iterator[Any]:
        """One family for every number, a sample for every model whose answers are compared."""
        watched = [(one.name, one.drift) for one in self.models.all() if one.drift is not None]
        found = [(name, {**watch.monitor.metrics(), "dropped": watch.dropped}) for name, watch in watched]
        for name, said in DRIFT.items() if found else ():
            gauge = GaugeMetricFamily(f"deed_drift_{name}", said, labels=["model"])
            for model, numbers in found:
                gauge.add_metric([model], numbers[name])
            yield gauge


class PoolCollector(ModelsCollector):
    """Reads the `ModelPool`: what is loaded, how large it is, and what was loaded and dropped so far."""

    def collect(self) -> Iterator[Any]:
        """A sample for every model, loaded or not; the budget where there is one."""
        pool = self.models.pool
        loaded = {} if pool is None else pool.loaded
        held = GaugeMetricFamily("deed_model_loaded", "Whether the model is loaded.", labels=["model"])
        size = GaugeMetricFamily("deed_model_bytes", "Bytes of a loaded model and its cache.", labels=["model"])
        loads = CounterMetricFamily("deed_model_loads", "How often the model was loaded.", labels=["model"])
        evictions = CounterMetricFamily(
            "deed_model_evictions", "How often the model was dropped to make room for another.", labels=["model"]
        )
        for name in () if pool is None else pool.loaders:
            held.add_metric([name], name in loaded)
            size.add_metric([name], loaded[name].reserved_bytes if name in loaded else 0)
            loads.add_metric([name], pool.loads[name])
            evictions.add_metric([name], pool.evicted[name])
        yield from (held, size, loads, evictions)
        if pool is not None and pool.bytes_budget is not None:
            yield GaugeMetricFamily("deed_memory_budget_bytes", "What all of it may take.", value=pool.bytes_budget)


class SchedulerCollector(ModelsCollector):
    """Reads every model's `Scheduler.stats()`."""

    def collect(self) -> Iterator[Any]:
        """One family for every number, a sample for every model."""
        served: list[ServedModel] = self.models.all()
        stats = [(one.name, one.layers, one.scheduler.stats()) for one in served]
        for name, said in GAUGES.items():
            gauge = GaugeMetricFamily(f"deed_{name}", said, labels=["model"])
            for model, _, now in stats:
                gauge.add_metric([model], getattr(now, name))
            yield gauge
        for name, said in COUNTERS.items():
            counter = CounterMetricFamily(f"deed_{name}", said, labels=["model"])
            for model, _, now in stats:
                counter.add_metric([model], getattr(now, name))
            yield counter
        for name, (called, said) in TIMES.items():
            times = HistogramMetricFamily(f"deed_{called}", said, labels=["model"])
            for model, _, now in stats:
                times.add_metric([model], *_cumulated(getattr(now, name)))
            yield times
        longest = GaugeMetricFamily(
            "deed_token_gap_longest_seconds", "The longest between two steps of a running row.", labels=["model"]
        )
        for model, _, now in stats:
            longest.add_metric([model], now.gap_s.largest)
        yield longest
        depths = HistogramMetricFamily("deed_token_depth", "Decoder layer that gave a token.", labels=["model"])
        for model, layers, now in stats:
            counts = [now.depths.get(depth, 0) for depth in range(1, layers + 1)]
            total = sum(depth * count for depth, count in enumerate(counts, 1))
            running, buckets = 0, []
            for depth, count in enumerate(counts, 1):
                running += count
                buckets.append((f"{float(depth)}", running))
            depths.add_metric([model], [*buckets, ("+Inf", running)], total)
        yield depths


def _cumulated(histogram: Any) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus has them, each with all below it, and the sum."""
    running, buckets = 0, []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    return buckets, histogram.total
