"""Clusters that only a relay holds together: nodes behind NATs of their own.

The NATs give every destination another port (`masquerade fully-random`), so no node can be told where to
knock at another. The relay's operator is played by a capture of every packet at the relay's wire.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Host, Lab
from processes import wait_until
from relayed import RELAY_ADDRESS, RELAYED, behind_nat, holds, path, put, start_relay

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


def test_three_nodes_behind_three_nats_are_a_cluster_by_the_relay_and_outlive_its_restart(
    lab: Lab, tmp_path: Path
) -> None:
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, f"{RELAY_ADDRESS}/24")
    nodes = [
        behind_nat(lab, i, internet).node(i, ASPEN_IROH_RELAY_MODE="custom", **RELAYED) for i in (1, 2, 3)
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
