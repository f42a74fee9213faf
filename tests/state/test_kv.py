"""The key-value table: etcd's revisions, scans that page, deletes that count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aspen.state.apply import ApplyContext
from aspen.state.kv import LmdbKv, apply_kv_delete, apply_kv_set
from aspen.state.kv_commands import KvDelete, KvSet
from aspen.state.store import Store

MAP_BYTES = 64 * 1024**2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    yield store
    store.close()


def put(store: Store, **pairs: str) -> None:
    with store.write() as txn:
        apply_kv_set(
            ApplyContext(store, txn, 1, 0), KvSet(tuple((k.encode(), v.encode()) for k, v in pairs.items()))
        )


def test_revisions_move_once_a_command(store: Store) -> None:
    put(store, a="1", b="2")
    put(store, a="3")
    kv = LmdbKv(store)
    first, second = kv.get(b"a"), kv.get(b"b")
    assert first is not None
    assert second is not None
    assert (first.value, first.create_revision, first.mod_revision, first.version) == (b"3", 1, 2, 2)
    assert (second.value, second.create_revision, second.mod_revision, second.version) == (b"2", 1, 1, 1)
    assert kv.revision() == 2


def test_a_key_set_twice_in_one_command_takes_the_last_value_and_one_version(store: Store) -> None:
    with store.write() as txn:
        result = apply_kv_set(ApplyContext(store, txn, 1, 0), KvSet(((b"k", b"first"), (b"k", b"last"))))
    entry = LmdbKv(store).get(b"k")
    assert result.changed == 1
    assert entry is not None
    assert (entry.value, entry.version) == (b"last", 1)


def test_a_deleted_key_starts_over(store: Store) -> None:
    put(store, a="1")
    with store.write() as txn:
        assert apply_kv_delete(ApplyContext(store, txn, 1, 0), KvDelete((b"a", b"missing"))).changed == 1
    assert LmdbKv(store).get(b"a") is None
    put(store, a="2")
    entry = LmdbKv(store).get(b"a")
    assert entry is not None
    assert (entry.create_revision, entry.version) == (3, 1)


def test_deleting_nothing_leaves_the_revision(store: Store) -> None:
    put(store, a="1")
    with store.write() as txn:
        result = apply_kv_delete(ApplyContext(store, txn, 1, 0), KvDelete((b"missing",)))
    assert (result.changed, result.revision) == (0, 1)


def test_a_page_ends_at_its_byte_bound_but_is_never_empty(store: Store) -> None:
    put(store, a="x" * 50, b="y" * 50)
    page = LmdbKv(store).scan(b"", None, limit=10, max_bytes=10)
    assert [entry.key for entry in page.entries] == [b"a"]
    assert page.more


keys = st.binary(min_size=1, max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    contents=st.dictionaries(keys, st.binary(max_size=8), max_size=20),
    prefix=st.binary(max_size=2),
    limit=st.integers(1, 5),
)
def test_pages_joined_are_the_sorted_prefix(
    store: Store, contents: dict[bytes, bytes], prefix: bytes, limit: int
) -> None:
    with store.write() as txn:
        txn.drop(store.tables["kv"], delete=False)
        if contents:
            apply_kv_set(ApplyContext(store, txn, 1, 0), KvSet(tuple(contents.items())))
    kv, after, seen = LmdbKv(store), None, []
    while True:
        page = kv.scan(prefix, after, limit, max_bytes=1_000)
        assert len(page.entries) <= limit
        seen += [(entry.key, entry.value) for entry in page.entries]
        if not page.more:
            break
        after = page.entries[-1].key
    assert seen == sorted(item for item in contents.items() if item[0].startswith(prefix))
