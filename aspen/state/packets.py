"""Signed packets by public key: what `PacketPut` changes, and what DNS and the relay read.

A value holds, beside the payload as it was signed, the ready-made DNS answers, so that a query
costs one `get` and no parsing::

    timestamp µs u64 ‖ received_at ms u64 ‖ flags u8 ‖ length of answers u16 ‖ answers ‖ payload

Most recent wins (BEP 44's sequence number, then the larger message), and that is decided here,
when the command is applied, in log order: every node decides alike.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.dns.packet_zone import build_ready_answers
from aspen.state.apply import ApplyContext
from aspen.state.packet_commands import PacketOutcome, PacketPut, PacketResult
from aspen.state.store import TableStore
from aspen.z32 import encode_key

_HEADER: Final = struct.Struct(">QQBH")
_AGE_KEY: Final = struct.Struct(">Q32s")
_TOMBSTONE: Final = 1
_SIGNATURE_BYTES: Final = 64
_MESSAGE_START: Final = 72


class PacketRecord(NamedTuple):
    """A stored packet. `payload` = signature (64) ‖ timestamp u64 BE µs (8) ‖ DNS message."""

    public_key: bytes
    timestamp_us: int
    received_at_ms: int
    tombstone: bool
    answers: bytes
    payload: bytes


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
    timestamp_us = int.from_bytes(payload[_SIGNATURE_BYTES:_MESSAGE_START], "big")
    outcome, answers = PacketOutcome.STORED, None
    stored = txn.get(key, db=packets)
    if stored is not None:
        old = decode_record(key, stored)
        new_order = (timestamp_us, payload[_MESSAGE_START:])
        old_order = (old.timestamp_us, old.payload[_MESSAGE_START:])
        if new_order < old_order:
            return PacketResult(PacketOutcome.OLDER, old.timestamp_us)
        if new_order == old_order:
            outcome, answers, payload = PacketOutcome.IDENTICAL, old.answers, old.payload
        txn.delete(_AGE_KEY.pack(old.received_at_ms, key), db=by_age)
    if answers is None:
        answers = build_ready_answers(payload[_MESSAGE_START:], encode_key(key).encode())
    record = PacketRecord(key, timestamp_us, context.time_ms, False, answers, payload)
    txn.put(key, encode_record(record), db=packets)
    txn.put(_AGE_KEY.pack(context.time_ms, key), b"", db=by_age)
    if outcome is PacketOutcome.STORED:
        context.changed_packets.append(key)
    return PacketResult(outcome, timestamp_us)


class LmdbPackets:
    """Reads packets from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, public_key: bytes) -> PacketRecord | None:
        """The packet stored for a key, tombstones included."""
        store = self._store
        with store.begin_read() as txn:
            value = txn.get(public_key, db=store.packets_table)
        return None if value is None else decode_record(public_key, value)

    def count(self) -> int:
        with self._store.read() as txn:
            return int(txn.stat(self._store.packets_table)["entries"])


class LmdbRecords:
    """The DNS side's view (`aspen.dns.lookup.Records`): ready-made answers by key."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def packet_answers(self, public_key: bytes) -> bytes | None:
        store = self._store
        with store.environment.begin() as txn:
            value = txn.get(public_key, db=store.packets_table)
        if value is None or value[16] & _TOMBSTONE:
            return None
        answers: bytes = value[_HEADER.size : _HEADER.size + (value[17] << 8 | value[18])]
        return answers
