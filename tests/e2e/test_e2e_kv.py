"""The key-value store on real nodes that are killed and stopped: histories, watches, leases, pages, locks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from cluster import Cluster
from kv_history import PRESENT, HistoryOfKeys, Told, judge

from aspen.client import Barrier, Change, Changes, Client, Counter, Election, Lock, NodeClient, Session
from aspen.errors import ClientError, ClientNotFound, ClientOutcomeUnknown

SCALE = float(os.environ.get("ASPEN_TEST_KV_SCALE", "0.03"))
"""1 is 100,000 writes and 100,000 keys."""
SECONDS = float(os.environ.get("ASPEN_TEST_KV_SECONDS", "5"))


def addrs(cluster: Cluster) -> list[str]:
    return [node.addr for node in cluster]


async def harm(cluster: Cluster, until: asyncio.Event) -> int:
    """Kill or stop whichever node leads, over and over; how often."""
    count = 0
    while not until.is_set():
        await asyncio.sleep(1.0)
        victim = await asyncio.to_thread(cluster.leader)
        count += 1
        if count % 2:
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(0.3)
            victim.start()
        else:
            os.kill(victim.pid, signal.SIGSTOP)
            await asyncio.sleep(0.8)
            os.kill(victim.pid, signal.SIGCONT)
    return count


async def collect(changes: AsyncIterator[Changes], found: list[Changes], last: int) -> None:
    """Every batch of changes up to a revision."""
    async for told in changes:
        if told.changes:
            found.append(told)
        if told.revision >= last:
            return


async def revision_of(client: Client) -> int:
    return (await client.kv_scan(count_only=True, limit=None)).revision


async def test_what_five_clients_were_told_is_one_history(cluster: Cluster) -> None:
    history = HistoryOfKeys(addrs(cluster), seed=7)
    until = asyncio.Event()
    async with Client(addrs(cluster), timeout_ms=20_000) as client:
        first = await revision_of(client)
        seen: list[list[Changes]] = [[] for _ in range(3)]
        last = 2**60
        async with asyncio.TaskGroup() as group:
            watchers = [
                group.create_task(collect(client.kv_watch(start=first + 1), found, last)) for found in seen
            ]
            clients = [group.create_task(history.client(number, until)) for number in range(5)]
            harming = group.create_task(harm(cluster, until))
            await asyncio.sleep(SECONDS)
            until.set()
            await asyncio.wait([*clients, harming])
            await asyncio.to_thread(cluster.restore)
            end = await revision_of(client)
            for found in seen:
                async with asyncio.timeout(20):
                    while not found or found[-1].revision < end:  # noqa: ASYNC110  three watches at once
                        await asyncio.sleep(0.02)
            for watcher in watchers:
                watcher.cancel()
    counts = {outcome: sum(one.outcome == outcome for one in history.told) for outcome in ("ok", "unknown")}
    print(f"{len(history.told)} calls, {counts}, {harming.result()} faults, revisions {first} to {end}")
    assert counts["ok"] > 100
    assert seen[0] == seen[1] == seen[2], "all who watch see the same"
    assert judge(history.told, seen[0], first) == []


def test_a_history_that_is_none_is_found_out() -> None:
    changes = [Changes(n, (Change("put", b"k", b"%d" % n),)) for n in (1, 2)]

    def told(kind: str, called: float, ended: float, revision: int, **more: object) -> Told:
        return Told(1, 1, kind, b"k", called, ended, "ok", revision, **more)  # type: ignore[arg-type]

    write = told("put", 0, 1, 1, wrote=b"1")
    assert judge([write, told("read", 2, 3, 1, found=b"1")], changes, 0) == []
    assert judge([write, told("read", 2, 3, 1, found=b"")], changes, 0), "a lost write"
    assert judge([told("put", 0, 1, 2, wrote=b"2"), told("read", 2, 3, 1, found=b"1")], changes, 0), "stale"
    assert judge([told("put", 0, 1, 3, wrote=b"3")], changes, 0), "acknowledged, and not there"
    assert judge([write], [*changes, changes[-1]], 0), "told twice"
    refused = Told(1, 1, "put", b"k", 0, 1, "refused", wrote=b"2")
    assert judge([refused], changes, 0), "refused, and written"
    stale = [told("stale", 0, 1, 2, found=b"2", stale=True), told("stale", 2, 3, 1, found=b"1", stale=True)]
    assert judge(stale, changes, 0), "a stale read goes back"
    behind = told("monotonic", 0, 1, 1, found=b"1", stale=True, floor=2)
    assert judge([behind], changes, 0), "a monotonic read goes back, through another node"
    assert judge([told("cas", 0, 1, 2, wrote=b"2", before=b"1")], changes, 0) == []
    assert judge([told("cas", 0, 1, 2, wrote=b"2", before=b"0")], changes, 0), "swapped for another value"
    assert judge([told("txn", 0, 1, 1, wrote=b"1", before=PRESENT)], changes, 0), "of a key that was absent"


async def test_every_watcher_sees_every_write_once_and_in_order(cluster: Cluster) -> None:
    writes = int(100_000 * SCALE)
    async with Client(addrs(cluster), timeout_ms=20_000) as client:
        first = await revision_of(client)
        until = asyncio.Event()
        seen: list[list[Changes]] = [[] for _ in range(3)]
        numbers = iter(range(writes))

        async def write() -> None:
            for number in numbers:
                await client.kv_put(b"w/%d" % (number % 100), b"%d" % number, once=f"w{number}-{first}")

        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(collect(client.kv_watch(b"w/", start=first + 1), found, first + writes))
                for found in seen
            ]
            harming = group.create_task(harm(cluster, until))
            await asyncio.gather(*(write() for _ in range(64)))
            until.set()
            await harming
            await asyncio.to_thread(cluster.restore)
            async with asyncio.timeout(30):
                await asyncio.gather(*watching)
        for found in seen:
            assert [told.revision for told in found] == list(range(first + 1, first + writes + 1))
            assert sorted(int(told.changes[0].value) for told in found) == list(range(writes))
        print(f"{writes} writes, {harming.result()} faults")


async def test_pages_are_of_one_moment_while_others_write(single: Cluster) -> None:
    keys = int(100_000 * SCALE)
    (node,) = single
    async with NodeClient(node.addr) as client:
        for start in range(0, keys, 100):
            await client.kv_batch([(b"s/%06d" % n, b"old") for n in range(start, min(start + 100, keys))])
        ended = False

        async def disturb() -> int:
            count = 0
            while not ended:
                at = count * 7919 % keys
                await client.kv_batch(
                    [(b"s/%06d" % at, b"new"), (b"s/%06d-new" % at, b"new")], [b"s/%06d" % ((at + 1) % keys)]
                )
                count += 1
            return count

        disturbing = asyncio.create_task(disturb())
        seen: list[tuple[bytes, bytes]] = []
        page = await client.kv_scan(b"s/", limit=keys // 50)
        moment = {key: value for key, value in ((e.key, e.value) for e in page.entries)}
        assert moment
        while True:
            seen += [(entry.key, entry.value) for entry in page.entries]
            if page.cursor is None:
                break
            page = await client.kv_scan(cursor=page.cursor, limit=keys // 50)
        ended = True
        disturbed = await disturbing
        again: list[tuple[bytes, bytes]] = []
        last = await client.kv_scan(b"s/", limit=10_000, revision=page.revision)
        while True:
            again += [(entry.key, entry.value) for entry in last.entries]
            if last.cursor is None:
                break
            last = await client.kv_scan(cursor=last.cursor, limit=10_000)
        assert seen == again, "as it was at that revision, read in other pages after all the writes"
        assert len({key for key, _ in seen}) == len(seen)
        olds = sum(value == b"old" for _, value in seen)
        assert disturbed > 10
        assert olds >= keys - 2 * disturbed
        deleted = await client.kv_delete_prefix(b"s/")
        assert deleted.changed >= keys - disturbed


# --- leases and what is built on them -----------------------------------------------------------

TTL_MS = 1_500


async def gone(client: Client, key: bytes, within_s: float) -> float:
    """When the key went; it must within that time."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await client.kv_get(key)
            except ClientNotFound:
                return time.monotonic()
            await asyncio.sleep(0.05)


