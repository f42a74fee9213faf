"""What a node tells Prometheus of its DNS: the node process's counters and those of the UDP workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from aspen.dns.notify import Notifier
from aspen.dns.primary import Primary
from aspen.dns.tally import LATENCY_BOUNDS_NS, LATENCY_BUCKETS, ResponseTally
from aspen.dns.udp import UdpWorkers
from aspen.dns.udp_answers import RCODE_WORDS, Counter, latency_row
from aspen.dns.wire import Rcode
from aspen.metric_shapes import counter, counters, cumulative, gauge
from aspen.node.dns import NodeDns

_NS: Final = 1e9
_BOUNDS_S: Final = [bound / _NS for bound in LATENCY_BOUNDS_NS]
_RCODE_NAMES: Final = {code.value: code.name for code in Rcode}


def dns_metrics(dns: NodeDns) -> Iterator[Metric]:
    udp = dns.udp_tally()
    labels = ["transport", "rcode"]
    queries = CounterMetricFamily("aspen_dns_queries", "Queries answered.", labels=labels)
    times = HistogramMetricFamily("aspen_dns_response_seconds", "Time to make an answer.", labels=labels)
    for transport in sorted({"udp", *dns.tallies}):
        tally = ResponseTally()
        if transport in dns.tallies:
            tally.add(dns.tallies[transport])
        if transport == "udp":
            tally.add(_of_workers(udp))
        for code, count in enumerate(tally.rcodes):
            if count or not code:
                of = [transport, _RCODE_NAMES.get(code, str(code))]
                queries.add_metric(of, count)
                times.add_metric(of, cumulative(_BOUNDS_S, tally.buckets[code]), tally.sums_ns[code] / _NS)
    yield queries
    yield times
    yield from _udp(udp)
    if isinstance(dns.udp, UdpWorkers):
        yield counter("aspen_dns_worker_restarts", "UDP workers started again.", dns.udp.restarts)
        yield from _workers(dns.udp.pids)
    if dns.udp is not None and dns.udp.forwarded is not None:
        dropped = dns.udp.forwarded.dropped
        yield counter(
            "aspen_dns_udp_forwarded_dropped", "Of those passed on, not answered: too many.", dropped
        )
    if dns.tcp is not None:
        yield gauge(
            "aspen_dns_tcp_connections", "Connections open for DNS over TCP.", dns.tcp.connection_count
        )
        yield counter("aspen_dns_tcp_refused", "DNS over TCP connections over a limit.", dns.tcp.refused)
    if dns.primary is not None and dns.notifier is not None:
        yield from _secondaries(dns.primary, dns.notifier)


def _of_workers(udp: Sequence[int]) -> ResponseTally:
    """What UDP workers have answered, out of their words."""
    tally = ResponseTally()
    for code, word in RCODE_WORDS.items():
        row = latency_row(word)
        tally.rcodes[code] = udp[word]
        tally.buckets[code] = list(udp[row : row + LATENCY_BUCKETS])
        tally.sums_ns[code] = udp[row + LATENCY_BUCKETS]
    return tally


def _udp(udp: Sequence[int]) -> Iterator[Metric]:
    cookies = {
        "new": udp[Counter.COOKIES_NEW],
        "good": udp[Counter.COOKIES_GOOD],
        "bad": udp[Counter.COOKIES_BAD],
    }
    yield counter("aspen_dns_udp_ready_replies", "Answered from ready replies.", udp[Counter.HITS])
    yield counter("aspen_dns_udp_looked_up", "Queries looked up in the replica.", udp[Counter.MISSES])
    yield counter("aspen_dns_udp_ignored", "Datagrams that must not be answered.", udp[Counter.IGNORED])
    yield counter("aspen_dns_udp_failures", "SERVFAIL: the replica could not be read.", udp[Counter.FAILURES])
    yield counter("aspen_dns_udp_send_errors", "Replies the socket did not take.", udp[Counter.SEND_ERRORS])
    yield counter("aspen_dns_udp_forwarded", "Queries passed on to the node process.", udp[Counter.FORWARDED])
    yield counter("aspen_dns_udp_truncated", "Replies under TC, slips included.", udp[Counter.TRUNCATED])
    yield counter("aspen_dns_udp_limited", "Replies over the rate, not sent.", udp[Counter.LIMITED])
    yield counter("aspen_dns_udp_slipped", "Replies over the rate, sent empty.", udp[Counter.SLIPPED])
    yield counter(
        "aspen_dns_udp_forgotten",
        "Changed packets whose ready replies were forgotten.",
        udp[Counter.FORGOTTEN],
    )
    yield counter("aspen_dns_udp_flushes", "Times all ready replies were forgotten.", udp[Counter.FLUSHED])
    yield counters("aspen_dns_udp_cookies", "Queries with a DNS cookie.", "standing", cookies)


def _secondaries(primary: Primary, notifier: Notifier) -> Iterator[Metric]:
    transfers = {form.value: count for form, count in primary.transfers.items()}
    yield counters("aspen_dns_transfers", "Zone transfers answered, by what they held.", "form", transfers)
    yield counter("aspen_dns_notify_sent", "NOTIFY messages sent, repetitions included.", notifier.sent)
    yield counter("aspen_dns_notify_answered", "NOTIFY messages answered.", notifier.answered)


def _workers(pids: Sequence[int]) -> Iterator[Metric]:
    """What the kernel knows of the worker processes; one that has just ended isn't told of."""
    memory = GaugeMetricFamily(
        "aspen_dns_worker_resident_memory_bytes", "Resident memory of a UDP worker.", labels=["worker"]
    )
    files = GaugeMetricFamily("aspen_dns_worker_open_fds", "Files open in a UDP worker.", labels=["worker"])
    cpu = CounterMetricFamily(
        "aspen_dns_worker_cpu_seconds", "Processor time of a UDP worker.", labels=["worker"]
    )
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        "process_resident_memory_bytes": memory,
        "process_open_fds": files,
        "process_cpu_seconds_total": cpu,
    }
    for index, pid in enumerate(pids):
        for found in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            for sample in found.samples:
                if sample.name in families:
                    families[sample.name].add_metric([str(index)], sample.value)
    yield from families.values()
