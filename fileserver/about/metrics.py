"""`/-/metrics`: the counters for Prometheus, in its text format and with its conventions for names and units.

Nothing is kept here: a collector reads what the rooms have counted, when it is asked. The format is
prometheus_client's, whose import takes a twentieth of a second: import this when it is needed.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from fileserver.about.counters import Counters, word
from fileserver.latency import BOUNDS, PERCENTILES, STEPS, Histogram
from lrucache import CacheStats

CONTENT_TYPE = CONTENT_TYPE_LATEST

_STEP = len(STEPS) // 2
"""Every so many of BOUNDS are Prometheus's buckets: two to a decade, which keeps the series few."""


def text(counters: Counters) -> Iterator[bytes]:
    """The exposition, a metric at a time."""
    for collector in (GserverCollector(counters), ProcessCollector(registry=None)):
        for metric in collector.collect():
            yield generate_latest(_Single(metric))


class GserverCollector(Collector):
    """The metrics of one server, read from its counters at the time of asking."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Every metric, each of the instant at which it is asked for."""
        cache = self._counters.store.cache.stats()
        yield from self._answers(cache)
        yield from self._cache(cache)
        yield from self._disk()
        yield from self._connections()
        yield from self._process()

    def _answers(self, cache: CacheStats) -> Iterator[Metric]:
        traffic = self._counters.traffic
        answers = {
            (method, str(status), word(outcome)): count
            for (method, status, outcome), count in traffic.answers().items()
        }
        yield _counter("requests", "Answers that have ended.", answers, "method", "status", "cache")
        yield _counter("sent_bytes", "Bytes that sockets took, heads included.", {(): traffic.bytes_sent})
        decided = {
            ("hit",): cache.hits,
            ("miss",): cache.misses,
            ("coalesced",): cache.coalesced,
            ("bypass",): cache.bypasses,
        }
        yield _counter("cache_requests", "File answers, by where the bytes come from.", decided, "cache")
        first = {(word(outcome),): latency.first_byte for outcome, latency in traffic.latency.items()}
        total = {(word(outcome),): latency.total for outcome, latency in traffic.latency.items()}
        help_first = "Time from the whole request to the first byte of its answer."
        help_total = "Time from the whole request to the last byte of its answer."
        yield _histogram("time_to_first_byte", help_first, first, "cache")
        yield _histogram("response_duration", help_total, total, "cache")
        yield _summary("time_to_first_byte_percentiles", f"{help_first} Since the start.", first, "cache")
        yield _summary("response_duration_percentiles", f"{help_total} Since the start.", total, "cache")

    def _cache(self, cache: CacheStats) -> Iterator[Metric]:
        held = {("cached",): cache.cached, ("filling",): cache.filling}
        yield _gauge("cache_bytes", "File bytes in memory; never more than the capacity.", held, "state")
        yield _gauge("cache_capacity_bytes", "The most file bytes there may be in memory.", {(): cache.capacity})
        yield _gauge("cache_peak_bytes", "The most file bytes there have been in memory.", {(): cache.peak})
        yield _gauge("cache_entries", "Files in the cache.", {(): cache.entries})
        yield _counter("cache_evictions", "Files evicted.", {(): cache.evictions})
        yield _counter("cache_violations", "Times that a promise of the cache was broken.", {(): cache.violations})
        fills = len(self._counters.store.fills)
        yield _gauge("fills_in_flight", "Files being read into the cache.", {(): fills})

    def _disk(self) -> Iterator[Metric]:
        disk = self._counters.store.disk
        reads = {("inline",): disk.inline_reads, ("pool",): disk.pool_reads}
        yield _histogram("disk_read_duration", "Reads, from the page cache or in a thread.", reads, "path")

    def _connections(self) -> Iterator[Metric]:
        traffic = self._counters.traffic
        states = {(state.value,): count for state, count in traffic.by_state().items()}
        yield _gauge("connections", "Open connections, by what they wait for.", states, "state")
        expired = {(state.value,): count for state, count in traffic.expired.items()}
        yield _counter("connections_expired", "Connections that waited too long.", expired, "state")
        gave_way = {(): traffic.gave_way}
        yield _counter("connections_gave_way", "Idle connections closed for a newcomer.", gave_way)
        turned_away = {(): traffic.turned_away}
        yield _counter("connections_turned_away", "Newcomers answered 503 for want of room.", turned_away)
        shortages = {(): traffic.shortages}
        yield _counter("accept_shortages", "Times without descriptors or memory to accept with.", shortages)
        viewers = self._counters.viewers.taken
        yield _gauge("dashboard_viewers", "Who watches the dashboard live.", {(): viewers})

    def _process(self) -> Iterator[Metric]:
        lag, access_log = self._counters.lag, self._counters.access_log
        yield _histogram("loop_lag", "How late a greenlet woke that should every 100 ms.", {(): lag.late})
        yield _counter("loop_stalls", "Times it was more than 100 ms late.", {(): lag.stalls})
        if access_log is not None:
            dropped = {(): access_log.dropped}
            yield _counter("access_log_dropped_lines", "Lines that the access log lost.", dropped)


class _Single(Collector):
    """One metric, for generate_latest."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


# Values by a tuple of what the labels are.


def _counter(name: str, about: str, values: Mapping[Any, int], *labels: str) -> Metric:
    family = CounterMetricFamily(f"gserver_{name}", about, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _gauge(name: str, about: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"gserver_{name}", about, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _histogram(name: str, about: str, values: Mapping[Any, Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"gserver_{name}_seconds", about, labels=labels)
    for of, histogram in values.items():
        held = list(accumulate(histogram.counts))
        buckets: list[tuple[str, float]] = [
            (repr(BOUNDS[index]), float(held[index])) for index in range(0, len(BOUNDS), _STEP)
        ]
        family.add_metric(of, [*buckets, ("+Inf", float(held[-1]))], histogram.sum)
    return family


def _summary(name: str, about: str, values: Mapping[Any, Histogram], *labels: str) -> Metric:
    name = f"gserver_{name}_seconds"
    family = Metric(name, about, "summary")
    for of, histogram in values.items():
        named = dict(zip(labels, of, strict=True))
        for share in PERCENTILES.values():
            seconds = histogram.percentile(share)
            value = float("nan") if seconds is None else seconds
            family.add_sample(name, {**named, "quantile": str(share)}, value)
        family.add_sample(f"{name}_sum", named, histogram.sum)
        family.add_sample(f"{name}_count", named, histogram.count)
    return family
