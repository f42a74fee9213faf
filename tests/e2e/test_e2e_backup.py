"""Backup, verify, restore and recover, by the commands, over real nodes."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from clients import Published, sign
from cluster import Cluster, NodeProcess, running, started
from load import put_all
from processes import wait_until
from typer.testing import CliRunner

from aspen.cli.common import Exit
from aspen.cli.main import app

CROWD = 300


def aspen(*arguments: str, code: int = 0) -> Any:
    """A command, in this process; its exit code must be this one."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
    return done


def told(*arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(aspen("cluster", *arguments, "--json").stdout)
    return answer


def fill(cluster: Cluster, count: int = CROWD) -> list[Published]:
    """Packets, keys and a zone; all nodes have them when this returns."""
    packets = [sign(f"n={n}") for n in range(count)]
    assert len(asyncio.run(put_all(packets, cluster.nodes)).acknowledged) == count
    node = cluster.nodes[0]
    pairs = [{"key": base64.b64encode(b"k/%d" % n).decode(), "value": "dmFsdWU="} for n in range(50)]
    assert node.request("POST", "/v1/kv", json.dumps({"pairs": pairs}).encode()).status == 200
    records = ["--ns", "ns", "--record", "ns 300 A 192.0.2.1", "--record", "www 300 A 192.0.2.7"]
    aspen("zone", "create", "made.test", *records, "--addr", node.addr)
    cluster.wait_caught_up()
    return packets


def check_all_there(node: NodeProcess, packets: list[Published]) -> None:
    for packet in packets:
        assert node.stored(packet)
    assert node.resolves(packets[0])
    assert node.request("GET", "/v1/kv/k%2F49").json["value"] == "dmFsdWU="
    assert "192.0.2.7" in node.dig("www.made.test", "A").to_text()


def grow(cluster: Cluster, packets: list[Published]) -> None:
    """The last of the cluster's nodes, new and not started yet, becomes a voter and gets all there is."""
    first, newcomer = cluster.nodes[0], cluster.nodes[-1]
    newcomer.start()
    newcomer.wait_answers()
    told("add-learner", newcomer.as_peer, "--addr", first.addr)
    told("promote", str(newcomer.node_id), "--addr", first.addr)
    cluster.wait_ready()
    check_all_there(newcomer, packets)
    cluster.wait_same_state()


def test_a_backup_becomes_a_new_cluster(tmp_path: Path) -> None:
    file, data_dir = tmp_path / "aspen.backup", tmp_path / "restored"
    with running(tmp_path / "old", 3) as old:
        packets = fill(old)
        follower = old.followers()[0]
        made = told("backup", str(file), "--addr", follower.addr)
        expected = follower.tables()
        old_cluster = made["cluster_id"]
        assert made["pairs"] == sum(map(len, expected.values()))
        assert made["node_id"] == follower.node_id
        assert file.stat().st_mode & 0o777 == 0o600
        assert not list(tmp_path.glob("*.part"))
        # To standard output it is the same moment, as nothing was written since.
        piped = aspen("cluster", "backup", "-", "--addr", follower.addr).stdout_bytes
        assert abs(len(piped) - file.stat().st_size) < 64
        assert b"\naspen_backups_total 2.0\n" in follower.request("GET", "/metrics").body
    assert told("verify", str(file))["tables"] == made["tables"]
    assert f"cluster {old_cluster}" in aspen("cluster", "verify", str(file)).stdout

    # A key that is there already is the node's; nothing else may be there.
    one, two = NodeProcess(7, data_dir), NodeProcess(8, tmp_path / "newcomer")
    address = f"{one.host}:{one.quic_port}"
    restore = ["restore", str(file), "--data-dir", str(data_dir), "--node-id", "7", "--address", address]
    restored = told(*restore)
    assert restored["cluster_id"] != old_cluster == restored["from_cluster_id"]
    assert restored["endpoint_id"] == one.identity.z32
    refused = aspen("cluster", *restore, code=Exit.USAGE)
    assert "not empty" in refused.stderr

    alone = aspen("cluster", "recover", "--data-dir", str(data_dir), "--accept-loss", code=Exit.FAILED)
    assert "only voter" in alone.stderr

    # The restored node has the bytes that the old one had, and others join it.
    new = Cluster(tmp_path, 1)
    new.nodes[:] = [one]
    assert {name: rows for name, rows in one.tables().items() if name != "machine"} == {
        name: rows for name, rows in expected.items() if name != "machine"
    }
    with started(new):
        check_all_there(one, packets)
        assert address in (one.status() or {})["members"][0]["addresses"]
        assert one.request("PUT", "/v1/kv/after", b"1").status == 200
        assert (one.status() or {})["applied_index"] > made["index"]
        two.peers = [one.as_peer]
        new.nodes.append(two)
        grow(new, packets)


def test_a_damaged_backup_is_refused_and_leaves_nothing(tmp_path: Path, single: Cluster) -> None:
    node = single.nodes[0]
    assert node.put(sign("one")).status == 204
    file = tmp_path / "whole"
    told("backup", str(file), "--addr", node.addr)
    data = file.read_bytes()
    cut, flipped = tmp_path / "cut", tmp_path / "flipped"
    cut.write_bytes(data[: len(data) * 2 // 3])
    middle = len(data) // 2
    flipped.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    for broken, word in ((cut, f"at byte {len(data) * 2 // 3}: the file is cut short"), (flipped, "chunk ")):
        assert word in aspen("cluster", "verify", str(broken), code=Exit.FAILED).stderr
        data_dir = tmp_path / f"from-{broken.name}"
        told_why = aspen(
            "cluster", "restore", str(broken), "--data-dir", str(data_dir), "--node-id", "1", code=Exit.FAILED
        ).stderr
        assert word in told_why
        assert "at byte" in told_why
        assert not data_dir.exists()
    assert aspen("cluster", "verify", str(tmp_path / "none"), code=Exit.USAGE).stderr


def test_what_can_not_be_backed_up_says_why(tmp_path: Path, single: Cluster) -> None:
    with running(tmp_path / "strangers", 1, found=False) as strangers:
        target = tmp_path / "none"
        refused = aspen("cluster", "backup", str(target), "--addr", strangers.nodes[0].addr, code=Exit.FAILED)
        assert "belongs to no cluster" in refused.stderr
        assert not list(tmp_path.glob("none*"))
    assert aspen("cluster", "backup", str(tmp_path / "no" / "folder"), "--addr", single.nodes[0].addr, code=2)


def test_one_survivor_of_three_becomes_a_cluster_again(tmp_path: Path) -> None:
    with running(tmp_path / "nodes", 3) as cluster:
        packets = fill(cluster, 60)
        *lost, left = cluster.nodes
        data_dir = ["--data-dir", str(left.data_dir)]
        refused = aspen("cluster", "recover", *data_dir, code=Exit.FAILED)
        assert f"in use by process {left.pid}" in refused.stderr
        ticket = told("ticket", "--addr", left.addr)["ticket"]
        for node in lost:
            node.kill()
        left.stop()

        shown = aspen("cluster", "recover", *data_dir, code=Exit.FAILED).stdout
        assert "Nothing was changed" in shown
        assert "sends away: 1, 2" in shown
        recovered = told("recover", *data_dir, "--accept-loss")
        assert recovered["recovered"]
        assert recovered["new_cluster_id"] != recovered["cluster_id"]
        left.settings["ASPEN_TICKET"] = ticket  # as one that had joined by it: of no use now, and no harm
        left.start()
        left.wait_ready()
        check_all_there(left, packets)
        assert left.request("PUT", "/v1/kv/after", b"recovered").status == 200

        # Both that were lost come back: whatever they do, they do without the recovered node.
        for node in lost:
            node.start()
        for node in lost:
            node.wait_answers()
        wait_until(lambda: "peer refused" in left.log(), "they have knocked", 30)
        assert (left.status() or {})["leader_id"] == left.node_id
        assert [member["node_id"] for member in (left.status() or {})["members"]] == [left.node_id]
        # One of them alone is told that it was removed, and nothing of it is heard.
        lost[1].kill()
        back = lost[0]
        wait_until(lambda: (back.status() or {}).get("role") == "removed", "it knows", 40)
        assert back.request("PUT", "/v1/kv/after", b"late").status == 503
        back.kill()

        # It grows again: under the same node id, with nothing of what was there.
        anew = NodeProcess(back.node_id, tmp_path / "anew")
        anew.peers = [left.as_peer]
        cluster.nodes[:] = [left, anew]
        grow(cluster, packets)
        assert anew.request("GET", "/v1/kv/after").json["value"] == base64.b64encode(b"recovered").decode()
        for node in lost:
            node.end_whatever_is_left()
