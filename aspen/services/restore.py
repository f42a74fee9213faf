"""Reading backups: checking one, and making a new cluster of one.

A restored data directory is that of a node whose log was cut right behind the backup's last entry: the
state stands for all of it. It belongs to a *new* cluster with this node as its only voter, so it never
mistakes the cluster that was backed up for its own, nor is mistaken for a member of it. Others join it
as learners and are sent the state.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from aspen.errors import BackupError, ConfigError, StorageError
from aspen.identity import Identity
from aspen.limits import BACKUP_COMMIT_CHUNKS, BACKUP_READ_BYTES, LMDB_MAP_BYTES
from aspen.raft.messages import HardState
from aspen.raft.roster import CLUSTER_ID_BYTES, Member, roster_of_one
from aspen.raft.storage import Installed, NodeRecord, put_own_part
from aspen.state.backup_format import Decoder, Header, ReadChunk
from aspen.state.snapshot import Position, write_chunk
from aspen.state.store import (
    SCHEMA,
    DataDirectoryLock,
    make_current,
    open_environment,
    open_tables,
    write_to,
)

Progress = Callable[[Decoder], None]
"""Called now and then with how far the reading has come."""

_FOLDER: Final = "state-1"
_MAY_BE_THERE: Final = frozenset({"identity.key", "lock"})


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made of a backup."""

    header: Header
    cluster_id: bytes
    node_id: int
    endpoint_id: bytes


def verify(file: IO[bytes], progress: Progress = lambda _: None) -> Decoder:
    """Read all of a backup. Raises `BackupError` at the first byte that is wrong."""
    decoder = Decoder()
    for _ in _chunks(file, decoder, progress):
        pass
    return decoder


def restore(
    file: IO[bytes],
    data_dir: Path,
    node_id: int,
    identity_file: Path,
    addresses: tuple[tuple[str, int], ...] = (),
    progress: Progress = lambda _: None,
) -> Restored:
    """Make a data directory of a new cluster of one. What is there already is never overwritten.

    Raises `ConfigError` if the directory is in use or holds anything but a node's key, `BackupError`
    for a backup that is damaged, `StorageError` if the disk fails; nothing is left behind then.
    """
    is_new = not data_dir.exists()
    if not is_new:
        there = sorted(path.name for path in data_dir.iterdir() if path.name not in _MAY_BE_THERE)
        if there:
            raise ConfigError(
                f"{data_dir} is not empty (it has {', '.join(there[:3])}): restore into a new directory"
            )
    lock = DataDirectoryLock(data_dir)
    try:
        known = Identity.load(identity_file) if identity_file.exists() else None
        decoder, cluster_id = Decoder(), secrets.token_bytes(CLUSTER_ID_BYTES)
        with _aside(data_dir / _FOLDER) as environment:
            tables = open_tables(environment, create=True)
            _fill(environment, tables, _chunks(file, decoder, progress), decoder)
            header = decoder.header
            if header is None:
                raise BackupError("a backup without a header")
            identity = known or Identity.load_or_create(identity_file)
            member = Member(node_id, identity.endpoint_id, addresses, cluster_id)
            hard_state = HardState(header.term, 0, header.index)
            own = Installed(header.index, header.term, hard_state, roster_of_one(member))
            with write_to(environment) as txn:
                put_own_part(txn, tables, NodeRecord(node_id, identity.endpoint_id), own)
            environment.sync(True)
        make_current(data_dir, _FOLDER)
    except BaseException:
        if is_new:
            shutil.rmtree(data_dir, ignore_errors=True)
        raise
    finally:
        lock.release()
    return Restored(header, cluster_id, node_id, identity.endpoint_id)


@contextmanager
def _aside(path: Path) -> Iterator[Any]:
    """A fresh environment; its files go if it can't be filled."""
    environment = open_environment(path, read_only=False, map_bytes=LMDB_MAP_BYTES, sync=False)
    try:
        yield environment
    except BaseException:
        environment.close()
        shutil.rmtree(path, ignore_errors=True)
        raise
    environment.close()


def _fill(environment: Any, tables: dict[str, Any], chunks: Iterator[ReadChunk], decoder: Decoder) -> None:
    position, more = Position(), True
    while more:
        with write_to(environment) as txn:
            for _ in range(BACKUP_COMMIT_CHUNKS):
                read = next(chunks, None)
                if read is None:
                    more = False
                    break
                if decoder.header is not None and decoder.header.schema != SCHEMA:
                    raise BackupError(
                        f"its store has schema {decoder.header.schema}; this version has {SCHEMA}"
                    )
                try:
                    position = write_chunk(txn, tables, read.chunk, position)
                except StorageError as error:
                    raise BackupError(str(error), read.offset) from None


def _chunks(file: IO[bytes], decoder: Decoder, progress: Progress) -> Iterator[ReadChunk]:
    """All chunks of a file, checked; the file's end too. Raises `BackupError`."""
    while data := file.read(BACKUP_READ_BYTES):
        yield from decoder.feed(data)
        progress(decoder)
    decoder.finish()
