"""Nodes that can't reach each other: behind NATs of their own, with a relay in the public network.

The NATs give every destination another port (`masquerade fully-random`), so no node can be told where to
knock at another. The relay's operator is played by a capture of every packet at the relay's wire.
"""

from __future__ import annotations

import base64
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from lab import Host, HostNode, Lab, Network
from processes import wait_until

RELAY_PORT = 3340
_ETH_P_ALL = 0x0003


@contextmanager
def captured(host: Host) -> Iterator[list[bytes]]:
    """Every packet at a host's wire, as its operator may see it."""
    seen: list[bytes] = []
    ended = threading.Event()
    with host.open_socket(socket.SOCK_RAW, socket.AF_PACKET, socket.htons(_ETH_P_ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1_048_576)
        wire.settimeout(0.1)

        def watch() -> None:
            while not ended.is_set():
                try:
                    seen.append(wire.recv(65_536))
                except TimeoutError:
                    pass

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            watcher.join()


def start_relay(host: Host, cookie: str, folder: Path) -> Popen[bytes]:
    cookie_file = folder / "cookie"
    if not cookie_file.exists():
        cookie_file.touch(0o600)
        cookie_file.write_text(cookie)
    relay = host.start(
        *(sys.executable, "-m", "aspen.cli.main", "relay", "--listen", f"0.0.0.0:{RELAY_PORT}"),
        *("--cookie-file", str(cookie_file), "--log-format", "json"),
        log=folder / "relay.log",
    )

    def listens() -> bool:
        assert relay.poll() is None, (folder / "relay.log").read_text()
        with host.open_socket() as probe:
            return probe.connect_ex((host.address, RELAY_PORT)) == 0

    wait_until(listens, "the relay listens", 30.0)
    return relay


def behind_nat(lab: Lab, number: int, internet: Network, *, random_ports: bool = True) -> Host:
    """A host in a private network of its own; all of them have the same addresses inside."""
    inside = lab.network(f"in{number}")
    nat = lab.host(f"nat{number}").plug(internet, f"203.0.113.{number}/24").plug(inside, "10.0.0.1/24")
    nat.masquerade(internet, random_ports=random_ports)
    return lab.host(f"host{number}").plug(inside, "10.0.0.2/24", gateway="10.0.0.1")


def put(node: HostNode, key: str, value: str, within_s: float = 60.0) -> None:
    def done() -> bool:
        try:
            return node.request("PUT", f"/v1/kv/{key}", value.encode(), timeout_s=5.0).status == 200
        except OSError:
            return False

    wait_until(done, f"{node} stores {key}", within_s)


def holds(node: HostNode, key: str, value: str, within_s: float = 60.0) -> None:
    def there() -> bool:
        answer = node.request("GET", f"/v1/kv/{key}?consistency=stale")
        return answer.status == 200 and base64.b64decode(answer.json["value"]) == value.encode()

    wait_until(there, f"{node} holds {key}", within_s)


def path(node: HostNode, other: HostNode) -> str:
    return str(node.known_peers().get(other.identity.z32, {}).get("path"))


def test_three_nodes_behind_three_nats_are_a_cluster_by_the_relay_and_outlive_its_restart(
    lab: Lab, tmp_path: Path
) -> None:
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, "203.0.113.10/24")
    nodes = [
        behind_nat(lab, i, internet).node(
            i,
            ASPEN_IROH_RELAY_MODE="custom",
            ASPEN_IROH_RELAY_URL=f"http://203.0.113.10:{RELAY_PORT}",
            ASPEN_IROH_ENABLE_MDNS="false",
        )
        for i in (1, 2, 3)
    ]
    for node in nodes:
        node.peers = [f"{other.node_id}@{other.identity.z32}" for other in nodes if other is not node]
    nodes[0].init = True
    with captured(relay_host) as packets:
        relay = start_relay(relay_host, nodes[0].cookie, tmp_path)
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready(60.0)
        put(nodes[0], "a-key-of-node-one", "the value that only the cluster may see")
        put(nodes[1], "a-key-of-node-two", "another secret of the cluster")
        for node in nodes:
            holds(node, "a-key-of-node-one", "the value that only the cluster may see")
            assert {path(node, other) for other in nodes if other is not node} == {"relay"}
        shown = nodes[1].on.aspen("peers", "--addr", nodes[1].addr)
        assert shown.stdout.count(" relay ") == 2, shown.stdout + shown.stderr

        relay.kill()
        relay.wait()
        relay = start_relay(relay_host, nodes[0].cookie, tmp_path)
        for node in nodes:
            put(node, f"after-the-restart-{node.node_id}", "it goes on")
        for node in nodes:
            holds(node, "after-the-restart-1", "it goes on")

    everything = b"\0".join(packets)
    for node in nodes:
        assert node.identity.endpoint_id in everything, "a relay must know whom a datagram is for"
        assert node.identity.seed not in everything
    for secret in (nodes[0].cookie, "a-key-of-node", "the value that only", "another secret", "it goes on"):
        assert secret.encode() not in everything


