"""The keys through time: every change has a revision, and the newest changes can be undone in reading.

::

    kv             key → create revision, mod revision, version, lease (u64 each) ‖ value
    kv_events      revision ‖ key → kind, the revision this change replaced, bytes kept for it
    kv_history     revision ‖ key → as in kv: the state of a key from that revision on, once replaced
    kv_tombstones  key → the revision that deleted it, while that change is kept
    machine        `kv` → revision, compacted revision, number and bytes of the changes kept

A value is written once, into `kv`; when the key changes again it moves to `kv_history` under the
revision that had written it. So the value that a change wrote is in one or the other, and the state
of a key at an earlier revision is found by going back from change to change. A key that was
created has 0 for the revision it replaced.

Changes are kept in a bounded number and size; the oldest go as new ones come, a few with each
command, so that no command does much. Revisions up to the *compacted* one can't be told apart any
more: a watch must start, and a read look, after it (a read, at it).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from aspen.limits import KV_HISTORY_BYTES, KV_HISTORY_COLLECT, KV_HISTORY_EVENTS
from aspen.state.kv_commands import KvEntry
from aspen.state.store import TableStore, Txn

HEADER: Final = struct.Struct(">QQQQ")
"""Create revision, mod revision, version, lease; the value follows."""
EVENT: Final = struct.Struct(">BQI")
"""Kind, the revision replaced, bytes kept in `kv_history` for it."""
U64: Final = struct.Struct(">Q")
_STATE: Final = struct.Struct(">QQQQ")
_STATE_KEY: Final = b"kv"
"""In table `machine`."""
_EVENT_BYTES: Final = 64
"""What a change takes beside its key and the value that it replaced, roughly."""


class Change(IntEnum):
    PUT = 1
    DELETE = 2


class KvEvent(NamedTuple):
    """One change of one key, as a watch tells it. A deleted key's `value` is empty, its numbers are 0."""

    change: Change
    entry: KvEntry
    """What the key was made; of a deleted one, `mod_revision` is the revision that deleted it."""


class KvState(NamedTuple):
    revision: int
    """Of the newest change."""
    compacted: int
    """The newest revision whose own changes are no longer known."""
    events: int
    event_bytes: int


def read_state(store: TableStore, txn: Txn) -> KvState:
    value = txn.get(_STATE_KEY, db=store.tables["machine"])
    return KvState(0, 0, 0, 0) if value is None else KvState(*_STATE.unpack(value))


def decode_entry(key: bytes, stored: bytes) -> KvEntry:
    create_revision, mod_revision, version, lease = HEADER.unpack_from(stored)
    return KvEntry(key, stored[HEADER.size :], create_revision, mod_revision, version, lease)


def event_cost(key: bytes, kept_bytes: int) -> int:
    return _EVENT_BYTES + len(key) + kept_bytes


def stored_at(store: TableStore, txn: Txn, key: bytes, revision: int, newest: bytes | None) -> bytes | None:
    """What `kv` held under `key` at a revision that isn't compacted away; `newest` is what it holds now."""
    tables = store.tables
    if newest is not None:
        changed: int = U64.unpack_from(newest, U64.size)[0]
        if changed <= revision:
            return newest
    else:
        deleted = txn.get(key, db=tables["kv_tombstones"])
        if deleted is None:
            return None
        changed = U64.unpack(deleted)[0]
    while changed > revision:
        event = txn.get(U64.pack(changed) + key, db=tables["kv_events"])
        if event is None:
            return None
        changed = EVENT.unpack(event)[1]
    if not changed:
        return None
    kept: bytes | None = txn.get(U64.pack(changed) + key, db=tables["kv_history"])
    return kept


def event_at(store: TableStore, txn: Txn, event_key: bytes, event: bytes) -> KvEvent:
    """The change that stands at `event_key` of `kv_events`."""
    revision: int = U64.unpack_from(event_key)[0]
    key = event_key[U64.size :]
    if event[0] == Change.DELETE:
        return KvEvent(Change.DELETE, KvEntry(key, b"", 0, revision, 0))
    stored = txn.get(key, db=store.tables["kv"])
    if stored is None or U64.unpack_from(stored, U64.size)[0] != revision:
        stored = txn.get(event_key, db=store.tables["kv_history"])
    return KvEvent(Change.PUT, decode_entry(key, stored))


