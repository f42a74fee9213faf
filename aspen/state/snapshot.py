"""A snapshot: the state tables of one moment, as a sequence of chunks, and back again.

A chunk is a run of pairs of one table in key order, so a reader that was cut off goes on after the
last key it has, and a writer appends. Chunks are read within one read transaction (one moment)
while writes go on, and written to an environment that nobody else uses yet.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import StorageError
from aspen.limits import SNAPSHOT_CHUNK_BYTES
from aspen.state.store import STATE_TABLES, Txn

_CHECKSUM: Final = struct.Struct(">I")


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a transfer has come: chunks so far, and the last pair of the last one."""

    sequence: int = 0
    table: int = 0
    after: bytes | None = None


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    table: int
    """Index into `STATE_TABLES`."""
    pairs: tuple[tuple[bytes, bytes], ...]

    @property
    def end(self) -> Position:
        """Where the next chunk begins."""
        return Position(self.sequence + 1, self.table, self.pairs[-1][0])


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Chunk)


def encode_chunk(chunk: Chunk) -> bytes:
    data = _ENCODER.encode(chunk)
    return _CHECKSUM.pack(zlib.crc32(data)) + data


def decode_chunk(frame_untrusted: bytes) -> Chunk:
    """Raises `StorageError` for a chunk that was damaged, or isn't one."""
    if len(frame_untrusted) < _CHECKSUM.size:
        raise StorageError("a snapshot chunk is cut short")
    data = frame_untrusted[_CHECKSUM.size :]
    if _CHECKSUM.unpack_from(frame_untrusted)[0] != zlib.crc32(data):
        raise StorageError("a snapshot chunk's checksum does not match")
    try:
        chunk = _DECODER.decode(data)
    except UNDECODABLE as error:
        raise StorageError(f"not a snapshot chunk: {error}") from None
    if not chunk.pairs or not 0 <= chunk.table < len(STATE_TABLES):
        raise StorageError("a snapshot chunk is empty or of no known table")
    return chunk


def count_pairs(txn: Txn, tables: dict[str, Any]) -> int:
    """Pairs in all state tables, for progress."""
    return sum(int(txn.stat(tables[name])["entries"]) for name in STATE_TABLES)


def read_chunk(txn: Txn, tables: dict[str, Any], position: Position) -> Chunk | None:
    """The chunk at `position`; None at the end."""
    table, after = position.table, position.after
    while table < len(STATE_TABLES):
        cursor = txn.cursor(db=tables[STATE_TABLES[table]])
        found = cursor.first() if after is None else cursor.set_range(after + b"\0")
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        while found and size < SNAPSHOT_CHUNK_BYTES:
            pair = cursor.item()
            pairs.append(pair)
            size += len(pair[0]) + len(pair[1])
            found = cursor.next()
        if pairs:
            return Chunk(position.sequence, table, tuple(pairs))
        table, after = table + 1, None
    return None


def write_chunk(txn: Txn, tables: dict[str, Any], chunk: Chunk, position: Position) -> Position:
    """Append a chunk; where the next one begins. Raises `StorageError` if it isn't the next one."""
    goes_on = chunk.table == position.table and position.after is not None
    in_order = chunk.sequence == position.sequence and chunk.table >= position.table
    if not in_order or (goes_on and chunk.pairs[0][0] <= (position.after or b"")):
        raise StorageError(f"snapshot chunk {chunk.sequence} came out of order")
    table = tables[STATE_TABLES[chunk.table]]
    for key, value in chunk.pairs:
        if not txn.put(key, value, db=table, append=True):
            raise StorageError(f"snapshot chunk {chunk.sequence} is not in key order")
    return chunk.end
