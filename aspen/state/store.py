"""The store: one LMDB environment with named tables, holding the Raft log and the state.

Log and state share one environment so that one transaction, hence one fsync, makes both
durable. LMDB is copy-on-write: readers never block, see one moment, and must not linger (a
pinned reader keeps old pages from being reused and the file grows).

One process per data directory, by `flock`. Workers open the same environment read-only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import lmdb

from aspen.errors import StorageError
from aspen.limits import LMDB_MAP_BYTES, LMDB_READERS, LMDB_TABLES

Txn = Any
"""An `lmdb.Transaction`; py-lmdb ships no type information."""

SCHEMA: Final = 1
TABLES: Final = ("meta", "log", "packets", "packets_by_age", "kv")
_META_SCHEMA: Final = b"schema"


class DataDirectoryLock:
    """An exclusive claim on a data directory, held for the life of the process."""

    def __init__(self, data_dir: Path) -> None:
        """Raises `StorageError` naming the holder if another process has the directory."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StorageError(f"the data directory {data_dir} is in use by process {holder}") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


class Store:
    """The LMDB environment and its tables, by name: `store.tables["kv"]`."""

    def __init__(self, environment: Any, tables: dict[str, Any], path: Path) -> None:
        self.environment = environment
        self.tables = tables
        self.path = path

    @classmethod
    def open(cls, data_dir: Path, *, read_only: bool = False, map_bytes: int = LMDB_MAP_BYTES) -> Self:
        """Open (and unless `read_only`, create) the environment in `data_dir`.

        Raises `StorageError` when the disk, the file or its schema won't do.
        """
        path = Path(data_dir) / "state"
        try:
            if not read_only:
                path.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=LMDB_TABLES,
                max_readers=LMDB_READERS,
                readonly=read_only,
                create=not read_only,
                # Pages are reused soon by the next transaction: zeroing them first buys nothing.
                meminit=False,
                # Random access over data that may exceed memory: kernel read-ahead only evicts.
                readahead=False,
            )
            if not read_only:
                environment.reader_check()  # slots of readers that were killed
            tables = {name: environment.open_db(name.encode(), create=not read_only) for name in TABLES}
        except lmdb.Error as error:
            raise StorageError(f"can't open the store in {path}: {error}") from None
        except OSError as error:
            raise StorageError(f"can't open the store in {path}: {error}") from None
        store = cls(environment, tables, path)
        store._check_schema(read_only)
        return store

    def _check_schema(self, read_only: bool) -> None:
        with self.read() as txn:
            found = txn.get(_META_SCHEMA, db=self.tables["meta"])
        if found is None and not read_only:
            with self.write() as txn:
                txn.put(_META_SCHEMA, str(SCHEMA).encode(), db=self.tables["meta"])
        elif found is not None and int(found) != SCHEMA:
            raise StorageError(
                f"the store in {self.path} has schema {int(found)}; this version reads {SCHEMA}"
            )

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A read transaction: one consistent moment. Keep it short."""
        with self.environment.begin() as txn:
            yield txn

    @contextmanager
    def write(self) -> Iterator[Txn]:
        """The one write transaction; committed and on disk when the block ends without error.

        Raises `StorageError` if LMDB can't (map or disk full, I/O error); nothing is changed then.
        """
        try:
            with self.environment.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise StorageError(f"the store could not commit: {error}") from error

    def close(self) -> None:
        self.environment.close()
