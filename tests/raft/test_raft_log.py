"""The log and its unstable end (§5.3, §5.4, §7), against the plainest model of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import entries

from aspen.errors import InvariantViolation
from aspen.raft.log import ENTRY_OVERHEAD_BYTES, LogCompacted, LogUnavailable, RaftLog, limit_bytes
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import ConfState, Entry, Snapshot, SnapshotMetadata
from aspen.raft.progress import NO_LIMIT
from aspen.raft.unstable import Unstable

terms = st.lists(st.integers(0, 2), max_size=12).map(
    lambda steps: [1 + sum(steps[: i + 1]) for i in range(len(steps))]
)


def make_log(*stable: int, unstable: tuple[int, ...] = (), compacted: int = 0) -> RaftLog:
    """A log with entries of these terms on disk and in memory."""
    store = MemoryStorage()
    store.append(entries(*stable))
    if compacted:
        store.compact(compacted)
    log = RaftLog(store)
    log.append(entries(*unstable, start=len(stable) + 1))
    return log


def terms_of(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


def snapshot(index: int, term: int) -> Snapshot:
    return Snapshot(b"", SnapshotMetadata(ConfState((1,)), index, term))


# --- reading ----------------------------------------------------------------------------------


def test_terms_are_known_from_just_before_the_first_entry_to_the_last() -> None:
    log = make_log(1, 2, 2, unstable=(3, 3), compacted=2)
    assert [log.term(index) for index in (2, 3, 4, 5)] == [2, 2, 3, 3]
    with pytest.raises(LogCompacted):
        log.term(1)
    with pytest.raises(LogUnavailable):
        log.term(6)


@pytest.mark.parametrize(
    ("term", "index", "expected"),
    [(3, 1, True), (2, 3, True), (2, 4, True), (2, 2, False), (1, 9, False)],
    ids=["later term", "same log", "longer", "shorter", "earlier term"],
)
def test_which_log_is_up_to_date(term: int, index: int, expected: bool) -> None:
    """§5.4.1: the term of the last entry counts first, then the length."""
    assert make_log(1, unstable=(2, 2)).is_up_to_date(term, index) is expected


@given(terms, st.integers(0, 12), st.integers(0, 12), st.integers(0, 200), st.data())
def test_a_slice_is_the_entries_in_order_within_its_bytes(
    log_terms: list[int], low: int, high: int, limit: int, data: st.DataObject
) -> None:
    split = data.draw(st.integers(0, len(log_terms)))
    log = make_log(*log_terms[:split], unstable=tuple(log_terms[split:]))
    low, high = max(1, min(low, len(log_terms))), min(high, len(log_terms)) + 1
    found = log.slice(low, high, limit)
    wanted = entries(*log_terms)[low - 1 : high - 1]
    assert found == wanted[: len(found)]
    assert len(found) <= max(1, limit // ENTRY_OVERHEAD_BYTES)
    assert bool(found) == bool(wanted)
    assert len(found) == len(wanted) or (len(found) + 1) * ENTRY_OVERHEAD_BYTES > limit


@given(terms, st.integers(0, 14), st.integers(0, 26), st.integers(0, 12))
def test_the_conflict_hint_skips_exactly_what_cannot_match(
    log_terms: list[int], index: int, term: int, compacted: int
) -> None:
    """§5.3, last paragraph: against the walk, entry by entry, that the bisection stands for."""
    log = make_log(*log_terms, compacted=min(compacted, len(log_terms)))

    def walk() -> tuple[int, int]:
        for at in range(index, 0, -1):
            try:
                found = log.term(at)
            except (LogCompacted, LogUnavailable):
                return at, 0
            if found <= term:
                return at, found
        return 0, 0

    assert log.find_conflict_by_term(index, term) == walk()


# --- appending --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prev", "new", "expected_last", "expected"),
    [
        ((3, 3), (), 3, [1, 2, 3]),
        ((3, 3), (4, 4), 5, [1, 2, 3, 4, 4]),
        ((1, 1), (2,), 2, [1, 2, 3]),
        ((1, 1), (2, 3), 3, [1, 2, 3]),
        ((1, 1), (4,), 2, [1, 4]),
        ((2, 2), (3, 4), 4, [1, 2, 3, 4]),
        ((3, 4), (4,), None, [1, 2, 3]),
        ((4, 3), (4,), None, [1, 2, 3]),
    ],
    ids=[
        "nothing new", "at the end", "a repeated part keeps the rest", "repeated", "conflict truncates",
        "overlap", "another term before", "a gap before",
    ],
)  # fmt: skip
def test_a_follower_takes_what_follows_and_truncates_only_on_conflict(
    prev: tuple[int, int], new: tuple[int, ...], expected_last: int | None, expected: list[int]
) -> None:
    log = make_log(1, 2, 3)
    index, term = prev
    assert log.maybe_append(index, term, entries(*new, start=index + 1), 0) == expected_last
    assert terms_of(log) == expected


def test_an_append_commits_no_further_than_it_checked() -> None:
    """§5.3: the rest of a follower's log may still conflict with the leader's."""
    log = make_log(1, 1, 1)
    log.maybe_append(1, 1, entries(1, start=2), 3)
    assert log.committed == 2


def test_a_committed_entry_is_never_overwritten() -> None:
    log = make_log(1, 1, 1)
    log.commit_to(2)
    with pytest.raises(InvariantViolation):
        log.maybe_append(1, 1, entries(2, start=2), 0)
    with pytest.raises(InvariantViolation):
        log.append(entries(2, start=2))
    with pytest.raises(InvariantViolation):
        log.commit_to(4)


def test_only_an_entry_of_the_given_term_is_committed() -> None:
    """§5.4.2: a leader counts replicas only for entries of its own term."""
    log = make_log(1, 2, 2)
    assert not log.maybe_commit(1, 2)
    assert log.maybe_commit(2, 2)
    assert not log.maybe_commit(2, 2)
    assert not log.maybe_commit(9, 2)
    assert log.committed == 2


@given(terms, st.lists(st.tuples(st.integers(0, 12), terms), max_size=6))
def test_a_log_is_what_a_list_would_be(first: list[int], appends: list[tuple[int, list[int]]]) -> None:
    """Appends and truncations at any place, with the disk confirming at any time."""
    log, model = make_log(), list(first)
    log.append(entries(*first))
    for at, more in appends:
        at = min(at, len(model))
        if more:
            log.append(entries(*more, start=at + 1))
            model = model[:at] + more
        if model:
            log.unstable.accept_in_progress()
            middle = (len(model) + 1) // 2
            store = log._storage
            assert isinstance(store, MemoryStorage)
            store.append(log.unstable.entries)
            log.stable_to(middle, log.term(middle))
        assert terms_of(log) == model


# --- the unstable end -------------------------------------------------------------------------


def test_what_is_in_progress_is_not_handed_out_again() -> None:
    unstable = Unstable(1)
    unstable.truncate_and_append(entries(1, 1))
    assert unstable.next_entries() == entries(1, 1)
    unstable.accept_in_progress()
    assert not unstable.has_next_entries()
    unstable.truncate_and_append(entries(1, start=3))
    assert unstable.next_entries() == entries(1, start=3)


def test_a_truncation_hands_out_what_replaces_entries_in_progress() -> None:
    unstable = Unstable(1)
    unstable.truncate_and_append(entries(1, 1, 1))
    unstable.accept_in_progress()
    unstable.truncate_and_append(entries(2, 2, start=2))
    assert unstable.next_entries() == entries(2, 2, start=2)
    assert [entry.term for entry in unstable.entries] == [1, 2, 2]


def test_a_late_confirmation_of_what_was_overwritten_is_ignored() -> None:
    """openraft #1964, etcd #22442: only the very entry that was written counts as written."""
    unstable = Unstable(1)
    unstable.truncate_and_append(entries(1, 1))
    unstable.accept_in_progress()
    unstable.truncate_and_append(entries(2, start=2))
    unstable.stable_to(2, 1)
    assert (unstable.offset, len(unstable.entries)) == (1, 2)
    unstable.stable_to(1, 1)
    assert (unstable.offset, len(unstable.entries)) == (2, 1)
    unstable.stable_to(1, 1)
    unstable.stable_to(9, 9)
    assert (unstable.offset, len(unstable.entries)) == (2, 1)


