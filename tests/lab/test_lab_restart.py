"""A whole cluster stopped and started again with other addresses, every one of them: it finds itself.

Once by multicast DNS, once by DNS discovery, once by a bootstrap host; nothing else is switched on each time.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence

from lab import HostNode, Lab, Network, agreed
from processes import wait_until

NAME = "one.cluster.test"
"""A name for the first node, which somebody keeps up to date."""


def only(**settings: str) -> dict[str, str]:
    """Nothing that finds others but what is named."""
    off = {"ASPEN_IROH_ENABLE_MDNS": "false", "ASPEN_IROH_ENABLE_GOSSIP": "false"}
    return off | {f"ASPEN_{name.upper()}": value for name, value in settings.items()}


def restart_elsewhere(nodes: Sequence[HostNode], lan: Network, prefix: str) -> None:
    """Stop all, give every host another address, start all."""
    for node in nodes:
        node.stop(30)
    for node in nodes:
        node.on.readdress(lan, f"{prefix}.{node.node_id}/24")
    for node in nodes:
        node.on.set_hosts({NAME: f"{prefix}.1"})
        node.start()


def test_a_cluster_whose_every_address_changed_finds_itself(lab: Lab) -> None:
    lan = lab.network("lan")
    hosts = [lab.host(f"host{i}").plug(lan, f"10.8.0.{i}/24") for i in (1, 2, 3)]
    nodes = [host.node(i) for i, host in enumerate(hosts, start=1)]
    for node in nodes:
        node.settings = only(dns_server_host="0.0.0.0")
        node.peers = [other.as_peer for other in nodes if other is not node]
    nodes[0].init = True
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready(60)
    assert nodes[0].request("PUT", "/v1/kv/before", b"kept").status in (200, 201, 204)

    for step, (way, settings) in enumerate(
        (
            ("multicast DNS", {"iroh_enable_mdns": "true"}),
            (
                "DNS",
                {
                    "iroh_enable_dns_discovery": "true",
                    "iroh_dns_discovery_url": f"dns://{NAME}:5300",
                    "dns_server_host": "0.0.0.0",
                },
            ),
            ("a bootstrap host and gossip", {"iroh_bootstrap_nodes": NAME, "iroh_enable_gossip": "true"}),
        ),
        start=1,
    ):
        for node in nodes:
            node.peers, node.init = [], False
            node.settings = only(**settings)
        restart_elsewhere(nodes, lan, f"10.8.{step}")
        wait_until(lambda: agreed(nodes), f"the cluster has found itself by {way}", 60)
        for node in nodes:
            node.wait_ready(30)
            answer = node.request("GET", "/v1/kv/before")
            assert (answer.status, b64decode(answer.json["value"])) == (200, b"kept"), (way, answer)
        assert nodes[0].request("PUT", "/v1/kv/before", b"kept").status in (200, 201, 204)
