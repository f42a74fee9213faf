"""Nodes publish where they can be reached under their own keys, and find each other so, by a relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import texts
from cluster import RUNNING, Cluster
from processes import wait_until

from aspen.pkarr.endpoint_info import EndpointInfo
from aspen.pkarr.packet import SignedPacket


@pytest.fixture
def strangers(single: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes that know each other's endpoint ids and nothing else; their relay is another's node."""
    cluster = Cluster(
        tmp_path,
        2,
        workers=0,
        settings={
            "ASPEN_IROH_ENABLE_PKARR": "true",
            "ASPEN_IROH_ENABLE_PKARR_DHT": "false",
            "ASPEN_IROH_PKARR_RELAY_URL": f"{single.nodes[0].addr}/pkarr",
            "ASPEN_IROH_PKARR_REPUBLISH_DELAY_SECS": "1",
        },
    )
    for node in cluster:
        node.peers = [peer.rpartition("@")[0] for peer in node.peers]
    RUNNING.append(cluster)
    try:
        yield cluster
    finally:
        cluster.end()
        RUNNING.remove(cluster)


def test_nodes_that_know_only_ids_find_each_other_by_what_they_publish(
    single: Cluster, strangers: Cluster
) -> None:
    strangers.start()
    relay = single.nodes[0]
    for node in strangers:
        address = f"{node.host}:{node.quic_port}"
        published = relay.request("GET", f"/pkarr/{node.identity.z32}")
        packet = SignedPacket.parse(node.identity.endpoint_id, published.body)
        assert EndpointInfo.of_packet(packet) == EndpointInfo(((node.host, node.quic_port),))
        assert texts(relay.dig(f"_iroh.{node.identity.z32}.aspen.local")) == [f'"addr={address}"']


def test_a_node_publishes_again_and_survives_a_relay_that_is_away(
    single: Cluster, strangers: Cluster
) -> None:
    relay = single.nodes[0]
    relay.kill()
    first = strangers.nodes[0]
    strangers.nodes[0].start()
    wait_until(lambda: "not published" in first.log(), "the relay is missed")
    relay.start()
    relay.wait_ready()
    path = f"/pkarr/{first.identity.z32}"
    wait_until(lambda: relay.request("GET", path).status == 200, "it is published once the relay is back")
    assert first.alive