async def test_a_key_outlives_its_leader_and_goes_with_its_lease(cluster: Cluster) -> None:
    async with Client(addrs(cluster), timeout_ms=20_000) as client:
        begun = time.monotonic()
        await client.kv_put(b"lease/ttl", b"", ttl_ms=TTL_MS)
        ended = await gone(client, b"lease/ttl", TTL_MS / 1_000 + 1.5)
        assert TTL_MS / 1_000 <= ended - begun <= TTL_MS / 1_000 + 1.0
        async with Session(client, TTL_MS) as session:
            await client.kv_put(b"lease/kept", b"", lease=session.lease)
            await asyncio.to_thread((await asyncio.to_thread(cluster.leader)).kill)
            await asyncio.sleep(2 * TTL_MS / 1_000)
            assert (await client.kv_get(b"lease/kept")).lease == session.lease, "kept alive all the while"
            assert not session.lost.is_set()
        await gone(client, b"lease/kept", 1.0)


async def test_a_lock_passes_on_when_its_holder_dies_and_tokens_grow(cluster: Cluster) -> None:
    async with Client(addrs(cluster), timeout_ms=20_000) as client, contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(Session(client, TTL_MS)) for _ in range(3)]
        first = await Lock(sessions[0], b"locks/a").acquire()
        waiting = [asyncio.create_task(Lock(session, b"locks/a").acquire()) for session in sessions[1:]]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting)
        died = time.monotonic()
        await sessions[0].abandon()
        await asyncio.wait(waiting, timeout=TTL_MS / 1_000 + 2, return_when=asyncio.FIRST_COMPLETED)
        assert time.monotonic() - died >= TTL_MS / 1_000 * 2 / 3 - 0.1, "not while its lease may live"
        (second,) = [task.result() for task in waiting if task.done()]
        holder = await Lock(sessions[1], b"locks/a").holder()
        assert holder is not None
        assert holder.create_revision == second > first
        for session, task in zip(sessions[1:], waiting, strict=True):
            if task.done():
                await Lock(session, b"locks/a").release()
        async with asyncio.timeout(30):
            third = max(await asyncio.gather(*waiting))
        assert third > second


