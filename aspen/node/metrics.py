"""What a node tells Prometheus: the counters its parts keep anyway, read when somebody asks.

Names follow Prometheus' conventions: base units, `_total` for what only grows. docs/metrics.md is their
table, held to this by a test.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

import lmdb
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from aspen import __version__
from aspen.discovery.messages import KINDS
from aspen.errors import StorageError
from aspen.http.server import HttpServer
from aspen.metric_shapes import Page, counter, counters, gauge, histograms
from aspen.net.endpoint import Endpoint
from aspen.node.dht import NodeDht
from aspen.node.discovery import Discovery
from aspen.node.dns import NodeDns
from aspen.node.door import Door
from aspen.node.metrics_dns import dns_metrics
from aspen.node.metrics_raft import raft_metrics
from aspen.node.pkarr import PkarrParts
from aspen.node.relay import NodeRelays
from aspen.pkarr.gate import LIMITS
from aspen.raft.cluster import Consensus
from aspen.relay.metrics import relay_metrics
from aspen.services.backup import Backups
from aspen.state.kv_reader import LmdbKv
from aspen.state.store import STATE_TABLES, Store
from aspen.state.zones import LmdbZones
from aspen.tls.certificates import Certificates
from aspen.tls.metrics import certificate_metrics

_META_PAGES = 2


class Running(Protocol):
    """The parts of a running node (`aspen.node.Node`)."""

    node_id: int
    consensus: Consensus
    kv: LmdbKv
    zones: LmdbZones
    dht: NodeDht
    http: HttpServer
    discovery: Discovery
    door: Door
    certificates: Certificates | None
    dns: NodeDns | None
    backups: Backups


class NodeMetrics(Page):
    """Collects on the event loop's thread; cheap enough for that (no walk over data)."""

    def __init__(
        self, node: Running, store: Store, endpoint: Endpoint, pkarr: PkarrParts | None = None
    ) -> None:
        super().__init__()
        self._node = node
        self._store = store
        self._endpoint = endpoint
        self._pkarr = pkarr

    def collect(self) -> Iterator[Metric]:
        node = self._node
        info = GaugeMetricFamily(
            "aspen_node_info", "This node and its version; always 1.", labels=["node_id", "version"]
        )
        info.add_metric([str(node.node_id), __version__], 1)
        yield info
        yield from self._process.collect()
        yield from raft_metrics(node.consensus)
        yield from self._state()
        yield from _backups(node.backups)
        yield from self._network()
        if node.dns is not None:
            yield from dns_metrics(node.dns)
        if self._pkarr is not None:
            yield from _pkarr(self._pkarr)
        dht = node.dht.dht
        if dht is not None:
            yield counter("aspen_dht_lookups", "Look-ups in the BitTorrent DHT.", dht.lookups)
            yield counter("aspen_dht_found", "Look-ups that found a packet.", dht.found)
            yield counter("aspen_dht_published", "Packets published to the DHT.", dht.published)
            yield counter("aspen_dht_publish_failures", "Packets no node took.", dht.publish_failures)
            yield counter(
                "aspen_dht_publish_dropped", "Packets not queued for want of room.", dht.publish_dropped
            )
            yield gauge("aspen_dht_publish_waiting", "Packets queued to be published.", dht.waiting)
        if node.certificates is not None:
            yield from certificate_metrics(node.certificates)

    def _state(self) -> Iterator[Metric]:
        store, node = self._store, self._node
        entries = GaugeMetricFamily("aspen_store_table_entries", "Entries of a table.", labels=["table"])
        table_bytes = GaugeMetricFamily(
            "aspen_store_table_bytes", "Pages of a table, in bytes.", labels=["table"]
        )
        try:
            with store.read() as txn:
                tables = {name: txn.stat(table) for name, table in store.tables.items()}
            info, root = store.environment.info(), store.environment.stat()
            disk = os.statvfs(store.data_dir)
            revision, zones = node.kv.revision(), len(node.zones.apexes())
        except (StorageError, lmdb.Error, OSError):
            return  # between two environments, or failed: /healthz tells
        page_bytes = int(root["psize"])
        for name in (*STATE_TABLES, "log"):
            entries.add_metric([name], tables[name]["entries"])
            table_bytes.add_metric([name], _pages(tables[name]) * page_bytes)
        pages = info["last_pgno"] + 1
        in_use = _META_PAGES + _pages(root) + sum(map(_pages, tables.values()))
        yield entries
        yield table_bytes
        yield gauge(
            "aspen_store_used_bytes",
            "The store's file up to its last page, those free to be used again included.",
            pages * page_bytes,
        )
        yield gauge(
            "aspen_store_free_bytes",
            "Pages in it that are free to be used again, and the list of them.",
            max(0, pages - in_use) * page_bytes,
        )
        yield gauge(
            "aspen_store_readers", "Slots of readers in use, UDP workers' included.", info["num_readers"]
        )
        yield gauge(
            "aspen_store_disk_free_bytes",
            "Room on the data directory's file system for those who aren't root.",
            disk.f_bavail * disk.f_frsize,
        )
        yield gauge("aspen_store_disk_bytes", "Size of that file system.", disk.f_blocks * disk.f_frsize)
        yield gauge("aspen_store_map_bytes", "What the store can grow to.", info["map_size"])
        yield gauge(
            "aspen_packets", "Signed packets stored, tombstones included.", tables["packets"]["entries"]
        )
        yield gauge("aspen_kv_revision", "Revision of the newest change in the key-value store.", revision)
        yield gauge("aspen_zones", "Authored zones, enabled or not.", zones)

    def _network(self) -> Iterator[Metric]:
        endpoint, core = self._endpoint, self._node.discovery.gossip.core
        connections = GaugeMetricFamily(
            "aspen_quic_connections", "Connections to other nodes, by protocol.", labels=["protocol"]
        )
        open_now = endpoint.connections()
        for protocol, count in sorted(Counter(connection.alpn for connection in open_now).items()):
            connections.add_metric([protocol], count)
        yield connections
        relayed = sum(bool(connection.relay) for connection in open_now)
        yield gauge("aspen_quic_relayed_connections", "Connections to other nodes through a relay.", relayed)
        yield counters("aspen_quic_refusals", "Peers refused.", "reason", endpoint.refusals)
        for name, meaning, counts in (
            ("aspen_gossip_sent", "Gossip messages sent.", core.sent),
            ("aspen_gossip_received", "Gossip messages received.", core.received),
        ):
            by_kind = {KINDS[message]: count for message, count in counts.items()}
            yield counters(name, meaning, "kind", by_kind, KINDS.values())
        yield counters("aspen_gossip_refused", "Announcements refused.", "reason", core.refused)
        yield counters(
            "aspen_join_requests",
            "Nodes that asked this one to be let into the cluster, by what became of it.",
            "result",
            self._node.door.answered,
        )
        yield gauge("aspen_gossip_known_nodes", "Nodes whose announcement is known.", len(core.known))
        yield gauge("aspen_gossip_neighbours", "Nodes gossiped with directly.", len(core.overlay.neighbours))
        yield gauge("aspen_http_connections", "HTTP connections open.", self._node.http.connections)
        yield from _relays(self._node.discovery.relays)


