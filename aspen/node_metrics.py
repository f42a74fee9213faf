"""What a node tells Prometheus: the counters its parts keep anyway, read when somebody asks.

Nothing is registered globally, so that several nodes can run in one process. Names follow Prometheus'
conventions: base units, `_total` for what only grows. docs/metrics.md is their table, held to this by a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

import lmdb
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from aspen import __version__
from aspen.dns.notify import Notifier
from aspen.dns.primary import Primary
from aspen.dns.tally import LATENCY_BOUNDS_NS, LATENCY_BUCKETS, RCODES
from aspen.dns.udp import UdpWorkers
from aspen.dns.udp_answers import Counter
from aspen.dns.wire import Rcode
from aspen.errors import StorageError
from aspen.http.server import HttpServer
from aspen.net.endpoint import Endpoint
from aspen.node_dht import NodeDht
from aspen.node_discovery import Discovery
from aspen.node_dns import NodeDns
from aspen.raft.cluster import Consensus
from aspen.raft.rawnode import Role
from aspen.state.kv_reader import LmdbKv
from aspen.state.store import STATE_TABLES, Store
from aspen.state.zones import LmdbZones
from aspen.tls.certificates import Certificates

_NS: Final = 1e9
_RCODE_NAMES: Final = {code.value: code.name for code in Rcode}


class Running(Protocol):
    """The parts of a running node (`aspen.node.Node`)."""

    node_id: int
    consensus: Consensus
    kv: LmdbKv
    zones: LmdbZones
    dht: NodeDht
    http: HttpServer
    discovery: Discovery
    certificates: Certificates | None
    dns: NodeDns | None


class NodeMetrics(Collector):
    """Collects on the event loop's thread; cheap enough for that (no walk over data)."""

    def __init__(self, node: Running, store: Store, endpoint: Endpoint) -> None:
        self._node = node
        self._store = store
        self._endpoint = endpoint
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()  # asked at registration, before the node runs whole

    def collect(self) -> Iterator[Metric]:
        node = self._node
        info = GaugeMetricFamily(
            "aspen_node_info", "This node and its version; always 1.", labels=["node_id", "version"]
        )
        info.add_metric([str(node.node_id), __version__], 1)
        yield info
        yield from _raft(node.consensus)
        yield from self._state()
        yield from self._network()
        if node.dns is not None:
            yield from _dns(node.dns)
        dht = node.dht.dht
        if dht is not None:
            yield _counter("aspen_dht_lookups", "Look-ups in the BitTorrent DHT.", dht.lookups)
            yield _counter("aspen_dht_found", "Look-ups that found a packet.", dht.found)
            yield _counter("aspen_dht_published", "Packets published to the DHT.", dht.published)
            yield _counter("aspen_dht_publish_failures", "Packets no node took.", dht.publish_failures)
            yield _counter(
                "aspen_dht_publish_dropped", "Packets not queued for want of room.", dht.publish_dropped
            )
            yield _gauge("aspen_dht_publish_waiting", "Packets queued to be published.", dht.waiting)
        certificates = node.certificates
        if certificates is not None:
            yield _gauge(
                "aspen_tls_certificate_not_after_seconds",
                "When the certificate in use ends, in seconds since 1970.",
                certificates.not_after_s,
            )
            yield _counter("aspen_tls_certificate_loads", "Certificates taken up.", certificates.loads)
            yield _counter(
                "aspen_tls_certificate_failures",
                "Certificates that could not be taken up.",
                certificates.failures,
            )

    def _state(self) -> Iterator[Metric]:
        store, node = self._store, self._node
        entries = GaugeMetricFamily("aspen_store_table_entries", "Entries of a table.", labels=["table"])
        table_bytes = GaugeMetricFamily(
            "aspen_store_table_bytes", "Pages of a table, in bytes.", labels=["table"]
        )
        try:
            with store.read() as txn:
                tables = {name: txn.stat(store.tables[name]) for name in (*STATE_TABLES, "log")}
            info, page_bytes = store.environment.info(), int(store.environment.stat()["psize"])
            revision, zones = node.kv.revision(), len(node.zones.apexes())
        except (StorageError, lmdb.Error):
            return  # between two environments, or failed: /healthz tells
        for name, stat in tables.items():
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            entries.add_metric([name], stat["entries"])
            table_bytes.add_metric([name], pages * page_bytes)
        yield entries
        yield table_bytes
        yield _gauge(
            "aspen_store_used_bytes",
            "The store's file up to its last page, those free to be used again included.",
            (info["last_pgno"] + 1) * page_bytes,
        )
        yield _gauge("aspen_store_map_bytes", "What the store can grow to.", info["map_size"])
        yield _gauge(
            "aspen_packets", "Signed packets stored, tombstones included.", tables["packets"]["entries"]
        )
        yield _gauge("aspen_kv_revision", "Revision of the newest change in the key-value store.", revision)
        yield _gauge("aspen_zones", "Authored zones, enabled or not.", zones)

    def _network(self) -> Iterator[Metric]:
        endpoint, core = self._endpoint, self._node.discovery.gossip.core
        connections = GaugeMetricFamily(
            "aspen_quic_connections", "Connections to other nodes, by protocol.", labels=["protocol"]
        )
        by_protocol: dict[str, int] = {}
        for connection in endpoint.connections():
            by_protocol[connection.alpn] = by_protocol.get(connection.alpn, 0) + 1
        for protocol, count in sorted(by_protocol.items()):
            connections.add_metric([protocol], count)
        yield connections
        yield _by("aspen_quic_refusals", "Peers refused.", "reason", endpoint.refusals)
        yield _by("aspen_gossip_refused", "Announcements refused.", "reason", core.refused)
        yield _gauge("aspen_gossip_known_nodes", "Nodes whose announcement is known.", len(core.known))
        yield _gauge("aspen_gossip_neighbours", "Nodes gossiped with directly.", len(core.overlay.neighbours))
        yield _gauge("aspen_http_connections", "HTTP connections open.", self._node.http.connections)


