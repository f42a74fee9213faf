"""Nodes and a DHT of ten libtorrent nodes on loopback: what is put there resolves here, and ours there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest
from clients import sign, texts
from cluster import Cluster, running
from processes import wait_until

sys.path.insert(0, str(Path(__file__).parent.parent / "pkarr"))

import dht_nodes
from dht_nodes import Node

from aspen.identity import Identity
from aspen.pkarr.records import build_message
from aspen.z32 import decode_key

ABSENT = "NXDOMAIN"


@pytest.fixture(scope="module")
def dht() -> Iterator[list[Node]]:
    with dht_nodes.running(10) as nodes:
        yield nodes


def settings_for(dht: list[Node], **more: str) -> dict[str, str]:
    return {
        "ASPEN_DNS_SERVER_ENABLE_DHT_FALLBACK": "true",
        "ASPEN_DNS_SERVER_ENABLE_DHT_PUBLISH": "true",
        "ASPEN_DNS_SERVER_DHT_BOOTSTRAP_NODES": ",".join(f"{dht_nodes.HOST}:{node.port}" for node in dht[:2]),
        **more,
    }


@pytest.fixture(scope="module")
def cluster(dht: list[Node], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes that look unknown keys up there, and publish there what they accept."""
    with running(tmp_path_factory.mktemp("dht"), 2, settings=settings_for(dht)) as started:
        yield started


def put_by_libtorrent(node: Node, *records: str) -> Identity:
    identity = Identity.generate()
    node.put(identity.seed, build_message(identity.endpoint_id, records))
    return identity


@pytest.mark.parametrize("tcp", [False, True])
def test_dht_put_resolves_by_dns(cluster: Cluster, dht: list[Node], tcp: bool) -> None:
    identity = put_by_libtorrent(dht[3], '_iroh 77 TXT "addr=192.0.2.3:3"', "foo.bar AAAA 2001:db8::1")
    for node in cluster:
        for name in (f"_iroh.{identity.z32}.aspen.local", f"_iroh.{identity.z32}.example.test"):
            reply = node.dig(name, "TXT", tcp=tcp)
            assert texts(reply) == ['"addr=192.0.2.3:3"']
            assert reply.answer[0].ttl == 77  # their own
        assert texts(node.dig(f"foo.bar.{identity.z32}.aspen.local", "AAAA", tcp=tcp), "AAAA") == [
            "2001:db8::1"
        ]
        missing = node.dig(f"nothing.{identity.z32}.aspen.local", "TXT", tcp=tcp)
        assert missing.rcode().name == ABSENT  # type: ignore[attr-defined]
        assert missing.authority


def test_what_was_found_is_not_replicated_and_says_so(cluster: Cluster, dht: list[Node]) -> None:
    identity = put_by_libtorrent(dht[2], "@ A 192.0.2.8")
    for node in cluster:
        name = f"{identity.z32}.aspen.local"
        assert texts(node.dig(name, "A"), "A") == ["192.0.2.8"]
        with_edns = dns.message.make_query(name, "A", use_edns=0)
        reply = dns.query.udp(with_edns, node.host, port=node.dns_port, timeout=5)
        assert "not replicated" in reply.options[0].to_text()
        assert identity.endpoint_id not in node.tables()["packets"]


@pytest.mark.parametrize("tcp", [False, True])
def test_a_key_nobody_has_is_denied_and_that_is_remembered(cluster: Cluster, tcp: bool) -> None:
    identity = Identity.generate()
    node = cluster.nodes[0]
    for _ in range(2):
        reply = node.dig(f"_iroh.{identity.z32}.aspen.local", "TXT", tcp=tcp)
        assert reply.rcode().name == ABSENT  # type: ignore[attr-defined]
    assert node.dig("no-key.aspen.local", "TXT", tcp=tcp).rcode().name == ABSENT  # type: ignore[attr-defined]


def test_dht_put_resolves_by_http_and_says_that_it_is_not_replicated(
    cluster: Cluster, dht: list[Node]
) -> None:
    identity = put_by_libtorrent(dht[5], "@ A 192.0.2.5")
    node = cluster.nodes[1]
    path = f"/pkarr/{identity.z32}"
    assert node.request("GET", f"{path}?policy=CacheOnly").status == 404
    found = node.request("GET", path)
    assert found.status == 200
    assert found.headers["aspen-source"] == "network"
    assert node.request("GET", f"{path}?policy=NetworkOnly").body == found.body


def test_what_is_published_here_is_read_by_libtorrent(cluster: Cluster, dht: list[Node]) -> None:
    packet = sign("addr=192.0.2.7:7")
    assert cluster.followers()[0].put(packet).status == 204
    key = decode_key(packet.z32)
    found = wait_until(lambda: dht[7].get(key), "the DHT has it", timeout_s=30)
    assert found is not None
    assert found[1] + found[0].to_bytes(8, "big") + found[2] == packet.payload


def test_what_was_deleted_here_does_not_come_back_from_there(cluster: Cluster, dht: list[Node]) -> None:
    packet = sign("addr=192.0.2.8:8")
    node = cluster.nodes[0]
    assert node.put(packet).status == 204
    wait_until(lambda: dht[4].get(decode_key(packet.z32)), "the DHT has it", timeout_s=30)
    assert node.request("DELETE", f"/v1/packets/{packet.z32}").status < 300
    cluster.wait_caught_up()
    for each in cluster:
        assert each.dig(packet.name()).rcode().name == ABSENT  # type: ignore[attr-defined]
        assert each.request("GET", packet.path).status == 404


def test_a_denied_key_is_not_fetched_from_there(cluster: Cluster, dht: list[Node]) -> None:
    identity = put_by_libtorrent(dht[6], "@ A 192.0.2.6")
    node = cluster.nodes[0]
    assert node.request("PUT", f"/v1/packets/denied/{identity.z32}").status < 300
    assert node.dig(f"{identity.z32}.aspen.local", "A").rcode().name == ABSENT  # type: ignore[attr-defined]
    assert node.request("GET", f"/pkarr/{identity.z32}").status == 404


def test_what_was_found_is_replicated_if_so_configured_but_by_the_rules_of_a_put(
    dht: list[Node], tmp_path: Path
) -> None:
    found = put_by_libtorrent(dht[1], "@ A 192.0.2.1")
    settings = settings_for(dht, ASPEN_DNS_SERVER_STORE_DHT_RESULTS="true")
    with running(tmp_path, 1, workers=0, settings=settings) as cluster:
        (node,) = cluster
        assert texts(node.dig(f"{found.z32}.aspen.local", "A"), "A") == ["192.0.2.1"]
        wait_until(lambda: found.endpoint_id in node.tables()["packets"], "it is stored")
        source = node.request("GET", f"/pkarr/{found.z32}").headers["aspen-source"]
        assert source == "replica"
