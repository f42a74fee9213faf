"""A backup's file format: one moment of the state, in checked and compressed frames.

::

    "ASPENBAK" ‖ version u16 ‖ frame …
    frame:  kind u8 ‖ number u32 ‖ length u32 ‖ CRC-32 of these u32 ‖ BLAKE3 of head and body (32) ‖ body

Numbers are big-endian. The first frame is the *header* (whose state it is, of which moment, how much
of it), the last the *trailer* (how many chunks and pairs there were, and a BLAKE3 over every byte before
it); both are MessagePack. Between them stand the chunks of `state.snapshot`, each compressed by zlib, so
each is read, checked and stored without the others. The head has a checksum of its own: a flipped
length is not taken for a file cut short.

Nothing here reads or writes: `Encoder` makes bytes, `Decoder` is fed with them in pieces of any size and
says at which byte of the file something is wrong.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import blake3
import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import BackupError, StorageError
from aspen.limits import BACKUP_CHUNK_BYTES, BACKUP_HEADER_BYTES
from aspen.state.snapshot import Chunk, decode_chunk, encode_chunk
from aspen.state.store import STATE_TABLES

MAGIC: Final = b"ASPENBAK"
VERSION: Final = 1
_OPENING: Final = struct.Struct(">8sH")
_HEAD: Final = struct.Struct(">BII")
_CHECK: Final = struct.Struct(">I")
_DIGEST_BYTES: Final = 32
_FRAME_BYTES: Final = _HEAD.size + _CHECK.size + _DIGEST_BYTES
_HEADER, _CHUNK, _TRAILER = 1, 2, 3
_KINDS: Final = {_HEADER: "header", _CHUNK: "chunk", _TRAILER: "trailer"}
_FASTEST: Final = 1
"""Signatures and keys are random bytes: more effort hardly makes a backup smaller."""

T = TypeVar("T")


class BackupMember(msgspec.Struct, frozen=True):
    """A member of the cluster that was backed up, for people: `restore` makes a cluster of its own."""

    node_id: int
    endpoint_id: bytes
    voter: bool


class Header(msgspec.Struct, frozen=True):
    """What a backup is of. Fields may be added; a reader leaves alone what it doesn't know."""

    schema: int
    """Of the store: who restores reads the same, or refuses."""
    cluster_id: bytes
    node_id: int
    """Who made it."""
    index: int
    term: int
    """Of the last log entry that is in it."""
    revision: int
    """The key-value store's."""
    created_at_ms: int
    aspen_version: str
    members: tuple[BackupMember, ...]
    tables: tuple[str, ...]
    """Chunks name their table by its place here."""
    pairs: dict[str, int]
    """How many there are, by table."""

    @property
    def pairs_total(self) -> int:
        return sum(self.pairs.values())


class Trailer(msgspec.Struct, frozen=True):
    chunks: int
    pairs: int
    digest: bytes
    """BLAKE3 of the file before the trailer."""


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """A chunk of a backup, and where it begins in the file."""

    chunk: Chunk
    offset: int


class Encoder:
    """Makes one backup: `begin`, each chunk, `end`, in this order."""

    def __init__(self) -> None:
        self._total = blake3.blake3()
        self._number = 0
        self._pairs = 0

    def begin(self, header: Header) -> bytes:
        opening = _OPENING.pack(MAGIC, VERSION)
        self._total.update(opening)
        return opening + self._frame(_HEADER, msgspec.msgpack.encode(header))

    def chunk(self, chunk: Chunk) -> bytes:
        self._pairs += len(chunk.pairs)
        return self._frame(_CHUNK, zlib.compress(encode_chunk(chunk), _FASTEST))

    def end(self) -> bytes:
        trailer = Trailer(self._number - 1, self._pairs, self._total.digest())
        return self._frame(_TRAILER, msgspec.msgpack.encode(trailer))

    def _frame(self, kind: int, body: bytes) -> bytes:
        head = _HEAD.pack(kind, self._number, len(body))
        self._number += 1
        digest = blake3.blake3(head + body).digest()
        frame = b"".join((head, _CHECK.pack(zlib.crc32(head)), digest, body))
        self._total.update(frame)
        return frame


