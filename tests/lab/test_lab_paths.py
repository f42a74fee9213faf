"""From the relay to a direct path and back, and into a cluster by the relay."""

from __future__ import annotations

from pathlib import Path

from lab import Host, Lab
from processes import wait_until
from relayed import RELAY_ADDRESS, RELAYED, behind_nat, holds, path, put, start_relay


def firewall(host: Host, *, closed: bool) -> None:
    """Whether it lets no QUIC in; WebSocket it always does."""
    rules = "table ip no_quic { chain in { type filter hook input priority 0; meta l4proto udp drop; }; }"
    host.run("nft", "-f", "-", given=rules) if closed else host.run("nft", "delete", "table", "ip", "no_quic")


def test_a_direct_path_is_taken_when_a_firewall_opens_and_left_when_it_closes(
    lab: Lab, tmp_path: Path
) -> None:
    internet = lab.network("internet")
    relay_host = lab.host("relay").plug(internet, f"{RELAY_ADDRESS}/24")
    one, two = (lab.host(f"h{i}").plug(internet, f"203.0.113.{i}/24").node(i, **RELAYED) for i in (1, 2))
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
    relay_host = lab.host("relay").plug(internet, f"{RELAY_ADDRESS}/24")
    founder, newcomer = (behind_nat(lab, i, internet).node(i, **RELAYED) for i in (1, 2))
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
    relay_host = lab.host("relay").plug(internet, f"{RELAY_ADDRESS}/24")
    one, two = (behind_nat(lab, i, internet, random_ports=False).node(i, **RELAYED) for i in (1, 2))
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
