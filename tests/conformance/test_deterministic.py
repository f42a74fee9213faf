"""The deterministic cluster itself: the same seed, the same story; and it costs no time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aspen.api import ClusterNode, InitRequest, KvClient, RaftControlClient, WriteCommand
from aspen.config import ClusterBootstrapConfig, ControlBackend
from aspen.deterministic import DeterministicCluster
from aspen.errors import ControlPlaneError, KeyValueStoreError
from aspen.node import bootstrap_node
from aspen.state.ports import Consistency

STORY = """
import asyncio
from aspen.deterministic import DeterministicCluster

async def story(seed):
    cluster = DeterministicCluster([1, 2, 3], seed=seed)
    await cluster[1].control.found(cluster.founders())
    cluster.crash(cluster.leader.node_id)
    cluster.run_for(2_000)
    four = cluster.add(4)
    await cluster.leader.control.add_learner(4, four.endpoint_id, ())
    cluster.restart(1)
    cluster.run_for(777)
    return [
        (m.term, m.leader_id, m.applied_index, m.identity.z32, m.raw.raft.randomized_timeout)
        for m in cluster
    ]

print(asyncio.run(story({seed})))
"""


def told(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", STORY.replace("{seed}", str(seed))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    assert told(1, "1") == told(1, "2")
    assert told(1, "1") != told(2, "1")


async def test_hours_pass_in_no_time() -> None:
    cluster = DeterministicCluster([1, 2, 3])
    await cluster[1].control.found(cluster.founders())
    began = time.monotonic()
    cluster.run_for(60_000)
    assert cluster.time.now_ms() >= 60_000
    assert time.monotonic() - began < 10
    assert cluster.leader is not None


async def test_a_minority_neither_writes_nor_reads_what_is_current() -> None:
    cluster = DeterministicCluster([1, 2, 3, 4, 5])
    await cluster[1].control.found(cluster.founders())
    await KvClient(cluster[2]).write(WriteCommand.Set("k", "before"))
    cluster.partition({1, 2}, {3, 4, 5})
    cluster.run_for(1_000)
    for node_id in (1, 2):
        kv = KvClient(cluster[node_id])
        with pytest.raises(KeyValueStoreError.Timeout):
            await kv.write(WriteCommand.Set("k", "in vain"))
        with pytest.raises(KeyValueStoreError.Timeout):
            await kv.read("k")
        assert (await kv.read("k", Consistency.STALE)).value == b"before"
    await KvClient(cluster[4]).write(WriteCommand.Set("k", "after"))
    cluster.heal()
    assert (await KvClient(cluster[1]).read("k")).value == b"after"


async def test_all_may_crash_and_nothing_acknowledged_is_lost() -> None:
    cluster = DeterministicCluster([1, 2, 3])
    await cluster[1].control.found(cluster.founders())
    await KvClient(cluster[3]).write(WriteCommand.SetMulti({"a": "1", "b": "2"}))
    for member in cluster:
        cluster.crash(member.node_id)
    with pytest.raises(KeyValueStoreError.Timeout, match="down"):
        await KvClient(cluster[1]).read("a")
    for node_id in (1, 2, 3):
        cluster.restart(node_id)
    assert (await KvClient(cluster[2]).read("b")).value == b"2"


async def test_a_node_id_can_be_taken_over_by_another_key() -> None:
    cluster = DeterministicCluster([1, 2, 3])
    control = cluster[1].control
    await control.found(cluster.founders())
    await control.remove(3)
    old = cluster[3]
    new = cluster.add(3)
    assert new.endpoint_id != old.endpoint_id
    await control.add_learner(3, new.endpoint_id, ())
    await control.promote(3)
    await KvClient(new).write(WriteCommand.Set("k", "v"))
    with pytest.raises(ControlPlaneError.InvalidRequest):
        cluster.add(0)


async def test_bootstrap_node_makes_one_too(tmp_path: Path) -> None:
    """`ControlBackend.DETERMINISTIC`: the same program, without disk and network."""
    backend = ControlBackend.DETERMINISTIC
    config = ClusterBootstrapConfig(node_id=7, data_dir=tmp_path / "none", control_backend=backend)
    async with await bootstrap_node(config) as node:
        state = await RaftControlClient(node).init(InitRequest([ClusterNode(7, "anywhere:1")]))
        assert (state.members, state.leader_id) == ((7,), 7)
        await KvClient(node).write(WriteCommand.Set("k", "v"))
        assert (await KvClient(node).read("k")).value == b"v"
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240  a folder of our own