async def test_a_dead_leader_is_followed_by_another(cluster: Cluster) -> None:
    async with Client(addrs(cluster), timeout_ms=20_000) as client, contextlib.AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(Session(client, TTL_MS)) for _ in range(2)]
        election = Election(one, b"elections/x")
        term = await election.campaign(b"one")
        candidate = asyncio.create_task(Election(two, b"elections/x").campaign(b"two"))
        leader = await election.leader()
        assert leader is not None
        assert (leader.value, leader.create_revision) == (b"one", term)
        await one.abandon()
        async with asyncio.timeout(TTL_MS / 1_000 + 3):
            assert await candidate > term
        leader = await Election(two, b"elections/x").leader()
        assert leader is not None
        assert leader.value == b"two"


async def test_counters_count_once_and_barriers_wait_for_the_living(cluster: Cluster) -> None:
    async with Client(addrs(cluster), timeout_ms=20_000) as client, contextlib.AsyncExitStack() as stack:
        counter = Counter(client, b"counters/n")
        adding = asyncio.gather(*(counter.add(once=f"count-{n}") for n in range(40)))
        await asyncio.to_thread((await asyncio.to_thread(cluster.leader)).kill)
        assert sorted(await adding) == list(range(1, 41))
        assert await counter.value() == 40
        sessions = [await stack.enter_async_context(Session(client, TTL_MS)) for _ in range(4)]
        waiting = [asyncio.create_task(Barrier(s, b"barriers/x", 3).wait()) for s in sessions[:2]]
        await asyncio.sleep(0.3)
        await sessions[1].abandon()
        await gone(client, b"barriers/x/at/%016x" % sessions[1].lease, TTL_MS / 1_000 + 1.5)
        waiting.append(asyncio.create_task(Barrier(sessions[2], b"barriers/x", 3).wait()))
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting), "two living ones are not three"
        waiting.append(asyncio.create_task(Barrier(sessions[3], b"barriers/x", 3).wait()))
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)


async def test_a_write_of_unknown_outcome_is_sent_again_only_under_a_key(cluster: Cluster) -> None:
    """Two of three nodes stop, so nothing commits; then they go on."""
    async with Client(addrs(cluster), timeout_ms=15_000) as client:
        stopped = cluster.followers()
        client._at = cluster.nodes.index(cluster.leader())
        for node in stopped:
            os.kill(node.pid, signal.SIGSTOP)
        try:
            plain = asyncio.create_task(client.kv_increment(b"once/plain"))
            keyed = asyncio.create_task(client.kv_increment(b"once/keyed", once="keyed-1"))
            with pytest.raises(ClientOutcomeUnknown):
                await plain
        finally:
            for node in stopped:
                os.kill(node.pid, signal.SIGCONT)
        assert (await keyed).value == 1
        assert (await client.kv_get(b"once/keyed")).value == b"1"
        with pytest.raises(ClientError) as reused:
            await client.kv_put(b"once/keyed", b"x", once="keyed-1")
        assert reused.value.code == "request_reused"