def _backups(backups: Backups) -> Iterator[Metric]:
    yield counter("aspen_backups", "Backups that this node has sent whole.", backups.completed)
    yield counter("aspen_backup_failures", "Backups that were broken off.", backups.broken_off)
    yield gauge(
        "aspen_backup_last_timestamp_seconds",
        "When this node last sent one whole, in seconds since 1970; 0 if it hasn't since its start.",
        backups.last_s,
    )


def _relays(relays: NodeRelays) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "aspen_relay_connected", "1 for each relay that is connected; 0 for one that isn't.", labels=["relay"]
    )
    for status in relays.pool.status():
        connected.add_metric([status.url], float(status.connected))
    yield connected
    yield from relay_metrics(relays.server)


def _pages(stat: Mapping[str, int]) -> int:
    """Of an LMDB table."""
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]


def _pkarr(pkarr: PkarrParts) -> Iterator[Metric]:
    puts = pkarr.relay.puts
    yield counters("aspen_pkarr_puts", "PUTs of packets, by what became of them.", "outcome", puts.outcomes)
    yield histograms(
        "aspen_pkarr_put_stage_seconds", "Time a PUT spends in each of its stages.", "stage", puts.stages
    )
    yield counters(
        "aspen_pkarr_rate_limited",
        "Requests refused for coming too often.",
        "limit",
        pkarr.gate.limited,
        LIMITS,
    )
