"""A cluster is upgraded node by node, as docs/upgrading.md says, while clients write."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest
from clients import Published, sign
from cluster import Cluster, NodeProcess, running, started
from processes import wait_until

from aspen.state.level import CLUSTER_SETTING, LEVEL
from aspen.state.store import Store

REPOSITORY = Path(__file__).parents[2]
FROM = os.environ.get("ASPEN_UPGRADE_FROM", "HEAD~1")
"""The commit whose build is upgraded: of this repository's history."""
PAUSE_S = 0.05


def tree_of(commit: str, into: Path) -> Path:
    """The program as it was at a commit."""
    command = ["git", "-C", str(REPOSITORY), "archive", commit, "aspen"]
    try:
        archive = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no history here: {commit} can't be had")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")
    return into


@dataclass
class Load:
    """Clients that write packets and a key at every node, until told to stop."""

    cluster: Cluster
    acknowledged: list[Published] = field(default_factory=list)
    counted: int = 0
    """Increments of one counter that were acknowledged."""
    unknown: int = 0
    """Increments whose outcome is not known: the node went away before it answered."""
    refused: int = 0
    longest_gap_s: float = 0.0
    """Between two writes that were acknowledged, by whichever node."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Load:
        jobs = [(self._publish, node) for node in self.cluster] + [(self._count, None)]
        self._threads = [threading.Thread(target=job, args=(node,)) for job, node in jobs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _note(self) -> None:
        now = time.monotonic()
        with self._lock:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last)
            self._last = now

    def _publish(self, node: NodeProcess) -> None:
        number = 0
        while not self._ended.wait(PAUSE_S):
            number += 1
            packet = sign(f"node={node.node_id}", f"number={number}")
            try:
                status = node.put(packet).status
            except (OSError, HTTPException):
                continue  # it is being upgraded
            if status == 204:
                self.acknowledged.append(packet)
                self._note()
            else:
                self.refused += 1

    def _count(self, _: None) -> None:
        while not self._ended.wait(PAUSE_S):
            for node in self.cluster:
                try:
                    answer = node.request("POST", "/v1/kv/counter", b'{"delta": 1}')
                except ConnectionRefusedError:
                    continue
                except (OSError, HTTPException):
                    self.unknown += 1
                    continue
                if answer.status == 200:
                    self.counted += 1
                    self._note()
                elif answer.status == 503 and answer.json["error"] == "outcome_unknown":
                    self.unknown += 1
                break


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tree_of(FROM, tmp_path / "old")


def upgrade(cluster: Cluster, node: NodeProcess) -> None:
    """One node: have another lead, stop it, start the new version, wait until it has caught up."""
    if cluster.leader(30) is node:
        other = next(each for each in cluster if each is not node)
        node.request("POST", "/v1/cluster/transfer-leader", b'{"node_id": %d}' % other.node_id)
    assert node.stop(30) == 0
    node.tree = None
    node.start()
    node.wait_ready(60)


def test_a_rolling_upgrade_under_load_loses_nothing(tmp_path: Path, old: Path) -> None:
    cluster = Cluster(tmp_path, 3)
    for node in cluster:
        node.tree = old
    with started(cluster):
        with Load(cluster) as load:
            wait_until(lambda: load.counted >= 20 and len(load.acknowledged) >= 60, "a load on the old", 60)
            for node in cluster:
                before = load.counted, len(load.acknowledged)
                upgrade(cluster, node)
                wait_until(
                    lambda before=before: (  # type: ignore[misc]
                        load.counted >= before[0] + 10 and len(load.acknowledged) >= before[1] + 30
                    ),
                    f"writes go on with {node} upgraded",
                    60,
                )
                assert node.resolves(load.acknowledged[0])
        print(
            f"upgrade from {FROM}: {len(load.acknowledged)} packets and {load.counted} increments "
            f"acknowledged, {load.refused} refused, {load.unknown} of unknown outcome, "
            f"longest gap {load.longest_gap_s:.2f} s"
        )
        assert all(node.tree is None for node in cluster)
        cluster.wait_caught_up(60)
        for node in cluster:
            missing = [packet for packet in load.acknowledged if not node.stored(packet)]
            assert missing == []
            counter = node.request("GET", "/v1/kv/counter", headers={"Accept": "application/octet-stream"})
            assert load.counted <= int(counter.body) <= load.counted + load.unknown
        cluster.wait_same_state()


def test_a_version_that_is_too_old_says_so_and_does_not_start(tmp_path: Path) -> None:
    with running(tmp_path, 1) as cluster:
        (node,) = cluster
        assert node.stop() == 0
        store = Store.open(node.data_dir)
        with store.write() as txn:
            txn.put(CLUSTER_SETTING.encode(), str(LEVEL + 1).encode(), db=store.tables["settings"])
        store.close()
        node.start()
        assert node.process is not None
        assert node.process.wait(30) == 1
        assert f"commands of level {LEVEL + 1}, and this version of Aspen knows level {LEVEL}" in node.log()
        assert "docs/upgrading.md" in node.log()
