"""The Raft log in LMDB: what was durable is read back, conflicts are cut, corruption is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.errors import StorageError
from aspen.raft import storage
from aspen.raft.log import LogCompacted, LogUnavailable
from aspen.raft.messages import ConfState, Entry, HardState
from aspen.raft.roster import Member, Roster
from aspen.raft.storage import LmdbLog
from aspen.state.store import Store

MAP_BYTES = 64 * 1024**2


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, first + i, data=b"%d/%d" % (term, first + i)) for i, term in enumerate(terms)]


def append(store: Store, log: LmdbLog, batch: Sequence[Entry]) -> None:
    with store.write() as txn:
        log.append(txn, batch)
        log.put_hard_state(txn, HardState(batch[-1].term, 0, 0))
    log.durable(batch)


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    assert (log.first_index(), log.last_index(), log.term(0)) == (1, 0, 0)
    with pytest.raises(LogUnavailable):
        log.term(1)
    store.close()


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    log.claim(3, b"k" * 32)
    append(store, log, entries(1, 1, 1, 2))
    roster = Roster(b"c" * 16, ConfState(voters=(3,)), (Member(3, b"k" * 32, (("h", 1),), b"c" * 16),))
    with store.write() as txn:
        log.put_hard_state(txn, HardState(2, 3, 2))
        log.put_applied(txn, 2, 1)
        log.put_roster(txn, roster)
    store.close()
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    again = LmdbLog(store)
    assert again.initial_state() == (HardState(2, 3, 2), ConfState(voters=(3,)))
    assert (again.applied_index, again.applied_term, again.roster) == (2, 1, roster)
    assert again.entries(1, 4, 1 << 20) == entries(1, 1, 1, 2)
    assert again.term(3) == 2
    again.claim(3, b"k" * 32)
    with pytest.raises(StorageError, match="belongs to node 3"):
        again.claim(3, b"other key".ljust(32))
    store.close()


def test_a_conflicting_suffix_is_replaced(tmp_path: Path) -> None:
    """Raft §5.3: an entry that conflicts is deleted, and all that follow it."""
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    append(store, log, entries(1, 1, 1, 1, 1, 1))
    append(store, log, entries(3, 2))
    assert (log.last_index(), log.term(3)) == (3, 2)
    assert LmdbLog(store).entries(1, 4, 1 << 20) == entries(1, 1, 1) + entries(3, 2)
    store.close()


def test_a_page_of_entries_is_cut_but_never_to_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    append(store, log, entries(1, 1, 1, 1))
    for reader in (log, LmdbLog(store)):  # from memory, and from disk
        assert reader.entries(1, 4, 0) == entries(1, 1)
        assert reader.entries(1, 4, 6) == entries(1, 1, 1)
        with pytest.raises(LogCompacted):
            reader.entries(0, 2, 10)
    store.close()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    append(store, LmdbLog(store), entries(1, 1, 1))
    key = (2).to_bytes(8, "big")
    with store.write() as txn:
        value = bytearray(txn.get(key, db=store.tables["log"]))
        value[-1] ^= 1
        txn.put(key, bytes(value), db=store.tables["log"])
    log = LmdbLog(store)
    assert log.entries(1, 2, 100) == entries(1, 1)
    with pytest.raises(StorageError, match="log entry 2 is corrupt"):
        log.entries(1, 3, 100)
    store.close()


def test_a_store_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    log = LmdbLog(store)
    append(store, log, entries(1, 1, 1))
    with store.write() as txn:
        log.put_hard_state(txn, HardState(1, 0, 9))
    with pytest.raises(StorageError, match="before its commit index 9"):
        LmdbLog(store)
    with store.write() as txn:
        log.put_hard_state(txn, HardState(1, 0, 1))
        log.put_applied(txn, 2, 1)
    with pytest.raises(StorageError, match="index 2 is applied"):
        LmdbLog(store)
    store.close()


batches = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(script=batches)
def test_memory_and_disk_agree(
    script: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is appended over whatever, the in-memory tail reads as the disk does."""
    store = Store.open(tmp_path_factory.mktemp("log"), map_bytes=MAP_BYTES)
    log, term = LmdbLog(store), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "RAFT_LOG_CACHE_ENTRIES", 3)
        for back, count in script:
            term += 1
            append(store, log, entries(max(1, log.last_index() + 1 - back), *[term] * count))
    fresh = LmdbLog(store)
    last = fresh.last_index()
    assert log.last_index() == last
    assert [log.term(i) for i in range(last + 1)] == [fresh.term(i) for i in range(last + 1)]
    for low in range(1, last + 1):
        assert log.entries(low, last + 1, 1 << 20) == fresh.entries(low, last + 1, 1 << 20)
    store.close()
