"""Reading keys and their changes from the local replica, as they are or as they were at a revision.

What may be long is read in slices, each a short transaction of its own: between two of them others
have their turn. Slices fit together because all but the first name the revision that the first was
read at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from aspen.errors import KeyValueStoreError
from aspen.limits import KV_SLICE_BYTES, KV_SLICE_KEYS
from aspen.state.kv_commands import KvEntry
from aspen.state.kv_revisions import (
    HEADER,
    U64,
    KvEvent,
    KvState,
    decode_entry,
    event_at,
    read_state,
    stored_at,
)
from aspen.state.store import TableStore, Txn


class KvRange(NamedTuple):
    """Keys from `start` on and before `end`; without an end, to the last."""

    start: bytes = b""
    end: bytes | None = None
    descending: bool = False
    """Which way to go; the bounds mean the same both ways."""

    def has(self, key: bytes) -> bool:
        return key >= self.start and (self.end is None or key < self.end)


def under(prefix: bytes, *, after: bytes | None = None, descending: bool = False) -> KvRange:
    """The keys that begin with `prefix`; with `after`, those that come after it on the way."""
    end = end_of_prefix(prefix)
    if after is None:
        return KvRange(prefix, end, descending)
    if descending:
        return KvRange(prefix, after if end is None else min(end, after), descending)
    return KvRange(max(prefix, after + b"\0"), end)


def end_of_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with `prefix`; None if there can be none."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None


class KvPage(NamedTuple):
    """One page of a scan, in the order of the way; `more` says that the range goes on after it."""

    entries: tuple[KvEntry, ...]
    more: bool
    revision: int


class KvSlice(NamedTuple):
    entries: list[KvEntry]
    rest: KvRange | None
    """What is left of the range; None if nothing is."""
    revision: int


class KvEvents(NamedTuple):
    """Changes in the order of their revisions; those of one revision come together, in the order of keys."""

    batches: list[tuple[int, list[KvEvent]]]
    through: int
    """All that was asked for is told up to this revision."""


class LmdbKv:
    """Reads keys from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def state(self) -> KvState:
        with self._store.read() as txn:
            return read_state(self._store, txn)

    def revision(self) -> int:
        return self.state().revision

    def get(self, key: bytes, revision: int | None = None) -> KvEntry | None:
        """Raises `KeyValueStoreError.Compacted` or `.FutureRevision`."""
        return self.look(key, revision)[0]

    def look(self, key: bytes, revision: int | None = None) -> tuple[KvEntry | None, int]:
        """The key, and the revision it was looked up at. Raises as `get`."""
        store = self._store
        with store.read() as txn:
            state = read_state(store, txn)
            at = _checked(state, revision)
            stored = txn.get(key, db=store.tables["kv"])
            if at != state.revision:
                stored = stored_at(store, txn, key, at, stored)
            return (None if stored is None else decode_entry(key, stored)), at

    def slice(self, range_: KvRange, revision: int | None, limit: int, *, keys_only: bool = False) -> KvSlice:
        """Some of the first keys of a range: at most `limit`, and what a moment allows; perhaps none.

        Raises `KeyValueStoreError.Compacted` or `.FutureRevision`.
        """
        store = self._store
        entries: list[KvEntry] = []
        seen = size = 0
        with store.read() as txn:
            state = read_state(store, txn)
            at = _checked(state, revision)
            as_now = at == state.revision
            for key, newest in self._pairs(txn, range_, with_deleted=not as_now):
                if seen >= KV_SLICE_KEYS or size >= KV_SLICE_BYTES or len(entries) >= limit:
                    return KvSlice(entries, _rest(range_, key), at)
                stored = newest if as_now else stored_at(store, txn, key, at, newest)
                seen += 1
                size += len(key) + len(newest or b"")
                if stored is not None:
                    entry = decode_entry(key, stored[: HEADER.size] if keys_only else stored)
                    size += len(entry.value) if stored is not newest else 0
                    entries.append(entry)
        return KvSlice(entries, None, at)

    def scan(
        self,
        range_: KvRange,
        limit: int,
        max_bytes: int,
        *,
        revision: int | None = None,
        keys_only: bool = False,
    ) -> KvPage:
        """A page in one go. It ends at `limit` entries, or when it has `max_bytes` of keys and values."""
        entries: list[KvEntry] = []
        size = 0
        rest: KvRange | None = range_
        while rest is not None and len(entries) < limit and size < max_bytes:
            part = self.slice(rest, revision, min(limit - len(entries), KV_SLICE_KEYS), keys_only=keys_only)
            revision = part.revision
            for at, entry in enumerate(part.entries):
                size += len(entry.key) + len(entry.value)
                entries.append(entry)
                if size >= max_bytes:
                    is_last = at + 1 == len(part.entries)
                    return KvPage(tuple(entries), not is_last or part.rest is not None, part.revision)
            rest = part.rest
        return KvPage(tuple(entries), rest is not None, self.revision() if revision is None else revision)

    def _pairs(
        self, txn: Txn, range_: KvRange, *, with_deleted: bool
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys with what is stored under them now; deleted ones, of which something is kept, with None."""
        living: Iterator[tuple[bytes, bytes | None]] = _walk(txn.cursor(db=self._store.tables["kv"]), range_)
        if not with_deleted:
            return living
        tombstones = _walk(txn.cursor(db=self._store.tables["kv_tombstones"]), range_)
        deleted: Iterator[tuple[bytes, bytes | None]] = ((key, None) for key, _ in tombstones)
        return heapq.merge(living, deleted, key=itemgetter(0), reverse=range_.descending)

    def events(self, after: int, wanted: Callable[[bytes], bool], limit: int, max_bytes: int) -> KvEvents:
        """Changes of the keys `wanted` after a revision, oldest first; those of one revision never apart.

        At most `limit` changes are looked at, and `max_bytes` of them told, but for those of the last
        revision. Raises `KeyValueStoreError.Compacted`.
        """
        store = self._store
        batches: list[tuple[int, list[KvEvent]]] = []
        seen = size = 0
        through = after
        with store.read() as txn:
            state = read_state(store, txn)
            if after < state.compacted:
                raise compacted(after + 1, state)
            cursor = txn.cursor(db=store.tables["kv_events"])
            there = cursor.set_range(U64.pack(after + 1))
            while there:
                event_key, event = cursor.item()
                revision = U64.unpack_from(event_key)[0]
                if revision != through and (seen >= limit or size >= max_bytes):
                    return KvEvents(batches, through)
                through = revision
                seen += 1
                if wanted(event_key[U64.size :]):
                    told = event_at(store, txn, event_key, event)
                    size += len(told.entry.key) + len(told.entry.value)
                    if batches and batches[-1][0] == revision:
                        batches[-1][1].append(told)
                    else:
                        batches.append((revision, [told]))
                there = cursor.next()
        return KvEvents(batches, max(after, state.revision))


def compacted(revision: int, state: KvState) -> KeyValueStoreError:
    return KeyValueStoreError.Compacted(
        f"revision {revision} is compacted: changes are known from revision {state.compacted + 1} on",
        revision=state.compacted,
    )


def _checked(state: KvState, revision: int | None) -> int:
    if revision is None:
        return state.revision
    if revision > state.revision:
        raise KeyValueStoreError.FutureRevision(
            f"revision {revision} is not known here yet; the newest is {state.revision}",
            revision=state.revision,
        )
    if revision < state.compacted:
        raise compacted(revision, state)
    return revision


def _rest(range_: KvRange, key: bytes) -> KvRange:
    """The range from `key` on."""
    if range_.descending:
        return range_._replace(end=key + b"\0")
    return range_._replace(start=key)


def _walk(cursor: Any, range_: KvRange) -> Iterator[tuple[bytes, bytes]]:
    start, end, descending = range_
    if descending:
        if end == b"":
            return
        # If no key is at the end or behind it, the last one is the first on the way.
        there = cursor.prev() if end is not None and cursor.set_range(end) else cursor.last()
        while there and cursor.key() >= start:
            yield cursor.item()
            there = cursor.prev()
        return
    there = cursor.set_range(start) if start else cursor.first()
    while there:
        pair = cursor.item()
        if end is not None and pair[0] >= end:
            return
        yield pair
        there = cursor.next()


class LmdbTexts:
    """Keys as DNS shows them (`aspen.dns.key_texts.Texts`)."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def value(self, key: bytes) -> bytes | None:
        with self._store.read() as txn:
            stored: bytes | None = txn.get(key, db=self._store.tables["kv"])
        return None if stored is None else stored[HEADER.size :]

    def any_under(self, prefix: bytes) -> bool:
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["kv"])
            return bool(cursor.set_range(prefix)) and cursor.key().startswith(prefix)