def test_a_public_node_is_the_relay_of_two_behind_nats_who_were_told_nothing_of_it(lab: Lab) -> None:
    """By default they hear of its `/relay` by gossip; whom they reach directly, they don't use it for."""
    internet = lab.network("internet")
    three = lab.host("public").plug(internet, "203.0.113.3/24").node(3, ASPEN_IROH_RELAY_SERVER="true")
    three.arguments = ["--http-addr", "203.0.113.3:8080", "--admin-addr", "127.0.0.1:8080"]
    one, two = (behind_nat(lab, i, internet).node(i, ASPEN_IROH_ENABLE_MDNS="false") for i in (1, 2))
    nodes = [one, two, three]
    for node in nodes:
        others = [other for other in nodes if other is not node]
        node.peers = [
            other.as_peer if other is three else other.as_peer.rpartition("@")[0] for other in others
        ]
    one.init = True
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready(60.0)
    wait_until(lambda: path(one, two) == path(two, one) == "relay", "1 and 2 meet at the relay", 60.0)
    for node in (one, two):
        assert path(node, three) == path(three, node) == "direct"
    put(two, "by-the-built-in-relay", "it works")
    for node in nodes:
        holds(node, "by-the-built-in-relay", "it works")


def firewall(host: Host, *, closed: bool) -> None:
    """Whether it lets no QUIC in; WebSocket it always does."""
    rules = "table ip no_quic { chain in { type filter hook input priority 0; meta l4proto udp drop; }; }"
    host.run("nft", "-f", "-", given=rules) if closed else host.run("nft", "delete", "table", "ip", "no_quic")


def test_a_direct_path_is_taken_when_a_firewall_opens_and_left_when_it_closes(
    lab: Lab, tmp_path: Path
) -> None:
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, "203.0.113.10/24")
    settings = {
        "ASPEN_IROH_RELAY_URLS": f"http://203.0.113.10:{RELAY_PORT}",
        "ASPEN_IROH_ENABLE_MDNS": "false",
    }
    one, two = (lab.host(f"h{i}").plug(internet, f"203.0.113.{i}/24").node(i, **settings) for i in (1, 2))
    one.peers, two.peers, one.init = [two.as_peer], [one.as_peer], True
    start_relay(relay_host, one.cookie, tmp_path)
    firewall(one.on, closed=True)
    for node in (one, two):
        node.start()
    for node in (one, two):
        node.wait_ready(60.0)
    assert path(one, two) == path(two, one) == "relay"
    put(one, "by-the-relay", "1")

    firewall(one.on, closed=False)
    wait_until(lambda: path(one, two) == path(two, one) == "direct", "they meet directly", 60.0)
    put(two, "directly", "2")

    firewall(two.on, closed=True)
    wait_until(lambda: path(one, two) == path(two, one) == "relay", "they are back at the relay", 60.0)
    put(one, "by-the-relay-again", "3")
    holds(two, "by-the-relay-again", "3")


def test_a_newcomer_behind_a_nat_joins_by_a_ticket_through_the_relay(lab: Lab, tmp_path: Path) -> None:
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, "203.0.113.10/24")
    settings = {
        "ASPEN_IROH_RELAY_URL": f"http://203.0.113.10:{RELAY_PORT}",
        "ASPEN_IROH_ENABLE_MDNS": "false",
    }
    founder, newcomer = (behind_nat(lab, i, internet).node(i, **settings) for i in (1, 2))
    founder.init = True
    start_relay(relay_host, founder.cookie, tmp_path)
    founder.start()
    founder.wait_ready(60.0)
    put(founder, "there-before", "it was")
    newcomer.settings["ASPEN_TICKET"] = founder.request("GET", "/cluster-ticket").json["ticket"]
    newcomer.start()
    newcomer.wait_ready(90.0)
    holds(newcomer, "there-before", "it was")
    assert path(newcomer, founder) == "relay"


def test_two_behind_nats_that_keep_their_ports_meet_at_the_relay_and_go_on_directly(
    lab: Lab, tmp_path: Path
) -> None:
    """The relay tells each where it sees its datagrams come from, gossip tells the other; both knock."""
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, "203.0.113.10/24")
    settings = {
        "ASPEN_IROH_RELAY_URL": f"http://203.0.113.10:{RELAY_PORT}",
        "ASPEN_IROH_ENABLE_MDNS": "false",
    }
    one, two = (behind_nat(lab, i, internet, random_ports=False).node(i, **settings) for i in (1, 2))
    one.peers, two.peers, one.init = [f"2@{two.identity.z32}"], [f"1@{one.identity.z32}"], True
    start_relay(relay_host, one.cookie, tmp_path)
    for node in (one, two):
        node.start()
    for node in (one, two):
        node.wait_ready(60.0)
    put(one, "by-the-relay-or-not", "1")
    wait_until(lambda: path(one, two) == path(two, one) == "direct", "they meet directly", 90.0)
    put(two, "through-both-nats", "2")
    holds(one, "through-both-nats", "2")
