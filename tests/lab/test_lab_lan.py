"""Machines on one LAN, told nothing but the cookie: they find each other by multicast DNS, then gossip."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from lab import Lab
from processes import wait_until

from aspen.discovery.service import TOPIC_CONTEXT
from aspen.identity import Cookie

_ETH_P_ALL = 0x0003


def test_two_nodes_on_one_lan_find_each_other_with_nothing_but_the_cookie(lab: Lab) -> None:
    lan = lab.network("lan")
    gateway = lab.host("gateway").plug(lan, "10.9.0.254/24")
    one, two = (
        lab.host(name).plug(lan, f"10.9.0.{i}/24", gateway=gateway.address).node(i)
        for i, name in enumerate(("one", "two"), start=1)
    )
    tap = gateway.open_socket(socket.SOCK_RAW, socket.AF_PACKET)
    tap.bind(("lan", _ETH_P_ALL))
    tap.setblocking(False)
    for node in (one, two):
        node.start()
    for node in (one, two):
        node.wait_answers()
    for node, other in ((one, two), (two, one)):
        wait_until(lambda node=node, other=other: node.hears(other), f"{node} hears {other}", 60.0)
        known = node.known_peers()[other.identity.z32]
        assert known["path"] == "direct"
        assert f"{other.on.address}:7300" in {address["address"] for address in known["addresses"]}
    with tap:
        heard = list(frames(tap))
    assert any(b"_aspen" in frame for frame in heard)  # multicast, which the whole link hears
    topic = Cookie(one.cookie).derive(TOPIC_CONTEXT)
    for secret in (one.cookie.encode(), one.cookie.encode().hex().encode(), topic, topic.hex().encode()):
        assert not any(secret in frame for frame in heard)


def frames(tap: socket.socket) -> Iterator[bytes]:
    """What has come in."""
    while True:
        try:
            yield tap.recv(65_536)
        except BlockingIOError:
            return
