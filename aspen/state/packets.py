"""Signed packets by public key: what `PacketPut` changes, and what DNS and the relay read.

A value holds, beside the payload as it was signed, the ready-made DNS answers, so that a query
costs one `get` and no parsing::

    timestamp µs u64 ‖ received_at ms u64 ‖ flags u8 ‖ length of answers u16 ‖ answers ‖ payload

Most recent wins (BEP 44's sequence number, then the larger message), and that is decided here,
when the command is applied, in log order: every node decides alike.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, cast

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.packet_zone import build_ready_answers
from aspen.errors import invariant
from aspen.limits import PKARR_PACKET_BYTES, PKARR_RENEW_PART, PKARR_RETENTION_MS
from aspen.state.apply import ApplyContext
from aspen.state.packet_commands import (
    ExpireResult,
    PacketDelete,
    PacketOutcome,
    PacketPut,
    PacketResult,
    PacketsExpire,
)
from aspen.state.packet_events import PacketEventKind, append_event
from aspen.state.store import TableStore, Txn
from aspen.z32 import encode_key

_HEADER: Final = struct.Struct(">QQBH")
_RECEIVED_AT: Final = slice(8, 16)
_LENGTH_AT: Final = _HEADER.size - 2
_AGE_KEY: Final = struct.Struct(">BQ32s")
_LIVE: Final = 0
_DEAD: Final = 1
"""A tombstone, in the age table."""
_TOMBSTONE: Final = 1
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MESSAGE_START: Final = 72
_ABOVE_ALL: Final = b"\xff" * (PKARR_PACKET_BYTES + 1)


class PacketRecord(NamedTuple):
    """A stored packet, or its tombstone. `payload` = signature (64) ‖ timestamp u64 BE µs (8) ‖ DNS
    message; empty if an operator deleted it."""

    public_key: bytes
    timestamp_us: int
    received_at_ms: int
    tombstone: bool
    answers: bytes
    payload: bytes

    @property
    def order(self) -> bytes:
        """What a more recent packet's timestamp ‖ message is larger than."""
        if self.payload:
            return self.payload[_SIGNATURE_BYTES:]
        return self.timestamp_us.to_bytes(8, "big") + _ABOVE_ALL  # no other of this moment comes in


def answer_count(message: bytes) -> int:
    """Of a DNS message; a packet without answers unpublishes its key."""
    return message[6] << 8 | message[7]


def decode_record(public_key: bytes, value: bytes) -> PacketRecord:
    timestamp_us, received_at_ms, flags, answers_bytes = _HEADER.unpack_from(value)
    end = _HEADER.size + answers_bytes
    return PacketRecord(
        public_key,
        timestamp_us,
        received_at_ms,
        bool(flags & _TOMBSTONE),
        value[_HEADER.size : end],
        value[end:],
    )


def encode_record(record: PacketRecord) -> bytes:
    flags = _TOMBSTONE if record.tombstone else 0
    header = _HEADER.pack(record.timestamp_us, record.received_at_ms, flags, len(record.answers))
    return header + record.answers + record.payload


def apply_packet_put(context: ApplyContext, command: PacketPut) -> PacketResult:
    """Store the packet unless a more recent one is there; deterministic.

    An identical packet renews the last-seen time only.
    """
    txn, tables = context.txn, context.store.tables
    packets, by_age = tables["packets"], tables["packets_by_age"]
    key, payload = command.public_key, command.payload
    message = payload[_MESSAGE_START:]
    timestamp_us = int.from_bytes(payload[_SIGNATURE_BYTES:_MESSAGE_START], "big")
    tombstone = not answer_count(message)
    outcome, answers = PacketOutcome.STORED, b"" if tombstone else None
    stored = txn.get(key, db=packets)
    if stored is not None:
        old = decode_record(key, stored)
        new_order, old_order = payload[_SIGNATURE_BYTES:], old.order
        limit_us = command.unless_after_us
        # The very packet that is stored has been put before, and its condition held then.
        if limit_us is not None and old.timestamp_us > limit_us and new_order != old_order:
            return PacketResult(PacketOutcome.MODIFIED, old.timestamp_us)
        if new_order < old_order:
            return PacketResult(PacketOutcome.OLDER, old.timestamp_us)
        if new_order == old_order:
            outcome, answers, payload = PacketOutcome.IDENTICAL, old.answers, old.payload
        txn.delete(_age_key(old), db=by_age)
    if answers is None:
        answers = build_ready_answers(message, encode_key(key).encode())
    record = PacketRecord(key, timestamp_us, context.time_ms, tombstone, answers, payload)
    txn.put(key, encode_record(record), db=packets)
    txn.put(_age_key(record), b"", db=by_age)
    if outcome is PacketOutcome.STORED:
        context.changed_packets.append(key)
        kind = PacketEventKind.UNPUBLISHED if tombstone else PacketEventKind.STORED
        append_event(context, kind, timestamp_us, [key])
    return PacketResult(outcome, timestamp_us)


