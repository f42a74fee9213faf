"""The key-value table: revisions, transactions, ranges; reads of earlier revisions; a history that ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aspen.errors import KeyValueStoreError
from aspen.state import kv_revisions
from aspen.state.apply import ApplyContext
from aspen.state.kv import KV_HANDLERS
from aspen.state.kv_commands import (
    Compare,
    Comparison,
    KvDelete,
    KvDeleteRange,
    KvEntry,
    KvIncrement,
    KvIncrementResult,
    KvRefused,
    KvResult,
    KvSet,
    KvTxn,
    KvTxnResult,
    Target,
    TxnDelete,
    TxnGet,
    TxnPut,
)
from aspen.state.kv_reader import KvRange, LmdbKv, end_of_prefix, under
from aspen.state.kv_revisions import Change
from aspen.state.memory_store import MemoryStore
from aspen.state.store import KV_TABLES, Store

MAP_BYTES = 64 * 1024**2
EVERY = KvRange()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    yield store
    store.close()


def do(store: Store | MemoryStore, command: Any, *, index: int = 1, time_ms: int = 0) -> Any:
    with store.write() as txn:
        return KV_HANDLERS[type(command)](ApplyContext(store, txn, index, time_ms), command)


def put(store: Store | MemoryStore, **pairs: str) -> KvResult:
    result = do(store, KvSet(tuple((k.encode(), v.encode()) for k, v in pairs.items())))
    assert isinstance(result, KvResult)
    return result


def all_of(
    store: Store | MemoryStore, revision: int | None = None, range_: KvRange = EVERY
) -> dict[bytes, bytes]:
    page = LmdbKv(store).scan(range_, 10_000, 1_000_000, revision=revision)
    assert not page.more
    return {entry.key: entry.value for entry in page.entries}


def test_revisions_move_once_a_command(store: Store) -> None:
    put(store, a="1", b="2")
    put(store, a="3")
    kv = LmdbKv(store)
    assert kv.get(b"a") == KvEntry(b"a", b"3", create_revision=1, mod_revision=2, version=2)
    assert kv.get(b"b") == KvEntry(b"b", b"2", create_revision=1, mod_revision=1, version=1)
    assert kv.revision() == 2


def test_a_key_set_twice_in_one_command_takes_the_last_value_and_one_version(store: Store) -> None:
    result = do(store, KvSet(((b"k", b"first"), (b"k", b"last"))))
    assert result.changed == 1
    assert LmdbKv(store).get(b"k") == KvEntry(b"k", b"last", 1, 1, 1)


def test_a_deleted_key_starts_over(store: Store) -> None:
    put(store, a="1")
    assert do(store, KvDelete((b"a", b"missing"))).changed == 1
    assert LmdbKv(store).get(b"a") is None
    put(store, a="2")
    assert LmdbKv(store).get(b"a") == KvEntry(b"a", b"2", 3, 3, 1)


def test_deleting_nothing_leaves_the_revision(store: Store) -> None:
    put(store, a="1")
    result = do(store, KvDelete((b"missing",)))
    assert (result.changed, result.revision) == (0, 1)
    assert do(store, KvDelete((b"a", b"a"))).changed == 1, "a key named twice goes once"


# --- ranges -------------------------------------------------------------------------------------


def test_a_range_is_deleted_and_nothing_beside_it(store: Store) -> None:
    put(store, a="", ab="", abc="", ac="", b="")
    assert do(store, KvDeleteRange(b"ab", end_of_prefix(b"ab"))) == KvResult(2, 2)
    assert sorted(all_of(store)) == [b"a", b"ac", b"b"]
    assert do(store, KvDeleteRange(b"", None)).changed == 3


def test_one_command_deletes_no_more_than_it_may(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.state.kv.KV_DELETE_RANGE_KEYS", 2)
    put(store, a="", b="", c="", d="")
    assert do(store, KvDeleteRange(b"", None)) == KvResult(2, 2, more=True)
    assert do(store, KvDeleteRange(b"", None)) == KvResult(3, 2)
    assert do(store, KvDeleteRange(b"", None)) == KvResult(3, 0)
    monkeypatch.setattr("aspen.state.kv.KV_DELETE_RANGE_BYTES", 1)
    put(store, a="x", b="x")
    assert do(store, KvDeleteRange(b"", None)) == KvResult(5, 1, more=True), "one key always goes"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", None), (b"", None), (b"a\x00", b"a\x01"), (b"\xff\xff", None)],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert end_of_prefix(prefix) == end


def test_a_page_ends_at_its_byte_bound_but_is_never_empty(store: Store) -> None:
    put(store, a="x" * 50, b="y" * 50)
    page = LmdbKv(store).scan(KvRange(), limit=10, max_bytes=10)
    assert [entry.key for entry in page.entries] == [b"a"]
    assert page.more


keys = st.binary(min_size=1, max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    contents=st.dictionaries(keys, st.binary(max_size=8), max_size=20),
    prefix=st.binary(max_size=2),
    limit=st.integers(1, 5),
    descending=st.booleans(),
)
def test_pages_joined_are_the_sorted_prefix(
    contents: dict[bytes, bytes], prefix: bytes, limit: int, descending: bool
) -> None:
    store = MemoryStore()
    if contents:
        do(store, KvSet(tuple(contents.items())))
    kv, after, seen = LmdbKv(store), None, []
    while True:
        page = kv.scan(under(prefix, after=after, descending=descending), limit, max_bytes=1_000)
        assert len(page.entries) <= limit
        seen += [(entry.key, entry.value) for entry in page.entries]
        if not page.more:
            break
        after = page.entries[-1].key
    assert seen == sorted((i for i in contents.items() if i[0].startswith(prefix)), reverse=descending)


def test_keys_alone_come_without_values_but_with_their_numbers(store: Store) -> None:
    put(store, a="value")
    page = LmdbKv(store).scan(KvRange(), 10, 1_000, keys_only=True)
    assert page.entries == (KvEntry(b"a", b"", 1, 1, 1),)


# --- increments and transactions ----------------------------------------------------------------


def test_increments_count_from_nothing_and_keep_to_64_bits(store: Store) -> None:
    assert do(store, KvIncrement(b"n", 5)) == KvIncrementResult(1, 5)
    assert do(store, KvIncrement(b"n", -7)) == KvIncrementResult(2, -2)
    put(store, n=str(2**63 - 1), text="12 apples", empty="")
    for key, delta in ((b"n", 1), (b"text", 1), (b"empty", 1)):
        refused = do(store, KvIncrement(key, delta))
        assert isinstance(refused, KvRefused)
        assert (refused.code, refused.revision) == ("not_a_number", 3)
    assert LmdbKv(store).revision() == 3


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(b"k", Target.VALUE, Comparison.EQUAL, value=b"m"), True),
        (Compare(b"k", Target.VALUE, Comparison.LESS, value=b"n"), True),
        (Compare(b"k", Target.VALUE, Comparison.GREATER, value=b"m"), False),
        (Compare(b"k", Target.VALUE, Comparison.NOT_EQUAL, value=b"m"), False),
        (Compare(b"k", Target.VERSION, Comparison.EQUAL, 2), True),
        (Compare(b"k", Target.CREATE_REVISION, Comparison.LESS, 2), True),
        (Compare(b"k", Target.MOD_REVISION, Comparison.GREATER, 1), True),
        (Compare(b"k", Target.LEASE, Comparison.EQUAL, 0), True),
        (Compare(b"none", Target.VERSION, Comparison.EQUAL, 0), True),
        (Compare(b"none", Target.MOD_REVISION, Comparison.GREATER, 0), False),
        (Compare(b"none", Target.VALUE, Comparison.NOT_EQUAL, value=b"x"), False),
        (Compare(b"none", Target.VALUE, Comparison.EQUAL, value=b""), False),
    ],
)
def test_comparisons(store: Store, compare: Compare, holds: bool) -> None:
    put(store, k="a")
    put(store, k="m")
    result = do(store, KvTxn((compare,), (TxnPut(b"yes", b""),), (TxnPut(b"no", b""),)))
    assert isinstance(result, KvTxnResult)
    assert result.succeeded is holds
    assert (LmdbKv(store).get(b"yes") is not None) is holds


def test_a_transaction_is_one_revision_and_its_gets_see_what_is_before_them(store: Store) -> None:
    put(store, a="1", b="2")
    result = do(
        store,
        KvTxn(
            (),
            (TxnGet(b"a"), TxnPut(b"a", b"9"), TxnGet(b"a"), TxnDelete(b"b"), TxnGet(b"b"), TxnDelete(b"c")),
        ),
    )
    outcomes = result.outcomes
    assert result.revision == 2
    assert outcomes[0].entry == KvEntry(b"a", b"1", 1, 1, 1)
    assert outcomes[2].entry == KvEntry(b"a", b"9", 1, 2, 2)
    assert outcomes[4].entry is None
    assert [outcome.changed for outcome in outcomes] == [0, 1, 0, 1, 0, 0]
    assert do(store, KvTxn((), (TxnGet(b"a"),))).revision == 2, "only looking moves nothing"


def test_a_transaction_that_would_get_too_much_does_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.state.kv.KV_SCAN_BYTES", 100)
    put(store, a="x" * 80)
    refused = do(store, KvTxn((), (TxnDelete(b"b"), TxnPut(b"c", b"x" * 80), TxnGet(b"a"), TxnGet(b"c"))))
    assert refused.code == "result_too_large"
    assert all_of(store) == {b"a": b"x" * 80}


# --- earlier revisions --------------------------------------------------------------------------

names = st.sampled_from([b"a", b"b", b"ba", b"c"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.lists(st.tuples(names, st.binary(max_size=3)), min_size=1, max_size=3)),
        st.tuples(st.just("delete"), st.lists(names, min_size=1, max_size=2)),
        st.tuples(st.just("range"), names),
    ),
    max_size=30,
)


def command_of(step: Any) -> Any:
    match step:
        case "set", pairs:
            return KvSet(tuple(pairs))
        case "delete", deleted:
            return KvDelete(tuple(deleted))
        case _, name:
            return KvDeleteRange(name, end_of_prefix(name))


@settings(max_examples=80, deadline=None)
@given(steps=steps, kept=st.integers(1, 12), descending=st.booleans())
def test_every_kept_revision_reads_as_it_was_and_its_events_lead_there(
    steps: list[Any], kept: int, descending: bool
) -> None:
    """A model of plain dictionaries against the tables, with a history that is cut off all the time."""
    store, model = MemoryStore(), {0: {}}
    kv = LmdbKv(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_revisions, "KV_HISTORY_EVENTS", kept)
        for step in steps:
            revision = do(store, command_of(step)).revision
            model[revision] = all_of(store)
    state = kv.state()
    changed_at_most = 4
    assert state.events <= kept + changed_at_most
    assert state.events == len(list(store.tables["kv_events"].keys))
    for revision, contents in model.items():
        range_ = KvRange(descending=descending)
        if revision < state.compacted:
            with pytest.raises(KeyValueStoreError.Compacted):
                kv.scan(range_, 10, 1_000, revision=revision)
            continue
        page = kv.scan(range_, 10, 1_000, revision=revision)
        assert [(e.key, e.value) for e in page.entries] == sorted(contents.items(), reverse=descending)
        for name in (b"a", b"b", b"ba", b"c"):
            entry = kv.get(name, revision)
            assert (None if entry is None else entry.value) == contents.get(name)
        if revision == state.revision:
            continue
        (next_revision, changes), *_ = kv.events(revision, lambda _: True, 1_000, 1_000).batches
        assert next_revision == revision + 1
        for change, entry in changes:
            assert entry.mod_revision == next_revision
            contents = {**contents, entry.key: entry.value}
            if change is Change.DELETE:
                del contents[entry.key]
        assert contents == model[next_revision]
    with pytest.raises(KeyValueStoreError.FutureRevision):
        kv.get(b"a", state.revision + 1)


@settings(max_examples=40, deadline=None)
@given(steps=steps, kept=st.integers(1, 12))
def test_a_history_cut_off_leaves_nothing_behind(steps: list[Any], kept: int) -> None:
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_revisions, "KV_HISTORY_EVENTS", kept)
        for step in [*steps, ("set", [(b"z", b"1")])]:
            do(store, command_of(step))
        patch.setattr(kv_revisions, "KV_HISTORY_EVENTS", 1)
        do(store, KvSet(((b"z", b"2"),)))
    state = LmdbKv(store).state()
    assert (state.events, state.compacted) == (1, state.revision - 1)
    assert len(store.tables["kv_history"].keys) == 1, "what the last change replaced"
    assert len(store.tables["kv_tombstones"].keys) == 0
    with pytest.raises(KeyValueStoreError.Compacted):
        LmdbKv(store).events(state.compacted - 1, lambda _: True, 10, 10)


def test_the_history_is_bounded_in_bytes_and_says_so_exactly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_revisions, "KV_HISTORY_BYTES", 1_000)
    for n in range(20):
        put(store, a="x" * 100 + str(n))
    state = LmdbKv(store).state()
    assert state.event_bytes <= 1_000
    with store.read() as txn:
        stored = sum(len(value) for _, value in txn.cursor(db=store.tables["kv_history"]))
    assert state.event_bytes == stored + state.events * kv_revisions.event_cost(b"a", 0)
    put(store, a="y" * 2_000)
    put(store, a="z")
    state = LmdbKv(store).state()
    assert (state.events, state.compacted) == (1, state.revision - 1), "what is newest is told however large"


def test_events_of_one_revision_are_never_parted_and_pages_of_them_fit(store: Store) -> None:
    for n in range(5):
        do(store, KvSet(tuple((b"%d" % key, b"%d" % n) for key in range(10))))
    kv, after, seen = LmdbKv(store), 0, []
    while True:
        events = kv.events(after, lambda key: key != b"3", limit=15, max_bytes=1_000_000)
        assert all(len(changes) == 9 for _, changes in events.batches)
        seen += [revision for revision, _ in events.batches]
        if events.through == after:
            break
        after = events.through
    assert seen == [1, 2, 3, 4, 5]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_memory_and_disk_hold_the_same(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    disk = Store.open(tmp_path_factory.mktemp("kv"), map_bytes=MAP_BYTES)
    memory = MemoryStore()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kv_revisions, "KV_HISTORY_EVENTS", 5)
            for step in steps:
                assert do(disk, command_of(step)) == do(memory, command_of(step))
        with disk.read() as txn:
            for name in KV_TABLES:
                assert dict(txn.cursor(db=disk.tables[name])) == memory.tables[name].pairs
        for descending in (False, True):
            range_ = KvRange(b"a", b"c", descending)
            assert all_of(disk, range_=range_) == all_of(memory, range_=range_)
    finally:
        disk.close()
