"""Nodes hear of each other by gossip: members, and a newcomer that belongs to nothing yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import COOKIE, Cluster, NodeProcess
from processes import wait_until


def peers_of(node: NodeProcess) -> dict[str, dict[str, Any]]:
    """By endpoint id."""
    return {peer["endpoint_id"]: peer for peer in node.request("GET", "/v1/peers").json["peers"]}


def announced(node: NodeProcess) -> set[str]:
    return {key for key, peer in peers_of(node).items() if peer["announced_ms_ago"] >= 0}


def test_every_member_is_heard_by_every_other(cluster: Cluster) -> None:
    for node in cluster:
        others = {other.identity.z32 for other in cluster if other is not node}
        wait_until(
            lambda node=node, others=others: others <= announced(node), f"{node} hears all", timeout_s=30
        )
        known = peers_of(node)
        assert all(known[key]["member"] and known[key]["path"] == "direct" for key in others)
    told = subprocess.run(
        [sys.executable, "-m", "aspen.cli.main", "peers", "--addr", cluster.node(1).addr, "--json"],
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert {peer["node_id"] for peer in json.loads(told.stdout)["peers"]} >= {2, 3}


def test_a_newcomer_that_knows_one_member_hears_of_all(cluster: Cluster, tmp_path: Path) -> None:
    newcomer = NodeProcess(9, tmp_path / "newcomer")
    newcomer.peers = [cluster.node(1).as_peer]
    newcomer.start()
    try:
        newcomer.wait_answers()
        members = {node.identity.z32 for node in cluster}
        wait_until(lambda: members <= announced(newcomer), "the newcomer hears all members", timeout_s=30)
        wait_until(lambda: newcomer.identity.z32 in announced(cluster.node(3)), "it is heard", timeout_s=30)
        known = peers_of(cluster.node(3))[newcomer.identity.z32]
        assert not known["member"]
        assert f"{newcomer.host}:{newcomer.quic_port}" in {known["address"] for known in known["addresses"]}
    finally:
        newcomer.end_whatever_is_left()


def test_a_ticket_of_another_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    ticket = cluster.node(2).request("GET", "/cluster-ticket").json["ticket"]
    for cookie, text, reason in (
        ("e2e-another-cookie-entirely", ticket, "another cookie"),
        (COOKIE, ticket[:-9], "copied whole"),
    ):
        stranger = NodeProcess(9, tmp_path / reason.replace(" ", "-"), cookie=cookie)
        stranger.settings["ASPEN_TICKET"] = text
        stranger.start()
        try:
            wait_until(lambda stranger=stranger: not stranger.alive, "it gives up", timeout_s=20)
            assert reason in stranger.log()
        finally:
            stranger.end_whatever_is_left()