class KvWriter:
    """One command at work on the keys: whatever it changes, it changes at one revision. Each key once.

    Knows nothing of what leases hold; `aspen.state.leases` tells it.
    """

    __slots__ = ("_bytes", "_events", "_packed", "_store", "_txn", "before", "changed", "revision")

    def __init__(self, store: TableStore, txn: Txn) -> None:
        self._store = store
        self._txn = txn
        self.before = read_state(store, txn)
        self.revision = self.before.revision + 1
        """Of what this command changes."""
        self._packed = U64.pack(self.revision)
        self.changed = 0
        self._events = self.before.events
        self._bytes = self.before.event_bytes

    def stored(self, key: bytes) -> bytes | None:
        stored: bytes | None = self._txn.get(key, db=self._store.tables["kv"])
        return stored

    def put(self, key: bytes, value: bytes, lease: int, old: bytes | None) -> None:
        """`old` is what is stored under the key."""
        txn, tables = self._txn, self._store.tables
        replaced = 0
        if old is None:
            create_revision, version = self.revision, 1
            deleted = txn.get(key, db=tables["kv_tombstones"])
            if deleted is not None:
                replaced = U64.unpack(deleted)[0]
                txn.delete(key, db=tables["kv_tombstones"])
        else:
            create_revision, replaced, version, _ = HEADER.unpack_from(old)
            version += 1
        stored = HEADER.pack(create_revision, self.revision, version, lease) + value
        txn.put(key, stored, db=tables["kv"])
        self._note(Change.PUT, key, replaced, old)

    def delete(self, key: bytes, old: bytes) -> None:
        txn, tables = self._txn, self._store.tables
        txn.delete(key, db=tables["kv"])
        txn.put(key, self._packed, db=tables["kv_tombstones"])
        self._note(Change.DELETE, key, U64.unpack_from(old, U64.size)[0], old)

    def _note(self, change: Change, key: bytes, replaced: int, old: bytes | None) -> None:
        tables = self._store.tables
        kept_bytes = 0
        if old is not None:
            kept_bytes = len(old)
            self._txn.put(U64.pack(replaced) + key, old, db=tables["kv_history"])
        self._txn.put(self._packed + key, EVENT.pack(change, replaced, kept_bytes), db=tables["kv_events"])
        self._events += 1
        self._bytes += event_cost(key, kept_bytes)
        self.changed += 1

    def end(self) -> int:
        """Settle the command; the store's revision after it."""
        if not self.changed:
            return self.before.revision
        compacted = self.before.compacted
        if self._events > KV_HISTORY_EVENTS or self._bytes > KV_HISTORY_BYTES:
            compacted = self._collect(compacted)
        state = _STATE.pack(self.revision, compacted, self._events, self._bytes)
        self._txn.put(_STATE_KEY, state, db=self._store.tables["machine"])
        return self.revision

    def _collect(self, compacted: int) -> int:
        """Forget the oldest changes, as many as is due or one command may; the compacted revision then."""
        txn, tables = self._txn, self._store.tables
        cursor = txn.cursor(db=tables["kv_events"])
        for _ in range(2 * self.changed + KV_HISTORY_COLLECT):
            if self._events <= KV_HISTORY_EVENTS and self._bytes <= KV_HISTORY_BYTES:
                break
            cursor.first()
            event_key, event = cursor.item()
            packed, key = event_key[: U64.size], event_key[U64.size :]
            if packed == self._packed:
                break  # what this command does is always told
            change, replaced, kept_bytes = EVENT.unpack(event)
            txn.delete(event_key, db=tables["kv_events"])
            if kept_bytes:
                txn.delete(U64.pack(replaced) + key, db=tables["kv_history"])
            if change == Change.DELETE and txn.get(key, db=tables["kv_tombstones"]) == packed:
                txn.delete(key, db=tables["kv_tombstones"])
            compacted = U64.unpack(packed)[0]
            self._events -= 1
            self._bytes -= event_cost(key, kept_bytes)
        return compacted