def apply_packet_delete(context: ApplyContext, command: PacketDelete) -> PacketResult:
    """Put a tombstone in a packet's place. The packet itself is gone; deterministic."""
    txn, tables = context.txn, context.store.tables
    packets, by_age = tables["packets"], tables["packets_by_age"]
    key = command.public_key
    stored = txn.get(key, db=packets)
    if stored is None:
        return PacketResult(PacketOutcome.ABSENT, 0)
    old = decode_record(key, stored)
    if old.tombstone and not old.payload:
        return PacketResult(PacketOutcome.ABSENT, old.timestamp_us)
    record = PacketRecord(key, old.timestamp_us, context.time_ms, True, b"", b"")
    txn.delete(_age_key(old), db=by_age)
    txn.put(key, encode_record(record), db=packets)
    txn.put(_age_key(record), b"", db=by_age)
    if not old.tombstone:
        context.changed_packets.append(key)
    append_event(context, PacketEventKind.DELETED, old.timestamp_us, [key])
    return PacketResult(PacketOutcome.DELETED, old.timestamp_us)


def apply_packets_expire(context: ApplyContext, command: PacketsExpire) -> ExpireResult:
    """Remove what was last seen before the times given, oldest first, up to the limit; deterministic."""
    txn, tables = context.txn, context.store.tables
    packets, by_age = tables["packets"], tables["packets_by_age"]
    expired: list[bytes] = []
    removed = 0
    for kind, before_ms in ((_LIVE, command.packets_before_ms), (_DEAD, command.tombstones_before_ms)):
        for age_key in _older_than(txn, by_age, kind, before_ms, command.limit - removed):
            key = age_key[-_KEY_BYTES:]
            txn.delete(age_key, db=by_age)
            txn.delete(key, db=packets)
            removed += 1
            if kind == _LIVE:
                expired.append(key)
    if expired:
        context.changed_packets.extend(expired)
        append_event(context, PacketEventKind.EXPIRED, 0, expired)
    return ExpireResult(removed, removed >= command.limit)


def _older_than(txn: Txn, by_age: Any, kind: int, before_ms: int, limit: int) -> list[bytes]:
    """Keys of the age table, oldest first."""
    found: list[bytes] = []
    end = _AGE_KEY.pack(kind, max(0, before_ms), bytes(_KEY_BYTES))
    cursor = txn.cursor(db=by_age)
    there = cursor.set_range(_AGE_KEY.pack(kind, 0, bytes(_KEY_BYTES)))
    while there and len(found) < limit and (key := bytes(cursor.key())) < end:
        found.append(key)
        there = cursor.next()
    return found


