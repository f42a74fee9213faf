"""A backup of many packets: restored whole, refused wherever it is damaged (of a million: bench)."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from aspen.errors import BackupError, ConfigError, IdentityError
from aspen.identity import Identity
from aspen.limits import BACKUP_READ_BYTES
from aspen.pkarr.records import build_message
from aspen.services import restore
from aspen.state.backup_format import Decoder, Encoder, Header
from aspen.state.commands import encode_command
from aspen.state.machine import Machine
from aspen.state.packet_commands import PacketPut
from aspen.state.snapshot import Position, read_chunk
from aspen.state.store import SCHEMA, STATE_TABLES, Store

PACKETS = 30_000
PLACES = 20


def rows(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    with store.read() as txn:
        return {name: list(txn.cursor(db=store.tables[name])) for name in STATE_TABLES}


def fill(store: Store) -> None:
    rng, machine = random.Random(11), Machine(store)
    message = build_message(Identity.from_seed(bytes(32)).endpoint_id, ["@ A 192.0.2.1", "@ TXT found"])
    with store.write() as txn:
        machine.begin(txn)
        for _ in range(PACKETS):
            payload = rng.randbytes(64) + (1).to_bytes(8, "big") + message
            machine.apply(txn, 1, 1, encode_command(PacketPut(rng.randbytes(32), payload)))
        machine.end(txn)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, list[tuple[bytes, bytes]]]]:
    """A backup, and what it is of."""
    store = Store.open(tmp_path_factory.mktemp("source"))
    fill(store)
    encoder, position = Encoder(), Position()
    with store.read() as txn:
        pairs = {name: int(txn.stat(store.tables[name])["entries"]) for name in STATE_TABLES}
        header = Header(SCHEMA, b"c" * 16, 1, 7, 1, 0, 0, "0.1.0", (), STATE_TABLES, pairs)
        parts = [encoder.begin(header)]
        while (chunk := read_chunk(txn, store.tables, position)) is not None:
            parts.append(encoder.chunk(chunk))
            position = chunk.end
    parts.append(encoder.end())
    held = rows(store)
    store.close()
    assert len(held["packets"]) == PACKETS
    return b"".join(parts), held


def frames(data: bytes) -> list[int]:
    """Where they begin; the trailer's last."""
    decoder, starts = Decoder(), [10]
    for start in range(0, len(data), BACKUP_READ_BYTES):
        for read in decoder.feed(data[start : start + BACKUP_READ_BYTES]):
            starts.append(read.offset)
            end = decoder.offset
    return [*starts, end]


def refused(data: bytes, target: Path) -> BackupError:
    """What both say of it. Nothing is left of the restoring."""
    with pytest.raises(BackupError) as by_verify:
        restore.verify(io.BytesIO(data))
    with pytest.raises(BackupError) as by_restore:
        restore.restore(io.BytesIO(data), target, 1, target / "identity.key")
    assert str(by_verify.value) == str(by_restore.value)
    assert not target.exists()
    return by_restore.value


def test_all_of_many_frames_is_restored(
    tmp_path: Path, source: tuple[bytes, dict[str, list[tuple[bytes, bytes]]]]
) -> None:
    data, held = source
    assert len(frames(data)) > 20
    done = restore.restore(io.BytesIO(data), tmp_path / "new", 3, tmp_path / "new" / "identity.key")
    assert done.header.pairs_total == sum(map(len, held.values()))
    store = Store.open(tmp_path / "new", read_only=True)
    assert rows(store) == held
    store.close()


def test_a_flipped_bit_anywhere_names_its_frame(
    tmp_path: Path, source: tuple[bytes, dict[str, list[tuple[bytes, bytes]]]]
) -> None:
    data, _ = source
    starts, rng = frames(data), random.Random(5)
    for part in range(PLACES):
        byte = rng.randrange(len(data) * part // PLACES, len(data) * (part + 1) // PLACES)
        broken = bytearray(data)
        broken[byte] ^= 1 << rng.randrange(8)
        number = max(n for n, start in enumerate(starts) if start <= byte)
        error = refused(bytes(broken), tmp_path / "new")
        assert error.offset == starts[number]
        assert f"chunk {number}" in str(error)


def test_a_file_cut_short_anywhere_names_its_end_and_the_frame(
    tmp_path: Path, source: tuple[bytes, dict[str, list[tuple[bytes, bytes]]]]
) -> None:
    data, _ = source
    starts = frames(data)
    inside = [len(data) * (part + 1) // PLACES - 1 for part in range(PLACES - 3)]
    for byte in [*inside, starts[7], starts[-1], len(data) - 1]:
        number = max(n for n, start in enumerate(starts) if start <= byte)
        error = refused(data[:byte], tmp_path / "new")
        assert error.offset == byte
        assert f"chunk {number} or the trailer which begins at {starts[number]}" in str(error)


def test_a_directory_that_was_there_keeps_what_was_in_it(
    tmp_path: Path, source: tuple[bytes, dict[str, list[tuple[bytes, bytes]]]]
) -> None:
    data, _ = source
    key = tmp_path / "identity.key"
    Identity.from_seed(bytes(32)).save(key)
    for broken in (data[: len(data) // 2], data[:-1]):
        with pytest.raises(BackupError):
            restore.restore(io.BytesIO(broken), tmp_path, 1, key)
        assert {path.name for path in tmp_path.iterdir()} == {"identity.key", "lock"}
    assert Identity.load(key).endpoint_id == Identity.from_seed(bytes(32)).endpoint_id
    key.write_text("no key")
    with pytest.raises(IdentityError):
        restore.restore(io.BytesIO(data), tmp_path, 1, key)
    (tmp_path / "notes").touch()
    with pytest.raises(ConfigError, match="not empty"):
        restore.restore(io.BytesIO(data), tmp_path, 1, key)
