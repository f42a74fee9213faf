"""The Raft log and its companions (hard state, applied index, roster) in LMDB.

Two faces for two threads. The writer thread calls the methods that take a transaction. The
core's thread reads through the `LogStorage` methods, which know only what is durable: `durable`
moves their view forward once a transaction has committed. The newest entries stay in memory,
since those are the ones the core asks for.

The head of the log is cut off as it grows (`compact`); `log_start` is the index and term of the last
entry cut, which the entry after it is checked against.

Each entry is stored under its index (u64 BE) as term u64 ‖ kind u8 ‖ CRC-32 u32 ‖ data; the
checksum covers index, term and kind too, so a flipped bit is found, never served.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aspen.errors import InvariantViolation, StorageError, invariant
from aspen.limits import RAFT_COMPACT_ENTRIES, RAFT_LOG_CACHE_BYTES, RAFT_LOG_CACHE_ENTRIES
from aspen.raft.log import LogCompacted, LogUnavailable
from aspen.raft.messages import ConfState, Entry, EntryKind, HardState, Snapshot
from aspen.raft.roster import Roster, decode_roster, encode_roster
from aspen.state.store import Store, Txn, put_schema

_U64: Final = struct.Struct(">Q")
_ENTRY: Final = struct.Struct(">QBI")
_CHECKED: Final = struct.Struct(">QQB")
_POSITION: Final = struct.Struct(">QQ")

_META_HARD_STATE: Final = b"hard_state"
_META_APPLIED: Final = b"applied"
_META_LOG_START: Final = b"log_start"
_META_ROSTER: Final = b"roster"
_META_IDENTITY: Final = b"node"

_HARD_STATE: Final = struct.Struct(">QQQ")


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """Whose data directory this is."""

    node_id: int
    endpoint_id: bytes


@dataclass(frozen=True, slots=True)
class Installed:
    """What a node writes of itself beside the state of a snapshot at (`index`, `term`)."""

    index: int
    term: int
    hard_state: HardState
    roster: Roster


def _encode_entry(entry: Entry) -> bytes:
    checksum = zlib.crc32(entry.data, zlib.crc32(_CHECKED.pack(entry.index, entry.term, entry.kind)))
    return _ENTRY.pack(entry.term, entry.kind, checksum) + entry.data


def _decode_entry(index: int, value: bytes) -> Entry:
    try:
        term, kind, checksum = _ENTRY.unpack_from(value)
    except struct.error:
        raise StorageError(f"log entry {index} is cut short") from None
    data = value[_ENTRY.size :]
    if zlib.crc32(data, zlib.crc32(_CHECKED.pack(index, term, kind))) != checksum:
        raise StorageError(f"log entry {index} is corrupt: its checksum does not match")
    return Entry(term, index, EntryKind(kind), data)


class LmdbLog:
    """`aspen.raft.rawnode.LogStorage` over LMDB, and the writer thread's half."""

    def __init__(self, store: Store) -> None:
        """Read the durable state. Raises `StorageError` if what is there can't be trusted."""
        self._store = store
        self._tail: dict[int, Entry] = {}
        self._tail_first = 1
        self._tail_bytes = 0
        self.offer_snapshot: Callable[[], Snapshot] = _no_snapshot
        with store.read() as txn:
            self.hard_state = self._read_hard_state(txn)
            self.applied_index, self.applied_term, self.roster = self.read_applied(txn)
            self._start, self._start_term = self._read_position(txn, _META_LOG_START)
            node = txn.get(_META_IDENTITY, db=self._store.tables["meta"])
            self.node = None if node is None else msgspec.msgpack.decode(node, type=NodeRecord)
            cursor = txn.cursor(db=self._store.tables["log"])
            first = _U64.unpack(cursor.key())[0] if cursor.first() else self._start + 1
            self._last = _U64.unpack(cursor.key())[0] if cursor.last() else self._start
        if first != self._start + 1:
            raise StorageError(f"the log begins at {first}, not after its start {self._start}")
        self._tail_first = self._last + 1
        self._check()

    def _check(self) -> None:
        if self.applied_index > self.hard_state.commit:
            raise StorageError(
                f"the store says index {self.applied_index} is applied, "
                f"yet only {self.hard_state.commit} is committed"
            )
        if self.hard_state.commit > self._last:
            raise StorageError(
                f"the log ends at {self._last}, before its commit index {self.hard_state.commit}"
            )

    def _read_hard_state(self, txn: Txn) -> HardState:
        value = txn.get(_META_HARD_STATE, db=self._store.tables["meta"])
        return HardState() if value is None else HardState(*_HARD_STATE.unpack(value))

    def _read_position(self, txn: Txn, name: bytes) -> tuple[int, int]:
        value = txn.get(name, db=self._store.tables["meta"])
        if value is None:
            return 0, 0
        index, term = _POSITION.unpack(value)
        return index, term

    def read_applied(self, txn: Txn) -> tuple[int, int, Roster]:
        """(index, term, roster) of the state that a transaction sees."""
        index, term = self._read_position(txn, _META_APPLIED)
        roster = txn.get(_META_ROSTER, db=self._store.tables["meta"])
        return index, term, Roster() if roster is None else decode_roster(roster)

    # --- LogStorage: the core's thread --------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.roster.conf_state

    def first_index(self) -> int:
        return self._start + 1

    def last_index(self) -> int:
        return self._last

    def term(self, index: int) -> int:
        """Raises `LogCompacted` or `LogUnavailable` outside the log; index 0 has term 0."""
        if (entry := self._tail.get(index)) is not None:
            return entry.term
        if index == self._start:
            return self._start_term
        if index < self._start:
            raise LogCompacted(index)
        if index > self._last:
            raise LogUnavailable(index)
        with self._store.read() as txn:
            return self._get(txn, index).term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries [low, high), cut at `max_bytes` of data but never to nothing."""
        if low <= self._start:
            raise LogCompacted(low)
        invariant(high <= self._last + 1, "entries past the durable log were asked for")
        if low >= self._tail_first:
            return _cut([self._tail[index] for index in range(low, high)], max_bytes)
        found: list[Entry] = []
        size = 0
        with self._store.read() as txn:
            for index in range(low, high):
                entry = self._get(txn, index)
                size += len(entry.data)
                if found and size > max_bytes:
                    break
                found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        """A moment of the state, kept for a peer to fetch. `LogUnavailable` if there is none now."""
        return self.offer_snapshot()

    def _get(self, txn: Txn, index: int) -> Entry:
        value = txn.get(_U64.pack(index), db=self._store.tables["log"])
        if value is None:
            # The writer may have cut it off already, ahead of this view.
            if index <= self._read_position(txn, _META_LOG_START)[0]:
                raise LogCompacted(index)
            raise StorageError(f"log entry {index} is missing")
        return _decode_entry(index, value)

    def durable(self, entries: Sequence[Entry]) -> None:
        """`entries` were appended by a transaction that has committed."""
        if not entries:
            return
        first = entries[0].index
        for index in range(max(first, self._tail_first), self._last + 1):
            self._tail_bytes -= len(self._tail.pop(index).data)
        if first < self._tail_first:
            self._tail_first = first
        for entry in entries:
            self._tail[entry.index] = entry
            self._tail_bytes += len(entry.data)
        self._last = entries[-1].index
        while len(self._tail) > RAFT_LOG_CACHE_ENTRIES or self._tail_bytes > RAFT_LOG_CACHE_BYTES:
            self._tail_bytes -= len(self._tail.pop(self._tail_first).data)
            self._tail_first += 1

    def compacted(self, index: int, term: int) -> None:
        """The log up to `index` was cut off by a transaction that has committed."""
        for gone in range(self._tail_first, min(index, self._last) + 1):
            self._tail_bytes -= len(self._tail.pop(gone).data)
        self._tail_first = max(self._tail_first, index + 1)
        self._start, self._start_term = index, term

    def replaced(self, index: int, term: int) -> None:
        """A snapshot was installed: it stands for the log up to `index`, and there is no more."""
        self._tail.clear()
        self._tail_bytes = 0
        self._start, self._start_term, self._last = index, term, index
        self._tail_first = index + 1

    # --- the writer thread --------------------------------------------------------------------

    def append(self, txn: Txn, entries: Sequence[Entry]) -> None:
        """Append, first dropping whatever conflicts: everything from the first index on."""
        cursor = txn.cursor(db=self._store.tables["log"])
        found = cursor.set_range(_U64.pack(entries[0].index))
        while found:
            found = cursor.delete()
        for entry in entries:
            txn.put(_U64.pack(entry.index), _encode_entry(entry), db=self._store.tables["log"], append=True)

    def compact(self, txn: Txn, keep_entries: int, keep_bytes: int) -> tuple[int, int] | None:
        """Cut off the oldest applied entries if the log holds more than what is to be kept; the
        (index, term) of the last one cut. A few at a time: writes go on meanwhile."""
        table = self._store.tables["log"]
        start, _ = self._read_position(txn, _META_LOG_START)
        applied, _ = self._read_position(txn, _META_APPLIED)
        stat = txn.stat(table)
        size = (stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
        spare = applied - start - keep_entries
        if size > keep_bytes:
            spare = max(spare, (applied - start) // 2)
        if spare < RAFT_COMPACT_ENTRIES:
            return None
        cursor = txn.cursor(db=table)
        last = start
        for index in range(start + 1, start + RAFT_COMPACT_ENTRIES):
            if not cursor.set_key(_U64.pack(index)):
                raise StorageError(f"log entry {index} is missing")
            last, term = index, _ENTRY.unpack_from(cursor.value())[0]
            cursor.delete()
        txn.put(_META_LOG_START, _POSITION.pack(last, term), db=self._store.tables["meta"])
        return last, term

    def put_installed(self, txn: Txn, tables: dict[str, Any], install: Installed) -> None:
        """This node's own part of an environment made from a snapshot."""
        node = self.node
        if node is None:
            raise InvariantViolation("a node without identity installs a snapshot")
        put_own_part(txn, tables, node, install)

    def put_hard_state(self, txn: Txn, hard_state: HardState) -> None:
        value = _HARD_STATE.pack(hard_state.term, hard_state.vote, hard_state.commit)
        txn.put(_META_HARD_STATE, value, db=self._store.tables["meta"])

    def put_applied(self, txn: Txn, index: int, term: int) -> None:
        txn.put(_META_APPLIED, _POSITION.pack(index, term), db=self._store.tables["meta"])

    def put_roster(self, txn: Txn, roster: Roster) -> None:
        txn.put(_META_ROSTER, encode_roster(roster), db=self._store.tables["meta"])

    def claim(self, node_id: int, endpoint_id: bytes) -> None:
        """Bind the data directory to this node on first use; refuse another node's directory."""
        record = NodeRecord(node_id, endpoint_id)
        if self.node is None:
            with self._store.write() as txn:
                txn.put(_META_IDENTITY, msgspec.msgpack.encode(record), db=self._store.tables["meta"])
            self.node = record
        elif self.node != record:
            raise StorageError(
                f"the data directory {self._store.data_dir} belongs to node {self.node.node_id} "
                "with another node id or key"
            )

    def change_key(self, node_id: int, endpoint_id: bytes) -> None:
        """Bind the data directory to another key of the same node; durable when this returns."""
        if self.node is not None and self.node.node_id != node_id:
            raise StorageError(f"the data directory {self._store.data_dir} belongs to another node")
        self.node = None
        self.claim(node_id, endpoint_id)


def put_own_part(txn: Txn, tables: dict[str, Any], node: NodeRecord, install: Installed) -> None:
    """What a node keeps of itself beside a state that stands for all of the log so far."""
    meta = tables["meta"]
    hard_state = install.hard_state
    position = _POSITION.pack(install.index, install.term)
    put_schema(txn, meta)
    txn.put(_META_HARD_STATE, _HARD_STATE.pack(hard_state.term, hard_state.vote, hard_state.commit), db=meta)
    txn.put(_META_APPLIED, position, db=meta)
    txn.put(_META_LOG_START, position, db=meta)
    txn.put(_META_ROSTER, encode_roster(install.roster), db=meta)
    txn.put(_META_IDENTITY, msgspec.msgpack.encode(node), db=meta)


def _no_snapshot() -> Snapshot:
    raise LogUnavailable(0)


def _cut(entries: list[Entry], max_bytes: int) -> list[Entry]:
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.data)
        if count and size > max_bytes:
            return entries[:count]
    return entries