# --- Raft -----------------------------------------------------------------------------------


def _raft(consensus: Consensus) -> Iterator[Metric]:
    driver = consensus.driver
    status = driver.raw.status()
    role = GaugeMetricFamily("aspen_raft_role", "1 for the role this node has.", labels=["role"])
    for each in Role:
        role.add_metric([each.name.lower()], float(driver.role is each))
    yield role
    yield _gauge("aspen_raft_term", "The current term.", driver.raw.term)
    yield _gauge("aspen_raft_leader_id", "Node id of the leader; 0 if none is known.", driver.leader_id)
    yield _gauge("aspen_raft_members", "Members of the cluster.", len(consensus.roster.members))
    yield _gauge("aspen_raft_commit_index", "Highest log index known committed.", driver.raw.commit_index)
    yield _gauge("aspen_raft_applied_index", "Log index of the state on disk.", driver.applied_index)
    yield _gauge("aspen_raft_last_index", "Highest index in this node's log.", status.last_index)
    yield _gauge(
        "aspen_raft_last_contact_seconds",
        "Since a leader was heard from: 0 on the leader, -1 if never.",
        -1.0 if (since_ms := consensus.since_contact_ms()) < 0 else since_ms / 1_000,
    )
    yield _gauge("aspen_raft_proposals_pending", "Writes of this node that wait.", len(driver.proposals))
    peers = ["peer"]
    match = GaugeMetricFamily(
        "aspen_raft_peer_match_index", "On the leader: highest index known in a member's log.", labels=peers
    )
    lag = GaugeMetricFamily(
        "aspen_raft_peer_lag_entries", "On the leader: entries a member's log lacks.", labels=peers
    )
    inflight = GaugeMetricFamily(
        "aspen_raft_peer_inflight_messages",
        "On the leader: appends a member has not acknowledged.",
        labels=peers,
    )
    for node_id, progress in sorted(status.progress.items()):
        if node_id != status.node_id:
            match.add_metric([str(node_id)], progress.match)
            lag.add_metric([str(node_id)], max(0, status.last_index - progress.match))
            inflight.add_metric([str(node_id)], progress.inflight_messages)
    yield from (match, lag, inflight)


# --- DNS ------------------------------------------------------------------------------------


