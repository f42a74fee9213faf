"""Leases in simulated time: gone within a second of their end and never early, whatever clocks say."""

from __future__ import annotations

import random

import pytest

from aspen.api import KvClient, WriteCommand
from aspen.deterministic import DeterministicCluster
from aspen.errors import KeyValueStoreError
from aspen.state.ports import Consistency

TTL_MS = 3_000
LATE_MS = 1_000


async def founded(seed: int) -> DeterministicCluster:
    cluster = DeterministicCluster([1, 2, 3], seed=seed)
    await cluster[1].control.found(cluster.founders())
    await KvClient(cluster[1]).write(WriteCommand.Set("first", ""))
    return cluster


def there(cluster: DeterministicCluster) -> bool:
    """Whether any member still has the key."""
    return any(member.is_up and member.kv.get(b"k") is not None for member in cluster)


def leader_of(cluster: DeterministicCluster) -> int:
    assert cluster.leader is not None
    return cluster.leader.node_id


async def test_a_key_goes_with_its_lease_and_no_earlier() -> None:
    cluster = await founded(1)
    kv = KvClient(cluster[2])
    lease = (await kv.grant(TTL_MS)).lease
    await kv.write(WriteCommand.Set("k", "v", lease=lease))
    begun = cluster.time.now_ms()
    cluster.run_for(TTL_MS - 50)
    assert there(cluster)
    await kv.keep_alive(lease)
    renewed = cluster.time.now_ms()
    cluster.run_for(TTL_MS - 50)
    assert there(cluster)
    assert cluster.time.run_until(lambda: not there(cluster), renewed + TTL_MS + LATE_MS)
    assert cluster.time.now_ms() >= renewed + TTL_MS > begun
    with pytest.raises(KeyValueStoreError.LeaseNotFound):
        await kv.keep_alive(lease)
    with pytest.raises(KeyValueStoreError.LeaseNotFound):
        await kv.write(WriteCommand.Set("k", "v", lease=lease))


async def test_a_new_leader_gives_the_full_time_again() -> None:
    cluster = await founded(2)
    await KvClient(cluster[1]).write(WriteCommand.Set("k", "v", ttl_ms=TTL_MS))
    cluster.run_for(TTL_MS - 300)
    old = leader_of(cluster)
    cluster.crash(old)
    assert cluster.time.run_until(lambda: cluster.leader is not None, cluster.time.now_ms() + 5_000)
    elected = cluster.time.now_ms()
    cluster.run_for(TTL_MS - 50)
    assert there(cluster), "the new leader saw it for the first time when it was elected"
    assert cluster.time.run_until(lambda: not there(cluster), elected + TTL_MS + LATE_MS)


@pytest.mark.parametrize("step_ms", [-86_400_000, -1_000, 1_000, 86_400_000])
async def test_no_clock_that_steps_ends_a_lease_early(step_ms: int) -> None:
    cluster = await founded(3)
    leader = leader_of(cluster)
    for member in cluster:
        if member.node_id != leader:
            member.clock_ahead_ms = step_ms
    follower = next(member for member in cluster if member.node_id != leader)
    kv = KvClient(follower)
    await kv.write(WriteCommand.Set("k", "v", ttl_ms=TTL_MS))
    written = cluster.time.now_ms()
    cluster.run_for(1_000)
    await kv.write(WriteCommand.Set("other", "v"))
    cluster[leader].clock_ahead_ms = -step_ms
    cluster.run_for(1_000)
    await kv.write(WriteCommand.Set("other", "w"))
    assert cluster.time.run_until(lambda: not there(cluster), written + TTL_MS + LATE_MS)
    assert cluster.time.now_ms() >= written + TTL_MS - 10


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_befalls_the_members_a_lease_kept_alive_lives_and_another_ends(seed: int) -> None:
    """Leaders crash, are cut off, return; clocks step. A holder renews often enough for each time it
    succeeds. The key must be there until one time to live after the last renewal that succeeded."""
    rng = random.Random(seed)
    cluster = await founded(100 + seed)
    lease = (await KvClient(cluster[1]).grant(TTL_MS)).lease
    await KvClient(cluster[1]).write(WriteCommand.Set("k", "v", lease=lease))
    safe_until = cluster.time.now_ms() + TTL_MS - 20
    for _ in range(12):
        cluster.run_for(rng.randrange(200, 900))
        for member in cluster:
            member.clock_ahead_ms = rng.choice([0, 0, -10_000_000, 10_000_000])
        befalls = rng.random()
        if befalls < 0.25 and all(member.is_up for member in cluster):
            cluster.crash(rng.choice([1, 2, 3]))
        elif befalls < 0.5:
            alone = rng.choice([1, 2, 3])
            cluster.partition([alone], {1, 2, 3} - {alone})
        else:
            cluster.heal()
            for member in cluster:
                if not member.is_up:
                    member.start()
        begun = cluster.time.now_ms()
        through = rng.choice([member for member in cluster if member.is_up])
        try:
            await KvClient(through).keep_alive(lease)
            safe_until = max(safe_until, begun + TTL_MS)
        except KeyValueStoreError.LeaseNotFound:
            assert cluster.time.now_ms() >= safe_until
            break
        except KeyValueStoreError:
            pass
        if cluster.time.now_ms() < safe_until:
            assert any(member.kv.get(b"k") for member in cluster if member.is_up), f"gone before {safe_until}"
    cluster.heal()
    for member in cluster:
        if not member.is_up:
            member.start()
    await KvClient(cluster[1]).write(WriteCommand.Set("last", ""))
    cluster.run_for(2 * TTL_MS + LATE_MS)
    with pytest.raises(KeyValueStoreError.NotFound):
        await KvClient(cluster[2]).read("k", Consistency.CONSISTENT)
