"""Strangers stay outside: a wrong cookie, a node id claimed by another key. Said once a minute, counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from clients import sign
from cluster import Cluster, NodeProcess
from processes import wait_until

from aspen.identity import Identity


def intruder(
    cluster: Cluster, folder: Path, *, node_id: int, identity: Identity | None, cookie: str | None
) -> NodeProcess:
    """A node that knows everything about the cluster but one thing."""
    options = {} if cookie is None else {"cookie": cookie}
    node = NodeProcess(node_id, folder / "intruder", identity=identity, **options)
    node.peers = [member.as_peer for member in cluster if member.node_id != node_id]
    return node


def refusals(node: NodeProcess) -> dict[str, int]:
    status = node.status() or {}
    counted = status.get("refusals", status.get("net", {}).get("refusals", {}))
    return dict(counted)


def refused_lines(node: NodeProcess, code: str) -> list[str]:
    return [line for line in node.log().splitlines() if code in line]


@pytest.mark.parametrize(
    ("code", "same_key", "cookie"),
    [("wrong_cookie", True, "e2e-another-cookie-entirely"), ("node_id_claimed", False, None)],
)
def test_a_stranger_is_refused_logged_once_and_counted(
    cluster: Cluster, tmp_path: Path, code: str, same_key: bool, cookie: str | None
) -> None:
    victim = cluster.followers()[0]
    others = [node for node in cluster if node is not victim]
    victim.kill()  # its place is free: only what it knows, and its key, keep the stranger out
    term = (others[0].status() or {})["term"]
    stranger = intruder(
        cluster,
        tmp_path,
        node_id=victim.node_id,
        identity=victim.identity if same_key else None,
        cookie=cookie,
    )
    try:
        stranger.start()
        for node in others:
            wait_until(lambda node=node: refused_lines(node, code), f"{node} logs {code}", timeout_s=30)
            wait_until(lambda node=node: refusals(node).get(code), f"{node} counts {code}", timeout_s=30)
        # It comes again, and is counted again, but not logged: a stranger must not fill the log.
        counted = {node: refusals(node)[code] for node in others}
        stranger.kill()
        stranger.start()
        for node in others:
            wait_until(
                lambda node=node: refusals(node)[code] > counted[node], f"{node} counts another", timeout_s=30
            )
        for node in others:
            assert len(refused_lines(node, code)) == 1
        stranger.wait_answers()
        assert stranger.request("GET", "/readyz").status == 503
        packet = sign("while=knocking")
        assert others[0].put(packet).status == 204
        assert stranger.request("GET", packet.path).status == 404
        assert all(
            peer["announced_ms_ago"] < 0 for peer in stranger.request("GET", "/v1/peers").json["peers"]
        )
        assert (others[0].status() or {})["term"] == term
    finally:
        stranger.end_whatever_is_left()


def lose_disk(node: NodeProcess) -> None:
    """Everything but the key."""
    (node.data_dir / "current").unlink()
    for folder in node.data_dir.glob("state-*"):
        shutil.rmtree(folder)


def test_a_member_that_lost_its_disk_founds_no_second_cluster(cluster: Cluster) -> None:
    """Told to `--init`, it does; but the others belong to the old cluster, and alone it decides nothing."""
    first, *others = cluster.nodes
    assert first.init
    # The next leader knows nothing of what it had. One that stays leader would hold it to its word.
    if cluster.leader() is not first:
        body = json.dumps({"node_id": first.node_id}).encode()
        assert first.request("POST", "/v1/cluster/transfer-leader", body).status == 200
    wait_until(lambda: cluster.leader() is first, "the first node leads", timeout_s=30)
    packet = sign("kept=by the others")
    assert first.put(packet).status == 204
    cluster.wait_stored([packet])
    cluster_id = (others[0].status() or {})["cluster_id"]
    try:
        first.kill()
        lose_disk(first)
        first.start()
        wait_until(lambda: refusals(others[0]).get("foreign_cluster"), "the others refuse it", timeout_s=30)
        first.wait_answers()
        assert first.put(sign("into=nothing")).status == 503
        assert not first.ready()
        written = sign("meanwhile=yes")
        wait_until(lambda: others[0].put(written).status == 204, "the others take writes", timeout_s=30)
        assert (others[0].status() or {})["cluster_id"] == cluster_id
    finally:
        # Its disk is new, its key is the old one: as a mere member it is let in, and gets everything again.
        first.kill()
        lose_disk(first)
        first.init = False
        first.start()
        first.init = True
        cluster.wait_ready()
    cluster.wait_stored([packet, written])
    assert (first.status() or {})["cluster_id"] == cluster_id