def test_a_snapshot_replaces_all_unstable_entries() -> None:
    """§7, and hashicorp/raft #697: no conflicting entry outlives it."""
    unstable = Unstable(1)
    unstable.truncate_and_append(entries(1, 1, 1))
    unstable.restore(snapshot(7, 2))
    assert (unstable.offset, unstable.entries, unstable.term(7)) == (8, [], 2)
    assert unstable.next_snapshot() is not None
    unstable.accept_in_progress()
    assert unstable.next_snapshot() is None
    unstable.stable_snapshot_to(6)
    assert unstable.snapshot is not None
    unstable.stable_snapshot_to(7)
    assert unstable.snapshot is None


def test_what_was_handed_out_never_changes() -> None:
    unstable = Unstable(1)
    unstable.truncate_and_append(entries(1, 1))
    handed_out = unstable.next_entries()
    for change in (entries(1, start=3), entries(2, start=2), entries(3)):
        unstable.truncate_and_append(change)
        unstable.stable_to(1, 1)
        assert handed_out == entries(1, 1)


# --- applying ---------------------------------------------------------------------------------


def test_only_durable_entries_are_applied_when_storage_is_asynchronous() -> None:
    """etcd #14370: a single node, too, applies nothing that a crash could take back."""
    log = make_log(unstable=(1, 1))
    log.commit_to(2)
    assert log.next_committed(allow_unstable=True) == entries(1, 1)
    assert log.next_committed(allow_unstable=False) == []
    store = log._storage
    assert isinstance(store, MemoryStorage)
    store.append(entries(1, 1))
    log.stable_to(1, 1)
    assert log.next_committed(allow_unstable=False) == entries(1)


