"""Members come and go while real nodes serve; whoever is gone says so; a replica that lies is found."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cluster import NodeProcess, running
from processes import wait_until

from aspen.state.store import Store

ELECTION_MIN_S = 1.5
"""Of the default profile: long enough that a busy machine is not mistaken for an election."""


def aspen(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`aspen cluster …` asked of one node."""
    return subprocess.run(
        [sys.executable, "-m", "aspen.cli.main", "cluster", *arguments, "--addr", node.addr, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )


def done(node: NodeProcess, *arguments: str) -> Any:
    """The JSON answer of a command that must succeed."""
    result = aspen(node, *arguments)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return json.loads(result.stdout)


def stranger(base: Path, node_id: int, *, profile: str = "default") -> NodeProcess:
    """A running node that knows the cookie, and nobody."""
    node = NodeProcess(node_id, base / f"node-{node_id}", profile=profile, workers=0)
    node.start()
    wait_until(lambda: node.status(), f"{node} runs", timeout_s=20)
    return node


def roles(status: dict[str, Any]) -> dict[int, str]:
    return {member["node_id"]: member["role"] for member in status["members"]}


class Writers:
    """Keys put one by one, through the nodes in turn; what was acknowledged, and how long it took."""

    PAUSE_S = 0.03

    def __init__(self, nodes: list[NodeProcess], count: int = 3) -> None:
        self.nodes = nodes
        self.acknowledged: list[str] = []
        self.gaps_s: list[float] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 30) -> None:
        goal = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= goal, f"{count} more writes")

    def _write(self, writer: int) -> None:
        last = time.monotonic()
        for i in itertools.count():
            if self._stopping.wait(self.PAUSE_S):
                return
            nodes = list(self.nodes)
            key = f"load-{writer}-{i}"
            try:
                answer = nodes[(writer + i) % len(nodes)].request("PUT", f"/v1/kv/{key}", b"v")
            except (OSError, HTTPException):
                continue
            if answer.status == 200:
                self.acknowledged.append(key)
                self.gaps_s.append(time.monotonic() - last)
                last = time.monotonic()