def _age_key(record: PacketRecord) -> bytes:
    """A tombstone's age counts from its timestamp if that is later: it must outlive whatever could
    still be published before it."""
    if not record.tombstone:
        return _AGE_KEY.pack(_LIVE, record.received_at_ms, record.public_key)
    since_ms = max(record.received_at_ms, record.timestamp_us // 1_000)
    return _AGE_KEY.pack(_DEAD, since_ms, record.public_key)


class PacketLife(NamedTuple):
    """How long a packet is served after it was last seen. Readers decide by their own clocks; the
    leader removes it later."""

    retention_ms: int = PKARR_RETENTION_MS
    strict_ttl: bool = False
    """Each record only for its own TTL, as a resolver's cache would."""

    def is_over(self, record: PacketRecord, now_ms: int) -> bool:
        """Whether nothing of the packet is served any more."""
        age_ms = now_ms - record.received_at_ms
        if age_ms > self.retention_ms:
            return True
        return self.strict_ttl and age_ms > 1_000 * max(
            answer_ttls(record.payload[_MESSAGE_START:]), default=0
        )

    def renew_ms(self, record: PacketRecord) -> int:
        """Seen again sooner, a packet's life needs no renewal: no log entry."""
        life_ms = self.retention_ms
        if self.strict_ttl:
            life_ms = min(life_ms, 1_000 * min(answer_ttls(record.payload[_MESSAGE_START:]), default=0))
        return life_ms // PKARR_RENEW_PART


def answer_ttls(message: bytes) -> Iterator[int]:
    """The TTLs of a DNS message's answers, in seconds."""
    questions, answers, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    for _ in range(answers):
        record = read_record(message, offset)
        yield 0 if record.ttl >> 31 else record.ttl  # RFC 2181 §8
        offset = record.rdata_end


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class LmdbPackets:
    """Reads packets from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, public_key: bytes) -> PacketRecord | None:
        """The packet stored for a key, tombstones and what has expired included."""
        store = self._store
        with store.begin_read() as txn:
            value = txn.get(public_key, db=store.packets_table)
        return None if value is None else decode_record(public_key, value)

    def count(self) -> int:
        """Packets and tombstones."""
        return self.usage().packets

    def usage(self) -> PacketUsage:
        """How many packets there are, tombstones among them, and what they take on disk."""
        with self._store.read() as txn:
            stat = txn.stat(self._store.packets_table)
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return PacketUsage(int(stat["entries"]), int(pages * stat["psize"]))

    def due(self, packets_before_ms: int, tombstones_before_ms: int) -> bool:
        """Whether a `PacketsExpire` with these times would remove anything."""
        with self._store.read() as txn:
            by_age = self._store.tables["packets_by_age"]
            return any(
                _older_than(txn, by_age, kind, before_ms, 1)
                for kind, before_ms in ((_LIVE, packets_before_ms), (_DEAD, tombstones_before_ms))
            )


class PacketUsage(NamedTuple):
    packets: int
    disk_bytes: int


class LmdbRecords:
    """The DNS side's view (`aspen.dns.lookup.Records`): ready-made answers by key, of packets whose
    life isn't over by this node's clock."""

    __slots__ = ("_life", "_retention_ms", "_store", "_wall_ms")

    def __init__(
        self, store: TableStore, life: PacketLife | None = None, wall_ms: Callable[[], int] = _wall_ms
    ) -> None:
        self._store = store
        self._life = life if life is not None else PacketLife()
        self._retention_ms = self._life.retention_ms
        self._wall_ms = wall_ms

    def packet_answers(self, public_key: bytes) -> bytes | None:
        store = self._store
        # A transaction ends when nothing refers to it any more: here. `with` would cost half as much again.
        value = store.environment.begin().get(public_key, db=store.packets_table)
        if value is None:
            return None
        _, received_at_ms, flags, length = _HEADER.unpack_from(value)
        age_ms = self._wall_ms() - received_at_ms
        if flags & _TOMBSTONE or age_ms > self._retention_ms:
            return None
        if self._life.strict_ttl:
            return _answers_still_valid(decode_record(public_key, value), age_ms)
        answers: bytes = value[_HEADER.size : _HEADER.size + length]
        return answers


class MomentRecords:
    """The same, read again and again at one moment, for who answers a hundred thousand times a second.

    The transaction and the clock's reading stay from the first question after a `release` to the next one,
    and pin the pages of that moment: whoever asks must release whenever something changed, and every second.
    """

    __slots__ = ("_get", "_life", "_oldest", "_store", "_wall_ms")

    def __init__(
        self, store: TableStore, life: PacketLife | None = None, wall_ms: Callable[[], int] = _wall_ms
    ) -> None:
        """`life` without strict TTLs."""
        self._store = store
        self._life = life if life is not None else PacketLife()
        invariant(not self._life.strict_ttl, "what changes with every millisecond has no moment")
        self._wall_ms = wall_ms
        self._oldest = b""
        self._get: Callable[[bytes], bytes | None] = self._begin

    def release(self) -> None:
        """Let the moment go. A read that a signal's handler interrupts with this ends as it began."""
        self._get = self._begin

    def packet_answers(self, public_key: bytes) -> bytes | None:
        value = self._get(public_key)
        if value is None or value[_RECEIVED_AT] < self._oldest:
            return None
        # Of a tombstone, none.
        return value[_HEADER.size : _HEADER.size + (value[_LENGTH_AT] << 8 | value[_LENGTH_AT + 1])] or None

    def _begin(self, public_key: bytes) -> bytes | None:
        store = self._store
        self._oldest = max(0, self._wall_ms() - self._life.retention_ms).to_bytes(8, "big")
        self._get = get = store.environment.begin(db=store.packets_table).get
        return cast("bytes | None", get(public_key))


def _answers_still_valid(record: PacketRecord, age_ms: int) -> bytes | None:
    """The answers without records that are older than their TTL; None if none is left."""
    message = record.payload[_MESSAGE_START:]
    ttls = list(answer_ttls(message))
    if age_ms <= 1_000 * min(ttls):
        return record.answers
    if age_ms > 1_000 * max(ttls):
        return None
    return build_ready_answers(message, encode_key(record.public_key).encode(), expired_ms=age_ms)
