"""The scenarios of docs/discovery.md, each as its page says: machines, networks, and nothing else that helps.

Nodes on one LAN without any configuration are in `test_lab_lan`, more of NATs in `test_lab_relay`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from lab import HostNode, Lab, agreed
from processes import wait_until

_ETH_P_IP = 0x0800
_ETH_P_ALL = 0x0003
QUIET = {"ASPEN_IROH_ENABLE_MDNS": "false", "ASPEN_IROH_ENABLE_GOSSIP": "false"}


def without_addresses(nodes: Sequence[HostNode]) -> None:
    """Each is told of the others' keys; the first founds the cluster."""
    for node in nodes:
        node.peers = [f"{other.node_id}@{other.identity.z32}" for other in nodes if other is not node]
    nodes[0].init = True


def all_is_well(nodes: Sequence[HostNode]) -> None:
    for node in nodes:
        node.wait_ready(60)
    wait_until(lambda: agreed(nodes), "all follow one leader", 60)
    assert nodes[-1].request("PUT", "/v1/kv/greeting", b"hello").status == 200


def test_same_machine_manual_peers_on_loopback(lab: Lab) -> None:
    """On a machine that has no network at all."""
    machine = lab.host("machine")
    machine.addresses["lo"] = "127.0.0.1"
    nodes = [machine.node(i, **QUIET) for i in (1, 2)]
    for node in nodes:
        node.quic_port, node.http_port, node.dns_port = (first + node.node_id for first in (7300, 8080, 5300))
        node.arguments = ["--host", "127.0.0.1", "--quic-port", str(node.quic_port)]
        node.arguments += ["--http-addr", f"127.0.0.1:{node.http_port}", "--dns-port", str(node.dns_port)]
    for node in nodes:
        node.peers = [other.as_peer for other in nodes if other is not node]
    nodes[0].init = True
    for node in nodes:
        node.start()
    all_is_well(nodes)


def test_multi_region_by_the_dns_and_the_relays_of_one_node_that_has_a_name(lab: Lab) -> None:
    """Node 1 is public: DNS server, pkarr relay and relay in one. The others' sites are behind NATs."""
    world = lab.network("world")
    public = lab.host("public").plug(world, "203.0.113.1/24")
    sites = [lab.network(f"site{i}") for i in (2, 3)]
    hosts = [public]
    for i, site in enumerate(sites, start=2):
        lab.nat(f"nat{i}", site, "10.0.0.254/24", world, f"203.0.113.{i}/24", random_ports=True)
        hosts.append(lab.host(f"host{i}").plug(site, f"10.0.0.{i}/24", gateway="10.0.0.254"))
    nodes = [host.node(i) for i, host in enumerate(hosts, start=1)]
    for node in nodes:
        node.on.set_hosts({"dns-node.example.com": "203.0.113.1"})
        node.settings = {
            "ASPEN_IROH_ENABLE_MDNS": "false",
            "ASPEN_IROH_ENABLE_DNS_DISCOVERY": "true",
            "ASPEN_IROH_DNS_DISCOVERY_URL": "dns://dns-node.example.com:5300",
            "ASPEN_IROH_DNS_DISCOVERY_ORIGIN": "cluster.example.com",
            "ASPEN_IROH_ENABLE_PKARR": "true",
            "ASPEN_IROH_ENABLE_PKARR_DHT": "false",
            "ASPEN_IROH_PKARR_RELAY_URL": "http://dns-node.example.com:8080",
            "ASPEN_IROH_RELAY_URL": "http://dns-node.example.com:8080",
        }
    nodes[0].settings |= {
        "ASPEN_DNS_SERVER_HOST": "0.0.0.0",
        "ASPEN_DNS_SERVER_ORIGIN": "cluster.example.com",
        "ASPEN_HTTP_ADDR": "0.0.0.0:8080",
        "ASPEN_ADMIN_ADDR": "127.0.0.1:8081",
        "ASPEN_IROH_RELAY_SERVER": "true",
        "ASPEN_IROH_RELAY_SERVER_URL": "http://dns-node.example.com:8080",
    }
    nodes[0].http_port = 8081
    without_addresses(nodes)
    for node in nodes:
        node.start()
    all_is_well(nodes)
    _, two, three = nodes

    def path(node: HostNode, other: HostNode) -> str:
        return str(node.known_peers()[other.identity.z32]["path"])

    wait_until(lambda: path(two, three) == path(three, two) == "relay", "two NATs meet at the relay", 60)
    wait_until(lambda: path(two, nodes[0]) == "direct", "whoever can be reached directly is", 60)
    packet = f"/pkarr/{three.identity.z32}"
    wait_until(lambda: public.http(8080, "GET", packet).status == 200, "node 3 has published itself", 60)


def test_containers_that_are_made_again_with_other_addresses(lab: Lab) -> None:
    """Names that the platform keeps up to date; no multicast, and no key or address in any configuration but
    those of the founder's members."""
    cluster_net = lab.network("pods")
    names = {f"aspen-{i}.aspen": f"10.244.0.{i + 1}" for i in range(3)}
    nodes = []
    for i, address in enumerate(names.values(), start=1):
        host = lab.host(f"pod{i}").plug(cluster_net, f"{address}/24")
        host.set_hosts(names)
        nodes.append(host.node(i, ASPEN_IROH_ENABLE_MDNS="false", ASPEN_IROH_BOOTSTRAP_NODES=",".join(names)))
    without_addresses(nodes)
    for node in nodes:
        node.start()
    all_is_well(nodes)
    # A pod is evicted and comes back elsewhere, with its volume.
    moved = nodes[2]
    moved.kill()
    moved.on.readdress(cluster_net, "10.244.0.77/24")
    names["aspen-2.aspen"] = "10.244.0.77"
    for node in nodes:
        node.on.set_hosts(names)
    moved.start()
    all_is_well(nodes)
    wait_until(lambda: moved.connected_at(nodes[0]) == {"10.244.0.77:7300"}, "it is reached where it is", 60)


def test_air_gapped_manual_peers_and_nothing_leaves_the_lan(lab: Lab) -> None:
    """Whoever stands where the way out would be sees no datagram: no DNS, no relay, no multicast."""
    lan = lab.network("lan")
    gateway = lab.host("gateway").plug(lan, "10.5.0.254/24")
    nodes = []
    for i in (1, 2):
        host = lab.host(f"host{i}").plug(lan, f"10.5.0.{i}/24", gateway="10.5.0.254")
        host.set_resolver("10.5.0.254")
        nodes.append(host.node(i, **QUIET, ASPEN_IROH_RELAY_MODE="disabled"))
    for node in nodes:
        node.peers = [other.as_peer for other in nodes if other is not node]
    nodes[0].init = True
    with gateway.open_socket(socket.SOCK_RAW, socket.AF_PACKET) as tap:
        tap.bind(("lan", _ETH_P_ALL))
        tap.setblocking(False)
        for node in nodes:
            node.start()
        all_is_well(nodes)
        seen = set()
        while True:
            try:
                frame = tap.recv(65_536)
            except BlockingIOError:
                break
            (kind,) = struct.unpack_from(">H", frame, 12)
            if kind == _ETH_P_IP:
                destination = socket.inet_ntoa(frame[30:34])
                if not destination.startswith("10.5.0.") or destination == "10.5.0.254":
                    seen.add(destination)
    assert seen == set()