def test_one_three_five_three_under_load(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, and no write waits as long as an election would take."""
    with running(tmp_path, 1, profile="default", workers=0) as cluster:
        nodes = cluster.nodes
        serving = [nodes[0]]
        with Writers(serving) as writers:
            for size in (3, 5):
                for n in range(size - 1, size + 1):
                    nodes.append(stranger(tmp_path, n))
                    through = nodes[-2]
                    assert roles(done(through, "add-learner", nodes[-1].as_peer))[n] == "learner"
                voters = [str(n) for n in range(1, size + 1)]
                answer = done(nodes[1], "change-membership", *voters)
                assert roles(answer) == {n: "voter" for n in range(1, size + 1)}
                serving[:] = nodes
                cluster.wait_ready()
                writers.more()
            assert cluster.leader() is nodes[0]
            serving[:] = nodes[2:]  # no new writes go to those who leave
            answer = done(nodes[3], "change-membership", "3", "4", "5")
            assert roles(answer) == {3: "voter", 4: "voter", 5: "voter"}
            writers.more()
        assert max(writers.gaps_s) < ELECTION_MIN_S
        gone, nodes[:] = nodes[:2], nodes[2:]
        try:
            cluster.wait_caught_up()
            for node in nodes:
                kept = node.tables()["kv"].keys()
                assert {key.encode() for key in writers.acknowledged} <= kept
            for node in gone:
                wait_until(lambda node=node: (node.status() or {}).get("role") == "removed", f"{node} knows")
                assert node.request("GET", "/readyz").status == node.request("GET", "/health").status == 503
                assert "removed from the cluster" in node.log()
                assert node.request("PUT", "/v1/kv/k", b"v").status == 503
            assert done(nodes[0], "check")["alike"] is True
        finally:
            for node in gone:
                node.end_whatever_is_left()


def test_a_node_removed_while_it_was_down_is_told_and_comes_back_as_another(tmp_path: Path) -> None:
    with running(tmp_path, 3, workers=0) as cluster:
        gone = cluster.followers()[0]
        others = [node for node in cluster if node is not gone]
        gone.kill()
        answer = done(others[0], "remove", str(gone.node_id))
        assert gone.node_id not in roles(answer)
        gone.start()
        wait_until(lambda: (gone.status() or {}).get("role") == "removed", "the others told it", timeout_s=20)
        assert "the word of a member" in gone.log()
        assert (others[0].status() or {})["refusals"]["removed"] >= 1
        term = (others[0].status() or {})["term"]
        gone.stop()
        # Its machine, wiped: another key under the same node id.
        shutil.rmtree(gone.data_dir)
        anew = stranger(tmp_path, gone.node_id, profile="lan")
        cluster.nodes[cluster.nodes.index(gone)] = anew
        done(others[0], "add-learner", anew.as_peer)
        answer = done(anew, "promote", str(anew.node_id))
        assert roles(answer) == {1: "voter", 2: "voter", 3: "voter"}
        assert anew.request("PUT", "/v1/kv/k", b"v").status == 200
        assert (others[0].status() or {})["term"] == term
        # A learner never stands for election: it finds out when it knocks.
        learner = stranger(tmp_path, 4, profile="lan")
        try:
            done(others[0], "add-learner", learner.as_peer)
            wait_until(lambda: (learner.status() or {}).get("leader_id"), "the learner is reached")
            learner.kill()
            done(others[0], "remove", "4")
            learner.start()
            wait_until(lambda: (learner.status() or {}).get("role") == "removed", "it knows", timeout_s=20)
        finally:
            learner.end_whatever_is_left()
        done(others[1], "transfer-leader", str(anew.node_id))
        assert cluster.leader() is anew
        assert others[0].request("PUT", "/v1/kv/k", b"w").status == 200


def test_a_cluster_is_founded_from_the_outside(tmp_path: Path) -> None:
    with running(tmp_path, 3, workers=0, found=False) as cluster:
        one, two, three = cluster
        refused = aspen(one, "promote", "2")
        assert refused.returncode == 1
        assert json.loads(refused.stderr)["error"] == "not_initialized"
        answer = done(one, "init", "--member", two.as_peer, "--member", three.as_peer)
        assert roles(answer) == {1: "voter", 2: "voter", 3: "voter"}
        cluster.wait_ready()
        again = aspen(two, "init")
        assert json.loads(again.stderr)["error"] == "invalid_request"
        assert three.request("PUT", "/v1/kv/k", b"v").status == 200
        snapshot = done(two, "snapshot")
        assert snapshot["node_id"] == 2
        wrong = aspen(two, "remove", "9")
        assert (wrong.returncode, json.loads(wrong.stderr)["error"]) == (3, "unknown_node")


def test_a_replica_that_differs_is_found(tmp_path: Path) -> None:
    with running(tmp_path, 3, workers=0) as cluster:
        for i in range(50):
            assert cluster.nodes[i % 3].request("PUT", f"/v1/kv/key-{i}", b"true").status == 200
        answer = done(cluster.nodes[1], "check")
        assert answer["alike"] is True
        assert len({member["hash"] for member in answer["members"]}) == 1
        liar = cluster.followers()[0]
        liar.stop()
        tamper(liar.data_dir)
        silent = aspen(cluster.leader(), "check", "--timeout", "1")
        assert silent.returncode == 4
        cluster.restore()
        for node in cluster:
            found = aspen(node, "check")
            assert found.returncode == 1
            members = json.loads(found.stdout)["members"]
            assert [m["node_id"] for m in members if m["state"] == "differs"] == [liar.node_id]


def tamper(data_dir: Path) -> None:
    """One bit of one value, as a broken disk might."""
    store = Store.open(data_dir)
    with store.write() as txn:
        value = bytearray(txn.get(b"key-7", db=store.tables["kv"]))
        value[-1] ^= 1
        txn.put(b"key-7", bytes(value), db=store.tables["kv"])
    store.close()
