"""What has happened to packets lately: one row a log entry, so that a watcher misses and repeats nothing.

::

    log index u64 → kind u8 ‖ signer's timestamp µs u64 ‖ public keys (32 each)

The table is part of the replicated state, so every member tells the same story under the same
numbers, and a watcher can go on at another member. It holds the latest `PKARR_EVENTS` rows: once
it is full, the oldest goes for each that comes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from aspen.limits import PKARR_EVENTS
from aspen.state.apply import ApplyContext
from aspen.state.store import TableStore

_INDEX: Final = struct.Struct(">Q")
_HEAD: Final = struct.Struct(">BQ")
_KEY_BYTES: Final = 32


class PacketEventKind(IntEnum):
    STORED = 1
    UNPUBLISHED = 2
    """By its key's owner, with a signed packet without answers."""
    DELETED = 3
    """By an operator."""
    EXPIRED = 4


class PacketEvent(NamedTuple):
    """What one log entry did to one or (if they expired) several packets."""

    log_index: int
    kind: PacketEventKind
    timestamp_us: int
    """The signer's; 0 if several."""
    keys: tuple[bytes, ...]


class EventPage(NamedTuple):
    events: tuple[PacketEvent, ...]
    more: bool


def append_event(context: ApplyContext, kind: PacketEventKind, timestamp_us: int, keys: list[bytes]) -> None:
    """Note what the command being applied did."""
    txn, table = context.txn, context.store.tables["packet_events"]
    txn.put(_INDEX.pack(context.index), _HEAD.pack(kind, timestamp_us) + b"".join(keys), db=table)
    if txn.stat(table)["entries"] > PKARR_EVENTS:
        cursor = txn.cursor(db=table)
        cursor.first()
        txn.delete(bytes(cursor.key()), db=table)


class LmdbPacketEvents:
    """Reads events from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def page(self, from_index: int, limit: int) -> EventPage | None:
        """Up to `limit` events from a log index on; None if some of them may be forgotten already."""
        store = self._store
        with store.read() as txn:
            table = store.tables["packet_events"]
            cursor = txn.cursor(db=table)
            if not cursor.first():
                return EventPage((), False)
            full = txn.stat(table)["entries"] >= PKARR_EVENTS
            if full and from_index < _INDEX.unpack(cursor.key())[0]:
                return None
            events: list[PacketEvent] = []
            there = cursor.set_range(_INDEX.pack(from_index))
            while there and len(events) < limit:
                events.append(_decode(*cursor.item()))
                there = cursor.next()
        return EventPage(tuple(events), there)


def _decode(key: bytes, value: bytes) -> PacketEvent:
    kind, timestamp_us = _HEAD.unpack_from(value)
    keys = value[_HEAD.size :]
    return PacketEvent(
        _INDEX.unpack(key)[0],
        PacketEventKind(kind),
        timestamp_us,
        tuple(bytes(keys[at : at + _KEY_BYTES]) for at in range(0, len(keys), _KEY_BYTES)),
    )