def test_application_pauses_at_its_limit_and_resumes() -> None:
    size = 100 + ENTRY_OVERHEAD_BYTES
    log = RaftLog(MemoryStorage(), max_applying_bytes=2 * size)
    log.append([Entry(1, index, data=b"x" * 100) for index in range(1, 6)])
    log.commit_to(5)
    first = log.next_committed(allow_unstable=True)
    assert [entry.index for entry in first] == [1, 2]
    log.accept_applying(2, 2 * size, allow_unstable=True)
    assert log.next_committed(allow_unstable=True) == []
    log.applied_to(1, size)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [3]


def test_nothing_is_applied_while_a_snapshot_waits() -> None:
    log = make_log(1, 1)
    log.restore(snapshot(5, 2))
    log.append(entries(2, start=6))
    log.commit_to(6)
    assert not log.has_next_committed(allow_unstable=True)
    log.stable_snapshot_to(5)
    log.applied_to(5, 0)
    assert log.next_committed(allow_unstable=True) == entries(2, start=6)


@given(st.lists(st.integers(0, 50), max_size=10), st.integers(0, 300))
def test_a_size_limit_lets_one_entry_through_at_least(sizes: list[int], limit: int) -> None:
    all_entries = [Entry(1, index, data=b"x" * size) for index, size in enumerate(sizes, 1)]
    kept = limit_bytes(all_entries, limit)
    assert kept == all_entries[: len(kept)]
    total = sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in kept)
    assert len(kept) <= 1 or total <= limit
    assert limit_bytes(all_entries, NO_LIMIT) == all_entries
