"""Five machines on one LAN, started at once with nothing but the cookie and `--auto-cluster 5`."""

from __future__ import annotations

from lab import HostNode, Lab
from processes import wait_until

from aspen.z32 import decode_key


def start_all(lab: Lab, size: int) -> list[HostNode]:
    lan = lab.network("lan")
    nodes = []
    for i in range(1, size + 1):
        node = lab.host(f"host-{i}").plug(lan, f"10.9.0.{i}/24").node(i)
        node.arguments = ["--auto-cluster", "5"]
        node.told_id = False
        nodes.append(node)
    for node in nodes:
        node.start()
    return nodes


def roles(node: HostNode) -> list[str]:
    return sorted(member["role"] for member in (node.status() or {"members": []})["members"])


def test_five_nodes_form_a_cluster_by_themselves_and_a_sixth_is_a_learner(lab: Lab) -> None:
    nodes = start_all(lab, 6)
    for node in nodes:
        wait_until(lambda node=node: roles(node) == ["learner", *["voter"] * 5], f"{node} sees all", 120.0)
    statuses = [node.status() or {} for node in nodes]
    assert sorted(status["node_id"] for status in statuses) == [1, 2, 3, 4, 5, 6]
    assert len({status["cluster_id"] for status in statuses}) == 1
    by_id = {status["node_id"]: decode_key(status["endpoint_id"]) for status in statuses}
    assert [by_id[i] for i in range(1, 6)] == sorted(by_id[i] for i in range(1, 6))

    # Killed all at once, they are the same cluster again.
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    for node, status in zip(nodes, statuses, strict=True):
        node.wait_ready(90.0)
        assert (node.status() or {})["node_id"] == status["node_id"]
        assert (node.status() or {})["cluster_id"] == status["cluster_id"]
