"""What `KeyValueStore` promises beyond single keys, held to by every backend alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from backends import Backend

from aspen.api import InitRequest, KvClient, RaftControlClient, WriteCommand
from aspen.errors import KeyValueStoreError
from aspen.limits import LEASE_TTL_MIN_MS
from aspen.state.kv_commands import Compare, Comparison, Target, TxnDelete, TxnGet, TxnPut
from aspen.state.kv_revisions import Change


async def stores(backend: Backend, count: int) -> list[KvClient]:
    nodes: list[Any] = await backend.start(count)
    await RaftControlClient(nodes[0]).init(InitRequest([backend.named(node) for node in nodes]))
    return [KvClient(node) for node in nodes]


async def test_compare_and_swap_and_delete(backend: Backend) -> None:
    (kv,) = await stores(backend, 1)
    swapped = await kv.write(WriteCommand.CompareAndSwap("k", None, "1"))
    assert (swapped.revision, swapped.changed) == (1, 1)
    for wrong in (None, "2"):
        with pytest.raises(KeyValueStoreError.CompareFailed) as failed:
            await kv.write(WriteCommand.CompareAndSwap("k", wrong, "3"))
        assert failed.value.revision == 1
    await kv.write(WriteCommand.CompareAndSwap("k", "1", "2"))
    with pytest.raises(KeyValueStoreError.CompareFailed):
        await kv.write(WriteCommand.CompareAndDelete("k", "1"))
    await kv.write(WriteCommand.CompareAndDelete("k", "2"))
    with pytest.raises(KeyValueStoreError.NotFound):
        await kv.read("k")


async def test_batches_prefixes_and_numbers(backend: Backend) -> None:
    (kv,) = await stores(backend, 1)
    await kv.write(WriteCommand.Set("old", ""))
    batch = await kv.write(WriteCommand.Batch({"p/1": "", "p/2": "", "q": ""}, ("old",)))
    assert (batch.revision, batch.changed) == (2, 4)
    with pytest.raises(KeyValueStoreError.InvalidRequest):
        await kv.write(WriteCommand.Batch({"a": ""}, ("a",)))
    assert (await kv.write(WriteCommand.DeletePrefix("p/"))).changed == 2
    assert [entry.key for entry in (await kv.scan()).entries] == [b"q"]
    assert [await kv.increment("n"), await kv.increment("n", 9), await kv.increment("n", -20)] == [1, 10, -10]
    with pytest.raises(KeyValueStoreError.NotANumber):
        await kv.increment("q")


async def test_transactions(backend: Backend) -> None:
    (kv,) = await stores(backend, 1)
    absent = Compare(b"a", Target.VERSION, Comparison.EQUAL, 0)
    done = await kv.txn([absent], [TxnPut(b"a", b"1"), TxnGet(b"a")], [TxnDelete(b"a")])
    assert done.succeeded
    entry = done.outcomes[1].entry
    assert entry is not None
    assert entry.value == b"1"
    done = await kv.txn([absent], [TxnPut(b"a", b"2")], [TxnDelete(b"a")])
    assert (done.succeeded, done.revision, done.changed) == (False, 2, 1)


async def test_earlier_revisions_and_other_orders(backend: Backend) -> None:
    (kv,) = await stores(backend, 1)
    for n in range(4):
        await kv.write(WriteCommand.Set(f"k{n}", "old"))
    page = await kv.scan(limit=2)
    await kv.write(WriteCommand.Batch({"k3": "new", "k9": "new"}, ("k2",)))
    rest = await kv.scan(after=page.entries[-1].key, revision=page.revision)
    assert [(entry.key, entry.value) for entry in rest.entries] == [(b"k2", b"old"), (b"k3", b"old")]
    assert (await kv.read("k2", revision=4)).value == b"old"
    with pytest.raises(KeyValueStoreError.FutureRevision):
        await kv.read("k2", revision=99)
    keys = await kv.scan(descending=True, keys_only=True, limit=2)
    assert [(entry.key, entry.value) for entry in keys.entries] == [(b"k9", b""), (b"k3", b"")]


async def test_once_through_whichever_member(backend: Backend) -> None:
    one, two, three = await stores(backend, 3)
    assert await one.increment("n", idempotency_key="id") == 1
    assert await two.increment("n", idempotency_key="id") == 1
    assert await three.increment("n") == 2
    with pytest.raises(KeyValueStoreError.RequestReused):
        await three.increment("n", 5, idempotency_key="id")


async def test_leases_end_and_are_renewed_through_any_member(backend: Backend) -> None:
    one, two, three = await stores(backend, 3)
    lease = (await one.grant(LEASE_TTL_MIN_MS)).lease
    await two.write(WriteCommand.Set("k", "v", lease=lease))
    assert (await three.read("k")).lease == lease
    await three.keep_alive(lease)
    revoked = await one.revoke(lease)
    assert revoked.changed == 1
    for refused in (one.keep_alive(lease), two.write(WriteCommand.Set("k", "v", lease=lease))):
        with pytest.raises(KeyValueStoreError.LeaseNotFound):
            await refused
    await two.write(WriteCommand.Set("short", "v", ttl_ms=LEASE_TTL_MIN_MS))
    node: Any = two._node
    await backend.until(lambda: node.kv.get(b"short") is None)
    for ttl_ms in (LEASE_TTL_MIN_MS - 1, -1):
        with pytest.raises(KeyValueStoreError.InvalidRequest):
            await one.grant(ttl_ms)


async def test_a_watch_sees_all_that_is_written_through_any_member(backend: Backend) -> None:
    one, two, three = await stores(backend, 3)
    await one.write(WriteCommand.Set("a/0", ""))
    seen: list[tuple[int, Change, bytes]] = []

    async def watch() -> None:
        async for revision, changes in three.watch("a/", after=0):
            seen.extend((revision, change.change, change.entry.key) for change in changes)
            if len(seen) == 5:
                return

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await one.write(WriteCommand.Set("b", ""))
    await two.write(WriteCommand.SetMulti({"a/1": "", "b": "", "a/2": ""}))
    await one.write(WriteCommand.DeletePrefix("a/1"))
    await two.write(WriteCommand.Set("a/0", "last"))
    async with asyncio.timeout(30):
        await watching
    assert seen == [
        (1, Change.PUT, b"a/0"),
        (3, Change.PUT, b"a/1"),
        (3, Change.PUT, b"a/2"),
        (4, Change.DELETE, b"a/1"),
        (5, Change.PUT, b"a/0"),
    ]
