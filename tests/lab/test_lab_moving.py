"""Nodes that move: to another address while they run, and to where only they can call from."""

from __future__ import annotations

import time

from lab import HostNode, Lab, agreed
from processes import wait_until

from aspen.limits import NET_DIAL_MS

ALONE = {"ASPEN_IROH_ENABLE_MDNS": "false", "ASPEN_IROH_ENABLE_GOSSIP": "false"}


def test_a_cluster_that_moves_node_by_node_stays_one_and_remembers_it_after_a_restart(lab: Lab) -> None:
    lan = lab.network("lan")
    hosts = [lab.host(f"host{i}").plug(lan, f"10.7.0.{i}/24") for i in (1, 2, 3)]
    nodes = [host.node(i, **ALONE) for i, host in enumerate(hosts, start=1)]
    for node in nodes:
        node.peers = [other.as_peer for other in nodes if other is not node]
    nodes[0].init = True
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready(60)
    for node in nodes:
        node.on.readdress(lan, f"10.7.0.{node.node_id + 100}/24")
        others = [other for other in nodes if other is not node]
        for other in others:
            wait_until(
                lambda node=node, other=other: f"{node.on.address}:7300" in node.connected_at(other),
                f"{other} speaks to {node} where it is now",
                60,
            )
        wait_until(lambda: agreed(nodes), "all follow one leader", 60)
    # Nothing finds anybody now but what each has remembered: the membership has the first addresses.
    for node in nodes:
        node.peers, node.init = [], False
        node.stop(30)
    for node in nodes:
        node.start()
    wait_until(lambda: agreed(nodes), "all follow one leader again", 60)


def test_a_learner_that_nobody_can_call_catches_up_when_it_hears_of_a_newer_membership(lab: Lab) -> None:
    """Behind a NAT, after a start without a network: it doesn't call elections, so it would call nobody."""
    world, home = lab.network("world"), lab.network("home")
    lab.nat("router", home, "192.168.1.1/24", world, "10.6.0.9/24")
    leader = lab.host("one").plug(world, "10.6.0.1/24").node(1, init=True, **ALONE)
    gossiping = lab.host("two").plug(world, "10.6.0.2/24").node(2, ASPEN_IROH_ENABLE_MDNS="false")
    behind_nat = lab.host("three").plug(home, "192.168.1.3/24", gateway="192.168.1.1")
    learner = behind_nat.node(3, ASPEN_IROH_ENABLE_MDNS="false")
    leader.peers = [gossiping.as_peer]
    gossiping.peers = [leader.as_peer]
    learner.peers = [leader.as_peer, gossiping.as_peer]
    for node in (leader, gossiping):
        node.start()
    for node in (leader, gossiping):
        node.wait_ready(60)

    def add(node_id: int, endpoint_id: str) -> None:
        done = leader.on.aspen(
            "cluster", "add-learner", f"{node_id}@{endpoint_id}@10.6.0.9:7300", "--addr", leader.addr
        )
        assert done.returncode == 0, done.stderr

    def members(node: HostNode) -> set[int]:
        return {member["node_id"] for member in (node.status() or {"members": []})["members"]}

    add(3, learner.identity.z32)
    learner.start()
    wait_until(lambda: members(learner) == {1, 2, 3}, "the learner has been taken in", 60)
    learner.stop(30)
    behind_nat.readdress(home, "192.168.1.4/24")  # what the NAT remembers of it is of no use any more
    behind_nat.unplug(home)
    add(4, "y" * 52)
    learner.start()
    learner.wait_answers(60)
    given_up_at = time.monotonic() + 1.5 * NET_DIAL_MS / 1_000
    wait_until(lambda: time.monotonic() > given_up_at, "it has dialled in vain", 10)
    behind_nat.replug(home)
    wait_until(lambda: members(learner) == {1, 2, 3, 4}, "the learner has caught up", 90)