class Decoder:
    """Checks and reads one backup, as it comes. `header` is there once it was read, `trailer` at the end."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.trailer: Trailer | None = None
        self.offset = 0
        """Bytes of the file that were read and found good."""
        self.chunks = 0
        self.pairs = 0
        self._table_pairs: dict[str, int] = {}
        self._buffer = bytearray()
        self._total = blake3.blake3()
        self._begun = False

    def feed(self, data_untrusted: bytes) -> Iterator[ReadChunk]:
        """The chunks that are complete now. Raises `BackupError`."""
        self._buffer += data_untrusted
        if not self._begun:
            if len(self._buffer) < _OPENING.size:
                return
            self._open()
        while (chunk := self._next()) is not None:
            if isinstance(chunk, ReadChunk):
                yield chunk

    def finish(self) -> Trailer:
        """There is no more. Raises `BackupError` if there should be."""
        if self.trailer is None:
            end = self.offset + len(self._buffer)
            if not self._begun:
                raise BackupError("not a backup of Aspen: the file is too short", end)
            raise BackupError(f"the file is cut short, in {self._where()} which begins at {self.offset}", end)
        return self.trailer

    def _where(self) -> str:
        return "its header" if self.header is None else f"chunk {self.chunks + 1} or the trailer"

    def _open(self) -> None:
        magic, version = _OPENING.unpack_from(self._buffer)
        if magic != MAGIC:
            raise BackupError("not a backup of Aspen")
        if version != VERSION:
            raise BackupError(f"a backup of format {version}; this version reads {VERSION}", len(MAGIC))
        self._begun = True
        self._take(_OPENING.size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._total.update(taken)
        self.offset += size
        return taken

    def _next(self) -> ReadChunk | bool | None:
        """Read one frame: a chunk, True for another, None if it isn't complete yet."""
        if self.trailer is not None:
            if self._buffer:
                raise BackupError("there is something behind the trailer", self.offset)
            return None
        if len(self._buffer) < _FRAME_BYTES:
            return None
        kind, number, length = self._head()
        if len(self._buffer) < _FRAME_BYTES + length:
            return None
        start, before = self.offset, self._total.digest() if kind == _TRAILER else b""
        frame = self._take(_FRAME_BYTES + length)
        name = f"chunk {number}" if kind == _CHUNK else f"the {_KINDS[kind]}"
        digest, body = frame[_FRAME_BYTES - _DIGEST_BYTES : _FRAME_BYTES], frame[_FRAME_BYTES:]
        if blake3.blake3(frame[: _HEAD.size] + body).digest() != digest:
            raise BackupError(f"the checksum of {name} ({length} bytes) does not match", start)
        if kind == _CHUNK:
            return ReadChunk(self._chunk(body, name, start), start)
        if kind == _HEADER:
            self._read_header(body, start)
        else:
            self._read_trailer(body, start, before)
        return True

    def _head(self) -> tuple[int, int, int]:
        """Kind, number and length of the frame that comes next."""
        kind, number, length = _HEAD.unpack_from(self._buffer)
        if zlib.crc32(self._buffer[: _HEAD.size]) != _CHECK.unpack_from(self._buffer, _HEAD.size)[0]:
            raise BackupError(f"the head of {self._where()} is damaged", self.offset)
        expected = _HEADER if self.header is None else kind
        count = 0 if self.header is None else self.chunks + 1
        limit = BACKUP_CHUNK_BYTES if kind == _CHUNK else BACKUP_HEADER_BYTES
        if kind not in _KINDS or kind != expected or (kind == _HEADER) != (self.header is None):
            raise BackupError(f"a frame of kind {kind} where {self._where()} should be", self.offset)
        if number != count:
            raise BackupError(f"frame {number} where frame {count} should be", self.offset)
        if length > limit:
            raise BackupError(f"a {_KINDS[kind]} of {length} bytes, more than {limit}", self.offset)
        return kind, number, length

    def _read_header(self, body: bytes, start: int) -> None:
        header = _decoded(body, Header, "header", start)
        unknown = [name for name in header.tables if name not in STATE_TABLES]
        if unknown:
            raise BackupError(f"it has tables that this version does not know: {', '.join(unknown)}", start)
        self.header = header

    def _chunk(self, body: bytes, name: str, start: int) -> Chunk:
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(body, BACKUP_CHUNK_BYTES)
            if not inflate.eof:
                raise BackupError(f"{name} is larger than {BACKUP_CHUNK_BYTES} bytes, or cut short", start)
            chunk = decode_chunk(data)
        except (zlib.error, StorageError) as error:
            raise BackupError(f"{name}: {error}", start) from None
        tables = self.header.tables if self.header is not None else ()
        if chunk.table >= len(tables):
            raise BackupError(f"{name} is of a table that the header does not name", start)
        table = tables[chunk.table]
        self.chunks += 1
        self.pairs += len(chunk.pairs)
        self._table_pairs[table] = self._table_pairs.get(table, 0) + len(chunk.pairs)
        # By this version's tables from here on.
        return msgspec.structs.replace(chunk, table=STATE_TABLES.index(table))

    def _read_trailer(self, body: bytes, start: int, digest: bytes) -> None:
        trailer = _decoded(body, Trailer, "trailer", start)
        told = {} if self.header is None else {name: n for name, n in self.header.pairs.items() if n}
        if trailer.digest != digest:
            raise BackupError("the checksum of the whole file does not match", start)
        if (trailer.chunks, trailer.pairs) != (self.chunks, self.pairs) or told != self._table_pairs:
            raise BackupError("chunks are missing: not as many pairs as the header tells", start)
        self.trailer = trailer


def _decoded(body: bytes, kind: type[T], name: str, start: int) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNDECODABLE as error:
        raise BackupError(f"the {name} can't be read: {error}", start) from None
