"""What is told to Prometheus of the certificate in use (shell)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from aspen.metric_shapes import counter, gauge
from aspen.tls.certificates import Certificates


def certificate_metrics(certificates: Certificates) -> Iterator[Metric]:
    yield gauge(
        "aspen_tls_certificate_not_after_timestamp_seconds",
        "When the certificate in use ends, in seconds since 1970.",
        certificates.not_after_s,
    )
    yield counter("aspen_tls_certificate_loads", "Certificates taken up.", certificates.loads)
    yield counter(
        "aspen_tls_certificate_failures", "Certificates that could not be taken up.", certificates.failures
    )
