"""What a relay tells Prometheus: the same of a node's own relay and of one by itself (shell).

docs/metrics.md is the table, held to this by tests.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from aspen import __version__
from aspen.metric_shapes import Page, counter, counters, gauge
from aspen.relay.access import Access
from aspen.relay.hub import DROPS
from aspen.relay.server import RelayServer
from aspen.tls.certificates import Certificates
from aspen.tls.metrics import certificate_metrics


def relay_metrics(server: RelayServer | None) -> Iterator[Metric]:
    """All families; of a node that is no relay they tell of nobody."""
    server = server or RelayServer(Access())
    hub = server.hub
    yield gauge("aspen_relay_clients", "Nodes connected to this relay.", len(hub))
    yield gauge("aspen_relay_max_clients", "How many it takes at one time.", hub.max_clients)
    yield gauge("aspen_relay_handshakes", "Clients that have not proven themselves yet.", server.handshakes)
    yield counter("aspen_relay_connections", "Clients let in.", hub.entered)
    yield gauge("aspen_relay_queued_bytes", "What waits for clients to take it.", hub.queued_bytes)
    yield counter("aspen_relay_forwarded_datagrams", "Datagrams passed on.", hub.forwarded)
    yield counter("aspen_relay_forwarded_bytes", "Bytes of those.", hub.forwarded_bytes)
    yield counters("aspen_relay_dropped_datagrams", "Datagrams dropped.", "reason", hub.dropped, DROPS)
    yield counters("aspen_relay_refused", "Clients refused.", "reason", server.refusals.counts)


class RelayMetrics(Page):
    """Of a process that is a relay and nothing else."""

    def __init__(self, server: RelayServer, certificates: Certificates | None) -> None:
        super().__init__()
        self._server = server
        self._certificates = certificates

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("aspen_relay_info", "This relay's version; always 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._process.collect()
        yield from relay_metrics(self._server)
        if self._certificates is not None:
            yield from certificate_metrics(self._certificates)
