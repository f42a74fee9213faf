"""Watching: every change once and in order; resumed, compacted, slow; by clients of a node and of several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from http_fakes import Client as RawClient
from http_fakes import FakeCluster, Serve

from aspen.client import Changes, Client, NodeClient
from aspen.errors import ClientCompacted, KeyValueStoreError
from aspen.http.kv_watch import WatchHub
from aspen.state import kv_revisions
from aspen.state.kv_commands import KvDelete, KvSet
from aspen.state.kv_reader import KvRange, under


@pytest.fixture
async def node(serve: Serve) -> AsyncIterator[NodeClient]:
    server = await serve()
    host, port = server.address
    async with NodeClient(f"http://{host}:{port}") as client:
        yield client


async def take(changes: AsyncIterator[Changes], count: int) -> list[Changes]:
    """The next batches of changes, without signs of life."""
    found: list[Changes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            told = await anext(changes)
            if told.changes:
                found.append(told)
    return found


async def test_changes_come_as_they_happen(node: NodeClient, cluster: FakeCluster) -> None:
    cluster.set(a=b"before")
    changes = node.kv_watch(b"a")
    first = await anext(changes)
    assert (first.revision, first.changes) == (1, ()), "where the watch begins"
    cluster.set(a=b"1", ab=b"2", b=b"not this one")
    cluster.set(b=b"nor this")
    cluster.apply(KvDelete((b"a", b"b")))
    put, deleted = await take(changes, 2)
    assert put.revision == 2
    assert [(c.type, c.key, c.value, c.version) for c in put.changes] == [
        ("put", b"a", b"1", 2),
        ("put", b"ab", b"2", 1),
    ]
    assert (deleted.revision, [(c.type, c.key, c.value) for c in deleted.changes]) == (
        4,
        [("delete", b"a", b"")],
    )


async def test_a_watch_goes_on_from_a_revision(node: NodeClient, cluster: FakeCluster) -> None:
    for n in range(50):
        cluster.set(k=b"%d" % n)
    changes = node.kv_watch(key=b"k", start=21)
    found = await take(changes, 30)
    assert [told.revision for told in found] == list(range(21, 51))
    cluster.set(k=b"50")
    assert (await take(changes, 1))[0].changes[0].value == b"50"
    later = node.kv_watch(start=60)
    assert (await anext(later)).revision == 59, "a revision that this node has not reached yet"
    for n in range(10):
        cluster.set(k=b"%d" % n)
    assert (await take(later, 1))[0].revision == 60


async def test_a_watch_that_starts_too_early_is_refused(
    node: NodeClient, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_revisions, "KV_HISTORY_EVENTS", 3)
    for n in range(10):
        cluster.set(k=b"%d" % n)
    with pytest.raises(ClientCompacted) as refused:
        await anext(node.kv_watch(start=5))
    assert refused.value.revision == 7
    assert [told.revision for told in await take(node.kv_watch(start=8), 3)] == [8, 9, 10]


async def test_the_wire_is_server_sent_events_with_ids(
    client: RawClient, cluster: FakeCluster, serve: Serve
) -> None:
    cluster.set(k=b"1")
    cluster.set(k=b"2")
    server = await serve()
    reader, writer = await asyncio.open_connection(*server.address)
    host = f"{server.address[0]}:{server.address[1]}"
    writer.write(f"GET /v1/watch?prefix=k HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: 1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    event = await reader.readuntil(b'"revision":2')
    assert b"id: 2\nevent: changes\ndata: {" in event
    writer.close()


async def test_many_watch_the_same_and_each_sees_its_part(node: NodeClient, cluster: FakeCluster) -> None:
    watches = [node.kv_watch(b"%d/" % (n % 4)) for n in range(40)]
    await asyncio.gather(*(anext(watch) for watch in watches))
    for n in range(100):
        cluster.apply(KvSet(((b"%d/x" % (n % 4), b"%d" % n), (b"other", b""))))
        if n % 10 == 0:
            await asyncio.sleep(0)
    for part, found in enumerate(await asyncio.gather(*(take(watch, 25) for watch in watches))):
        assert [told.changes[0].value for told in found] == [b"%d" % n for n in range(part % 4, 100, 4)]
        assert all(len(told.changes) == 1 for told in found)


async def test_a_client_of_two_nodes_goes_on_when_one_ends(serve: Serve, cluster: FakeCluster) -> None:
    """Both servers show one store, as two replicas would."""
    one, two = await serve(), await serve()
    addrs = [f"http://{server.address[0]}:{server.address[1]}" for server in (one, two)]
    async with Client(addrs) as client:
        changes = client.kv_watch()
        await anext(changes)
        for n in range(5):
            cluster.set(k=b"%d" % n)
        before = await take(changes, 5)
        await one.close()
        for n in range(5, 10):
            cluster.set(k=b"%d" % n)
        after = await take(changes, 5)
        assert [told.changes[0].value for told in before + after] == [b"%d" % n for n in range(10)]


# --- the hub ------------------------------------------------------------------------------------


async def test_a_watch_far_behind_reads_the_history_and_misses_nothing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.http.kv_watch.KV_WATCH_RECENT", 4)
    hub = cluster.kv.hub
    slow, quick = hub.watch(under(b"k")), hub.watch(KvRange())
    seen: list[int] = []
    for n in range(30):
        cluster.set(k=b"%d" % n)
        seen += [batch.revision for batch in await quick.next()]
    assert seen == list(range(1, 31))
    late: list[int] = []
    while len(late) < 30:
        late += [batch.revision for batch in await slow.next()]
    assert late == seen
    quick.close()
    slow.close()


async def test_a_watch_left_behind_by_the_history_is_told(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.http.kv_watch.KV_WATCH_RECENT", 2)
    monkeypatch.setattr(kv_revisions, "KV_HISTORY_EVENTS", 5)
    hub = cluster.kv.hub
    slow, quick = hub.watch(KvRange()), hub.watch(KvRange())
    for n in range(20):
        cluster.set(k=b"%d" % n)
        await quick.next()
    with pytest.raises(KeyValueStoreError.Compacted):
        await slow.next()


async def test_a_watch_of_other_keys_is_not_woken_but_moves_on(cluster: FakeCluster) -> None:
    hub = cluster.kv.hub
    watch, all_keys = hub.watch(under(b"mine")), hub.watch(KvRange())
    waiting = asyncio.create_task(watch.next(5))
    for n in range(5):
        cluster.set(other=b"%d" % n)
        await all_keys.next()
    assert not waiting.done()
    assert watch.position == 5
    cluster.set(mine=b"")
    (batch,) = await waiting
    assert batch.revision == 6
    assert await watch.next(0.01) == []


async def test_watches_are_bounded(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.http.kv_watch.KV_WATCHES", 1)
    hub: WatchHub = cluster.kv.hub
    watch = hub.watch(KvRange())
    with pytest.raises(KeyValueStoreError.TooMany):
        hub.watch(KvRange())
    watch.close()
    hub.watch(KvRange()).close()
