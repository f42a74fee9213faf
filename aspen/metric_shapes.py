"""Prometheus' metric families out of counters that parts of the node keep anyway.

Names follow Prometheus' conventions: base units; a counter's `_total` is added to the name that is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from aspen.histogram import Histogram


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
