"""Backup files: what is written is read again, and whatever is wrong with one is found and named."""

from __future__ import annotations

import io
import random
import zlib

import msgspec
import pytest

from aspen.errors import BackupError
from aspen.services import restore
from aspen.state.backup_format import Decoder, Encoder, Header
from aspen.state.snapshot import Chunk
from aspen.state.store import SCHEMA, STATE_TABLES

KV = STATE_TABLES.index("kv")
PACKETS = STATE_TABLES.index("packets")


def chunks() -> list[Chunk]:
    rng = random.Random(7)
    packets = tuple((bytes([n]) * 32, rng.randbytes(300)) for n in range(50))
    kv = tuple((f"key/{n:03}".encode(), rng.randbytes(20)) for n in range(200))
    return [Chunk(0, PACKETS, packets[:25]), Chunk(1, PACKETS, packets[25:]), Chunk(2, KV, kv)]


def header(**changes: object) -> Header:
    made = Header(
        SCHEMA,
        b"c" * 16,
        2,
        70,
        3,
        12,
        1_700_000_000_000,
        "0.1.0",
        (),
        STATE_TABLES,
        {"packets": 50, "kv": 200},
    )
    return msgspec.structs.replace(made, **changes)


def backup(head: Header | None = None) -> tuple[bytes, list[int]]:
    """A backup, and where its frames begin: header, three chunks, trailer."""
    encoder = Encoder()
    parts = [encoder.begin(head or header()), *map(encoder.chunk, chunks()), encoder.end()]
    starts = [10]
    for part in parts[:-1]:
        starts.append(starts[-1] + len(part) - (10 if len(starts) == 1 else 0))
    return b"".join(parts), starts


def refusal(data: bytes) -> BackupError:
    with pytest.raises(BackupError) as caught:
        restore.verify(io.BytesIO(data))
    return caught.value


def test_what_was_written_is_read_again_whatever_the_pieces() -> None:
    data, _ = backup()
    for size in (1, 7, 999, len(data)):
        decoder = Decoder()
        read = [
            one.chunk
            for start in range(0, len(data), size)
            for one in decoder.feed(data[start : start + size])
        ]
        assert decoder.finish().pairs == 250
        assert read == chunks()
        assert decoder.header == header()
        assert decoder.offset == len(data)


def test_a_file_cut_short_anywhere_is_refused_and_says_where() -> None:
    data, starts = backup()
    for length in [0, 5, 10, *(start + 20 for start in starts), *starts[1:], len(data) - 1]:
        error = refusal(data[:length])
        assert error.offset == length, length
    assert "chunk 2" in str(refusal(data[: starts[2] + 60]))
    assert f"begins at {starts[2]}" in str(refusal(data[: starts[2] + 60]))


def test_every_flipped_bit_is_found_in_the_frame_where_it_is() -> None:
    data, starts = backup()
    for position in random.Random(3).sample(range(len(data)), 400):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        error = refusal(bytes(broken))
        frame = max((start for start in starts if start <= position), default=0)
        assert error.offset in ((0, 8) if position < 10 else (frame,)), (position, str(error))


def test_a_flipped_length_is_not_taken_for_a_file_cut_short() -> None:
    data, starts = backup()
    broken = bytearray(data)
    broken[starts[3] + 6] ^= 0x10  # more than is left of the file
    assert "the head of chunk 3" in str(refusal(bytes(broken)))


def test_chunks_can_be_neither_left_out_nor_exchanged() -> None:
    data, starts = backup()
    without = data[: starts[2]] + data[starts[3] :]
    assert "frame 3 where frame 2 should be" in str(refusal(without))
    exchanged = (
        data[: starts[1]] + data[starts[2] : starts[3]] + data[starts[1] : starts[2]] + data[starts[3] :]
    )
    assert refusal(exchanged).offset == starts[1]


def test_what_follows_the_trailer_is_refused() -> None:
    data, _ = backup()
    assert refusal(data + b"x").offset == len(data)


def test_a_header_that_promises_more_is_found_out_at_the_end() -> None:
    data, starts = backup(header(pairs={"packets": 51, "kv": 200}))
    error = refusal(data)
    assert error.offset == starts[-1]
    assert "chunks are missing" in str(error)


def test_other_files_versions_and_tables_are_refused_by_name() -> None:
    assert "not a backup" in str(refusal(b"{}" * 100))
    data, _ = backup()
    assert "format 2" in str(refusal(data[:9] + b"\x02" + data[10:]))
    assert "what_is_this" in str(refusal(backup(header(tables=(*STATE_TABLES, "what_is_this")))[0]))


def test_a_chunk_that_would_swell_is_not_unpacked() -> None:
    encoder = Encoder()
    opening = encoder.begin(header())
    bomb = encoder._frame(2, zlib.compress(bytes(64 * 1_048_576)))
    assert "larger than" in str(refusal(opening + bomb))
