"""Machines on one LAN, told nothing but the cookie: they find each other by multicast DNS, then gossip."""

from __future__ import annotations

from lab import Lab
from processes import wait_until


def test_two_nodes_on_one_lan_find_each_other_with_nothing_but_the_cookie(lab: Lab) -> None:
    lan = lab.network("lan")
    gateway = lab.host("gateway").plug(lan, "10.9.0.254/24")
    one, two = (
        lab.host(name).plug(lan, f"10.9.0.{i}/24", gateway=gateway.address).node(i)
        for i, name in enumerate(("one", "two"), start=1)
    )
    for node in (one, two):
        node.start()
    for node in (one, two):
        node.wait_answers()
    for node, other in ((one, two), (two, one)):
        wait_until(lambda node=node, other=other: node.hears(other), f"{node} hears {other}", 60.0)
        known = node.known_peers()[other.identity.z32]
        assert known["path"] == "direct"
        assert f"{other.on.address}:7300" in {address["address"] for address in known["addresses"]}
