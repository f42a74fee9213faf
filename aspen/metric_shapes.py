"""Prometheus' metric families out of counters that parts of the node keep anyway.

Names follow Prometheus' conventions: base units; a counter's `_total` is added to the name that is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from aspen.histogram import Histogram


class Page(Collector):
    """What one process tells Prometheus: `collect` yields it, at each request anew. Nothing is registered
    globally, so that there may be several in one process."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()  # asked at registration, before all parts are there


def gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)


def counters(
    name: str, meaning: str, label: str, counts: Mapping[str, int], known: Iterable[str] = ()
) -> Metric:
    """`known` values are there from the start, at 0: so a rate sees the first of them."""
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in sorted({**dict.fromkeys(known, 0), **counts}.items()):
        family.add_metric([value], count)
    return family


def histogram(name: str, meaning: str, found: Histogram) -> Metric:
    return HistogramMetricFamily(
        name, meaning, buckets=cumulative(found.bounds, found.buckets), sum_value=found.sum
    )


def histograms(name: str, meaning: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=[label])
    for value, each in found.items():
        family.add_metric([value], cumulative(each.bounds, each.buckets), each.sum)
    return family


def cumulative(bounds: Sequence[float], buckets: Sequence[int]) -> list[Any]:
    """As Prometheus wants them: (upper bound, how many were no more)."""
    return list(zip([*map(repr, bounds), "+Inf"], accumulate(buckets), strict=True))