def _dns(dns: NodeDns) -> Iterator[Metric]:
    udp = dns.udp_tally()
    queries = CounterMetricFamily("aspen_dns_queries", "Queries answered.", labels=["transport", "rcode"])
    times = HistogramMetricFamily(
        "aspen_dns_response_seconds", "Time to make an answer.", labels=["transport"]
    )
    for transport in sorted({"udp", *dns.tallies}):
        rcodes, buckets, sum_ns = [0] * RCODES, [0] * LATENCY_BUCKETS, 0
        if transport == "udp":
            rcodes = udp[Counter.RCODE_0 : Counter.RCODE_0 + RCODES]
            buckets = udp[Counter.LATENCY_0 : Counter.LATENCY_0 + LATENCY_BUCKETS]
            sum_ns = udp[Counter.LATENCY_SUM_NS]
        tally = dns.tallies.get(transport)
        if tally is not None:
            rcodes = _sums(rcodes, tally.rcodes)
            buckets = _sums(buckets, tally.buckets)
            sum_ns += tally.sum_ns
        for code, count in enumerate(rcodes):
            if count or not code:
                queries.add_metric([transport, _RCODE_NAMES.get(code, str(code))], count)
        times.add_metric([transport], _cumulative(buckets), sum_ns / _NS)
    yield queries
    yield times
    yield from _udp(udp)
    if isinstance(dns.udp, UdpWorkers):
        yield _counter("aspen_dns_worker_restarts", "UDP workers started again.", dns.udp.restarts)
    if dns.udp is not None and dns.udp.forwarded is not None:
        dropped = dns.udp.forwarded.dropped
        yield _counter(
            "aspen_dns_udp_forwarded_dropped", "Of those passed on, not answered: too many.", dropped
        )
    if dns.tcp is not None:
        yield _gauge(
            "aspen_dns_tcp_connections", "Connections open for DNS over TCP.", dns.tcp.connection_count
        )
        yield _counter("aspen_dns_tcp_refused", "DNS over TCP connections over a limit.", dns.tcp.refused)
    if dns.primary is not None and dns.notifier is not None:
        yield from _secondaries(dns.primary, dns.notifier)


def _udp(udp: Sequence[int]) -> Iterator[Metric]:
    cookies = {
        "new": udp[Counter.COOKIES_NEW],
        "good": udp[Counter.COOKIES_GOOD],
        "bad": udp[Counter.COOKIES_BAD],
    }
    yield _counter("aspen_dns_udp_ready_replies", "Answered from ready replies.", udp[Counter.HITS])
    yield _counter("aspen_dns_udp_looked_up", "Queries looked up in the replica.", udp[Counter.MISSES])
    yield _counter("aspen_dns_udp_ignored", "Datagrams that must not be answered.", udp[Counter.IGNORED])
    yield _counter(
        "aspen_dns_udp_failures", "SERVFAIL: the replica could not be read.", udp[Counter.FAILURES]
    )
    yield _counter("aspen_dns_udp_send_errors", "Replies the socket did not take.", udp[Counter.SEND_ERRORS])
    yield _counter(
        "aspen_dns_udp_forwarded", "Queries passed on to the node process.", udp[Counter.FORWARDED]
    )
    yield _counter("aspen_dns_udp_truncated", "Replies under TC, slips included.", udp[Counter.TRUNCATED])
    yield _counter("aspen_dns_udp_limited", "Replies over the rate, not sent.", udp[Counter.LIMITED])
    yield _counter("aspen_dns_udp_slipped", "Replies over the rate, sent empty.", udp[Counter.SLIPPED])
    yield _counter(
        "aspen_dns_udp_forgotten",
        "Changed packets whose ready replies were forgotten.",
        udp[Counter.FORGOTTEN],
    )
    yield _counter("aspen_dns_udp_flushes", "Times all ready replies were forgotten.", udp[Counter.FLUSHED])
    yield _by("aspen_dns_udp_cookies", "Queries with a DNS cookie.", "standing", cookies)


def _secondaries(primary: Primary, notifier: Notifier) -> Iterator[Metric]:
    transfers = {form.value: count for form, count in primary.transfers.items()}
    yield _by("aspen_dns_transfers", "Zone transfers answered, by what they held.", "form", transfers)
    yield _counter("aspen_dns_notify_sent", "NOTIFY messages sent, repetitions included.", notifier.sent)
    yield _counter("aspen_dns_notify_answered", "NOTIFY messages answered.", notifier.answered)


# --- shapes ---------------------------------------------------------------------------------


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    """`_total` is added to the name."""
    return CounterMetricFamily(name, meaning, value=value)


def _by(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _sums(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _cumulative(buckets: Sequence[int]) -> list[Any]:
    """As Prometheus wants them: (upper bound in seconds, how many took no longer)."""
    bounds = [*(repr(bound / _NS) for bound in LATENCY_BOUNDS_NS), "+Inf"]
    return list(zip(bounds, accumulate(buckets), strict=True))
