"""The metrics of a whole node: each transport's series move by what was asked; the page tells them all."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import dns.message
import dns.query
import promql
import pytest
from clients import HOST, dns_query, http_request, sign, texts
from cluster import COOKIE, Cluster, wait_until
from ports import free_port
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from aspen.config import ClusterBootstrapConfig, DnsServerConfig, HttpsConfig
from aspen.node import bootstrap_node
from aspen.relay.access import Access
from aspen.relay.hub import RelayLimits
from aspen.relay.standalone import StandaloneRelay
from aspen.tls.certificates import Certificates
from aspen.tls.sources import SelfSigned

PROMTOOL = shutil.which("promtool")
ONLY_OF_RELAYS = "aspen_relay_info"
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def scraped(http_port: int) -> dict[str, Metric]:
    answer = http_request(http_port, "GET", "/metrics")
    assert answer.status == 200, answer.body
    check_by_promtool(answer.body)
    return {family.name: family for family in text_string_to_metric_families(answer.body.decode())}


def check_by_promtool(page: bytes) -> None:
    """Names and help texts are as Prometheus would have them."""
    if PROMTOOL is not None:
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample and each.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else 0.0


def answered(families: dict[str, Metric], transport: str) -> float:
    return sum(
        each.value
        for each in families["aspen_dns_queries"].samples
        if each.name == "aspen_dns_queries_total" and each.labels["transport"] == transport
    )


def everything(data_dir: Path) -> ClusterBootstrapConfig:
    """A node with all that can be switched on and needs nobody else."""
    return ClusterBootstrapConfig(
        node_id=1,
        data_dir=data_dir,
        cookie=COOKIE,
        init=True,
        dns_port=free_port(),
        http_addr=f"{HOST}:{free_port()}",
        quic_port=free_port(),
        profile="lan",
        dns_server=DnsServerConfig(
            workers=1,
            https_config=HttpsConfig(port=free_port(), dot_port=free_port(), doq_port=free_port()),
            enable_dht_fallback=True,
            dht_bootstrap_nodes=[f"{HOST}:9"],
        ),
    )


def rows_of_page() -> dict[str, tuple[str, set[str]]]:
    """Metric → its type and labels, by docs/metrics.md."""
    row = re.compile(r"^\| `((?:aspen|process)_[a-z_]+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)
    rows = row.findall(PAGE.read_text())
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(told) == len(rows)
    return told


def check_monitoring(families: dict[str, Metric]) -> None:
    """What alerts and dashboard ask for is exported under that name, with those labels."""
    told = rows_of_page()
    labels: dict[str, set[str]] = {"up": set()}
    for family in families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if family.type == "histogram":
            labels |= {f"{name}{end}": told[name][1] for end in ("_count", "_sum")}
            labels[f"{name}_bucket"] = told[name][1] | {"le"}
        else:
            labels[name] = told[name][1]
    uses = [*promql.alerts(), *promql.panels()]
    assert len(uses) > 60
    for use in uses:
        assert use.names, use
        assert use.names <= set(labels), use
        assert use.labels <= promql.OF_THE_SCRAPE.union(*(labels[name] for name in use.names)), use


def check_page(families: dict[str, Metric], rows: Callable[[str], bool]) -> None:
    """docs/metrics.md has a row for every family: name, type and labels; of the `rows`, no others."""
    exported = {}
    for family in families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for each in family.samples for label in each.labels} - {"le"}
        exported[name] = (family.type, labels)
        assert family.documentation, name
    told = rows_of_page()
    assert set(filter(rows, told)) == set(exported)
    for name, (kind, labels) in exported.items():
        assert told[name][0] == kind, name
        assert labels <= told[name][1], name  # a family without samples shows no labels


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dnspython forgets a socket
async def test_every_transport_counts_what_it_answered(tmp_path: Path) -> None:
    config = everything(tmp_path / "node")
    https = config.dns_server.https_config
    assert https is not None
    http_port = config.http_listen[1]
    older = sign("metrics=no")
    packet = sign("metrics=yes", identity=older.identity)
    query = dns.message.make_query(packet.name(), "TXT")
    missing = f"absent.{packet.name()}"
    unknown_edns = dns.message.make_query(packet.name(), "TXT", use_edns=1)

    def udp(name: str) -> dns.message.Message:
        return dns_query(config.dns_port, name, "TXT", timeout_s=20.0)  # each is asked once, and counted

    def ask() -> None:
        wait_until(lambda: http_request(http_port, "GET", "/readyz").status == 200, "the node is ready", 10)
        before = scraped(http_port)
        for family, label in (
            ("aspen_pkarr_rate_limited", "limit"),
            ("aspen_raft_proposal_failures", "reason"),
        ):
            told = {each.labels[label]: each.value for each in before[family].samples if label in each.labels}
            assert len(told) >= 4
            assert set(told.values()) == {0}
        assert http_request(http_port, "PUT", packet.path, packet.payload).status == 204
        assert http_request(http_port, "PUT", packet.path, packet.payload).status == 204
        assert http_request(http_port, "PUT", packet.path, older.payload).status == 409
        assert http_request(http_port, "PUT", packet.path, b"garbage").status == 400
        for _ in range(5):
            assert texts(udp(packet.name())) == list(packet.texts)
        for _ in range(2):
            udp(missing)
            dns_query(config.dns_port, packet.name(), "TXT", tcp=True)
        dns_query(config.dns_port, missing, "TXT", tcp=True)
        for _ in range(2):
            dns.query.udp(unknown_edns, HOST, timeout=20, port=config.dns_port)
        dns.query.tcp(unknown_edns, HOST, timeout=5, port=config.dns_port)
        assert http_request(http_port, "GET", f"/resolve?name={packet.name()}&type=TXT").status == 200
        dns.query.tls(query, HOST, timeout=5, port=https.dot_port, verify=False)
        dns.query.quic(query, HOST, timeout=5, port=https.doq_port, verify=False)
        # The UDP worker publishes its counters every second.
        wait_until(lambda: answered(scraped(http_port), "udp") == 9, "the worker has published", 10)
        check(before, scraped(http_port))

    def check(before: dict[str, Metric], after: dict[str, Metric]) -> None:
        expected = {
            ("udp", "NOERROR"): 5,
            ("udp", "NXDOMAIN"): 2,
            ("udp", "BADVERS"): 2,
            ("tcp", "NOERROR"): 2,
            ("tcp", "NXDOMAIN"): 1,
            ("tcp", "BADVERS"): 1,
            ("https", "NOERROR"): 1,
            ("tls", "NOERROR"): 1,
            ("quic", "NOERROR"): 1,
        }
        for (transport, rcode), count in expected.items():
            labels = {"transport": transport, "rcode": rcode}
            assert value(after, "aspen_dns_queries_total", **labels) == count, labels
            histogram = "aspen_dns_response_seconds"
            assert value(after, f"{histogram}_count", **labels) == count
            assert value(after, f"{histogram}_bucket", **labels, le="+Inf") == count
            assert 0 < value(after, f"{histogram}_sum", **labels) < 5 * count
        assert value(after, "aspen_dns_udp_ready_replies_total") > 0
        assert value(after, "aspen_packets") == value(before, "aspen_packets") + 1 == 1
        assert value(after, "aspen_raft_applied_index") > value(before, "aspen_raft_applied_index")
        assert value(after, "aspen_raft_role", role="leader") == 1
        assert value(after, "aspen_raft_leader_id") == 1
        assert value(after, "aspen_tls_certificate_not_after_timestamp_seconds") > 1.7e9
        assert 0 < value(after, "aspen_store_used_bytes") < value(after, "aspen_store_map_bytes")
        for outcome, count in {"stored": 1, "known": 1, "older": 1, "size": 1}.items():
            assert value(after, "aspen_pkarr_puts_total", outcome=outcome) == count, outcome
        for stage, count in {"receive": 4, "verify": 3, "replicate": 1}.items():
            assert value(after, "aspen_pkarr_put_stage_seconds_count", stage=stage) == count, stage
        for histogram in ("proposal", "commit", "apply", "fsync"):
            name = f"aspen_raft_{histogram}_seconds"
            assert value(after, f"{name}_count") > value(before, f"{name}_count"), histogram
            assert 0 < value(after, f"{name}_sum") < 5 * value(after, f"{name}_count")
        assert value(after, "aspen_raft_elections_total") == 1
        assert value(after, "aspen_raft_leader_changes_total") == 1
        assert value(after, "aspen_store_free_bytes") < value(after, "aspen_store_used_bytes")
        assert value(after, "aspen_dns_worker_open_fds", worker="0") > 0
        assert value(after, "process_open_fds") > 0
        check_page(after, lambda name: name != ONLY_OF_RELAYS)
        check_monitoring(after)

    async with await bootstrap_node(config):
        await asyncio.to_thread(ask)


async def test_a_relay_by_itself_tells_what_the_page_says(tmp_path: Path) -> None:
    certificates = Certificates(SelfSigned(tmp_path, ["localhost"]))
    relay = StandaloneRelay(Access(open=True), RelayLimits(), certificates)
    await relay.start((HOST, 0), (HOST, 0))
    try:
        assert relay.metrics_address is not None
        families = await asyncio.to_thread(scraped, relay.metrics_address[1])
    finally:
        await relay.close()
    check_page(
        families,
        lambda name: (
            name.startswith(("process_", "aspen_tls_"))
            or (name.startswith("aspen_relay_") and name != "aspen_relay_connected")
        ),
    )


def test_a_leader_tells_what_its_followers_have(cluster: Cluster) -> None:
    leader = cluster.leader()
    others = [str(node.node_id) for node in cluster if node is not leader]
    families = scraped(leader.http_port)
    for peer in others:
        assert value(families, "aspen_raft_peer_match_index", peer=peer) > 0
    wait_until(
        lambda: all(
            value(scraped(leader.http_port), "aspen_raft_peer_lag_entries", peer=p) == 0 for p in others
        ),
        "the followers have all",
        10,
    )
    follower = scraped(cluster.followers()[0].http_port)
    assert not follower["aspen_raft_peer_match_index"].samples
    assert value(follower, "aspen_raft_leader_id") == leader.node_id
    assert value(follower, "aspen_quic_connections", protocol="aspen-raft/1") > 0
