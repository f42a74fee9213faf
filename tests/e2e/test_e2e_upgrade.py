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
FROM = os.environ.get("ASPEN_UPGRADE_FROM", "")
"""The commit whose build is upgraded, of this repository's history; by default the one before the last change
of the program."""
PAUSE_S = 0.05


def git(*arguments: str) -> bytes:
    """Raises `OSError` or `CalledProcessError`."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout


def earlier() -> str:
    """The commit to upgrade from. A shallow clone, as of CI, is deepened as far as it takes."""
    last = git("rev-list", "-1", "HEAD", "--", "aspen").decode().strip()
    commit = FROM or f"{last}~1"
    try:
        git("cat-file", "-e", commit)
    except subprocess.CalledProcessError:
        if git("rev-parse", "--is-shallow-repository").strip() != b"true":
            raise
        git("fetch", "--quiet", *(["--unshallow"] if FROM else ["--deepen=1"]))
    return git("rev-parse", commit).decode().strip()


def tree_of(into: Path) -> tuple[str, Path]:
    """A commit, and the program as it was there."""
    try:
        commit = earlier()
        archive = git("archive", commit, "aspen")
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"no earlier build to upgrade from: {said}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")
    return commit, into


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


def upgrade(cluster: Cluster, node: NodeProcess) -> None:
    """One node: have another lead, stop it, start the new version, wait until it has caught up."""
    if cluster.leader(30) is node:
        other = next(each for each in cluster if each is not node)
        node.request("POST", "/v1/cluster/transfer-leader", b'{"node_id": %d}' % other.node_id)
    assert node.stop(30) == 0
    node.tree = None
    node.start()
    node.wait_ready(60)


def test_a_rolling_upgrade_under_load_loses_nothing(tmp_path: Path) -> None:
    commit, old = tree_of(tmp_path / "old")
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
            f"upgrade from {commit[:12]}: {len(load.acknowledged)} packets and {load.counted} increments "
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
