"""The store: one LMDB environment with named tables, holding the Raft log and the state.

Log and state share one environment so that one transaction, hence one fsync, makes both
durable. LMDB is copy-on-write: readers never block, see one moment, and must not linger (a
pinned reader keeps old pages from being reused and the file grows).

One process per data directory, by `flock`. Workers open the same environment read-only.

An environment stands in a folder of its own, `state-<n>`; the file `current` names the one in
use. A snapshot is received into the next folder and becomes current by one `rename`, so a crash
at any moment leaves the old state or the new, whole. Folders that aren't current are remains of
a transfer and are removed at the next start.

A full disk is told from a broken one. Either way nothing has happened: LMDB writes a transaction
to pages that nothing refers to, syncs them, and only then its root. So what failed for want of
room may be tried again, and writes all its pages anew. After a failed sync nothing is tried
again, although the same would hold: that disk can't be trusted with the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, Self

import lmdb

from aspen.errors import StorageError, StorageFull
from aspen.identity import sync_directory
from aspen.limits import LMDB_MAP_BYTES, LMDB_READERS, LMDB_READERS_BYTES, LMDB_TABLES, STORE_ROOM_BYTES

Txn = Any
"""An `lmdb.Transaction`; py-lmdb ships no type information."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk without room says."""


class TableStore(Protocol):
    """What the state machine and the readers of its state need of a store."""

    @property
    def tables(self) -> Mapping[str, Any]: ...

    @property
    def packets_table(self) -> Any: ...

    @property
    def environment(self) -> Any: ...

    def begin_read(self) -> Txn: ...

    def read(self) -> AbstractContextManager[Txn]: ...


SCHEMA: Final = 2
KV_TABLES: Final = (
    "kv",
    "kv_events",
    "kv_history",
    "kv_tombstones",
    "leases",
    "lease_keys",
    "leases_by_renewal",
    "requests",
    "requests_by_time",
)
STATE_TABLES: Final = (
    "machine",
    "settings",
    "packets",
    "packets_by_age",
    "packet_events",
    *KV_TABLES,
    "zones",
    "rrsets",
    "zone_changes",
)
"""What the log has made: equal on all members at the same applied index; a snapshot is these."""
LOCAL_TABLES: Final = ("meta", "log")
"""This node's own part in the consensus."""
TABLES: Final = LOCAL_TABLES + STATE_TABLES
CURRENT_FILE: Final = "current"
_FOLDER: Final = re.compile(r"state-(\d+)")
_META_SCHEMA: Final = b"schema"


def allocate(descriptor: int, size: int) -> None:
    """Give a file that is to be mapped its room on disk now: a store to a mapped page for which
    there is none kills the process (SIGBUS). Raises `OSError`."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, max(size, os.fstat(descriptor).st_size))


def private_opener(path: str, flags: int) -> int:
    """For `open`: what it creates is for this user alone."""
    return os.open(path, flags, 0o600)


def make_private(folder: Path) -> None:
    """Have a folder of the state, which others on the machine can't look into. One of another user's, or one
    that all share (the sticky bit), is left as it is. Raises `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
        folder.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def _is_ours(data_dir: Path) -> bool:
    """Whether nothing else can be meant for others there: it is a node's, or new, or empty."""
    if not data_dir.exists() or any((data_dir / name).exists() for name in (CURRENT_FILE, "identity.key")):
        return True
    return not any(data_dir.iterdir())


class DataDirectoryLock:
    """An exclusive claim on a data directory, held for the life of the process."""

    def __init__(self, data_dir: Path) -> None:
        """Raises `StorageError` naming the holder if another process has the directory."""
        if _is_ours(data_dir):
            make_private(data_dir)
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
    """The LMDB environment in use and its tables, by name: `store.tables["kv"]`.

    `switch` exchanges the environment, so look `environment` and `tables` up at each use.
    """

    def __init__(
        self, data_dir: Path, environment: Any, folder: str, *, read_only: bool, map_bytes: int
    ) -> None:
        self.data_dir = data_dir
        self.environment = environment
        self.folder = folder
        self._read_only = read_only
        self.map_bytes = map_bytes
        self.tables = open_tables(environment, create=not read_only)
        self.before_leaving: list[Callable[[], None]] = []
        """Called before the environment is given up: whoever holds a transaction open lets go."""
        self.packets_table = self.tables["packets"]

    @classmethod
    def open(cls, data_dir: Path, *, read_only: bool = False, map_bytes: int = LMDB_MAP_BYTES) -> Self:
        """Open the current environment of `data_dir`; unless `read_only`, create the first one.

        Raises `StorageError` when the disk, the file or its schema won't do.
        """
        data_dir = Path(data_dir)
        folder = current_folder(data_dir)
        fresh = folder is None
        if folder is None:
            if read_only:
                raise StorageError(f"can't open the store in {data_dir}: there is none")
            folder = "state-1"
        environment = open_environment(data_dir / folder, read_only=read_only, map_bytes=map_bytes)
        store = cls(data_dir, environment, folder, read_only=read_only, map_bytes=map_bytes)
        store._check_schema()
        if fresh:
            make_current(data_dir, folder)
        if not read_only:
            store._remove_others()
        return store

    def _check_schema(self) -> None:
        with self.read() as txn:
            found = txn.get(_META_SCHEMA, db=self.tables["meta"])
        if found is None and not self._read_only:
            with self.write() as txn:
                put_schema(txn, self.tables["meta"])
        elif found is not None and int(found) != SCHEMA:
            raise StorageError(
                f"the store in {self.data_dir} has schema {int(found)}; this version reads {SCHEMA}"
            )

    def _remove_others(self) -> None:
        for path in self.data_dir.glob("state-*"):
            if path.name != self.folder:
                shutil.rmtree(path, ignore_errors=True)

    def next_folder(self) -> str:
        """A folder name for the environment that is to follow this one."""
        match = _FOLDER.fullmatch(self.folder)
        return f"state-{int(match[1]) + 1 if match else 1}"

    def switch(self, folder: str) -> None:
        """Read and write `folder`'s environment from now on, and give up the old one's files.

        No transaction of the old one may be open. `folder` must be current on disk already.
        """
        self._let_go()
        old, old_folder = self.environment, self.folder
        self.environment = open_environment(
            self.data_dir / folder, read_only=self._read_only, map_bytes=self.map_bytes
        )
        self.folder = folder
        self.tables = open_tables(self.environment, create=not self._read_only)
        self.packets_table = self.tables["packets"]
        old.close()
        if not self._read_only:
            # Readers in other processes keep what they have mapped until they look at the epoch.
            # Freeing a large file takes its time, for which nobody should wait.
            path = self.data_dir / old_folder
            threading.Thread(
                target=shutil.rmtree, args=(path, True), name="aspen-remove", daemon=True
            ).start()

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A read transaction: one consistent moment. Keep it short.

        Raises `StorageError` when the store has failed.
        """
        with self.begin_read() as txn:
            yield txn

    def forget_dead_readers(self) -> None:
        """Let go of what processes pin that were killed while they read."""
        self.environment.reader_check()

    def begin_read(self) -> Txn:
        """What `read` enters, for where a microsecond counts. Raises `StorageError`."""
        try:
            return self.environment.begin()
        except lmdb.Error as error:
            raise StorageError(f"the store can't be read: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Txn]:
        """The one write transaction; committed and on disk when the block ends without error.

        Raises `StorageFull` if there is no room (disk, quota or map), else `StorageError` if
        LMDB or the disk failed; nothing is changed then.
        """
        with write_to(self.environment) as txn:
            yield txn

    def close(self) -> None:
        self._let_go()
        self.environment.close()

    def _let_go(self) -> None:
        for let_go in self.before_leaving:
            let_go()


def open_environment(path: Path, *, read_only: bool, map_bytes: int, sync: bool = True) -> Any:
    """Open an LMDB environment. `sync=False` leaves flushing to an explicit `sync(True)`.

    It can grow to `map_bytes`, and to twice what it holds already: a store that has filled its map has room
    again when it is opened anew, and what is on the disk is what bounds it.
    Raises `StorageFull` if there is no room to create it, else `StorageError`.
    """
    try:
        if not read_only:
            make_private(path)
            with open(path / "lock.mdb", "ab", opener=private_opener) as readers:
                allocate(readers.fileno(), LMDB_READERS_BYTES)
        environment = lmdb.open(
            str(path),
            map_size=max(map_bytes, 2 * _size_of(path)),
            max_dbs=LMDB_TABLES,
            max_readers=LMDB_READERS,
            readonly=read_only,
            create=not read_only,
            mode=0o600,
            sync=sync,
            # Pages are reused soon by the next transaction: zeroing them first buys nothing.
            meminit=False,
            # Random access over data that may exceed memory: kernel read-ahead only evicts.
            readahead=False,
        )
        if not read_only:
            environment.reader_check()  # slots of readers that were killed
    except (lmdb.Error, OSError) as error:
        full = isinstance(error, lmdb.DiskError) or (isinstance(error, OSError) and error.errno in FULL)
        kind = StorageFull if full else StorageError
        raise kind(f"can't open the store in {path}: {error}") from None
    return environment


def _size_of(path: Path) -> int:
    """Of an environment's file, if there is one yet."""
    try:
        return (path / "data.mdb").stat().st_size
    except OSError:
        return 0


@contextmanager
def write_to(environment: Any) -> Iterator[Txn]:
    """A write transaction on any environment; errors as `Store.write`."""
    try:
        with environment.begin(write=True) as txn:
            yield txn
    except lmdb.MapFullError as error:
        size_mib = environment.info()["map_size"] // 1_048_576
        raise StorageFull(
            f"the store has reached the {size_mib} MiB that it could grow to: start the node again, "
            "and it may grow to twice that"
        ) from error
    except lmdb.DiskError as error:
        raise StorageFull(f"the store has no room: {error}") from error
    except lmdb.PanicError as error:
        raise StorageError(f"the store could not commit: {error}") from error
    except lmdb.Error as error:
        # LMDB calls a write that the disk took only in part an I/O error.
        if not _has_room(Path(environment.path())):
            raise StorageFull(f"the disk of the store has no room: {error}") from error
        raise StorageError(f"the store could not commit: {error}") from error


def _has_room(path: Path) -> bool:
    """Whether the disk gives us a little more; nobody else knows of quotas and reserves."""
    probe = path / "room"
    try:
        with open(probe, "wb") as file:
            allocate(file.fileno(), STORE_ROOM_BYTES)
    except OSError as error:
        return error.errno not in FULL
    finally:
        probe.unlink(missing_ok=True)
    return True


def open_tables(environment: Any, *, create: bool) -> dict[str, Any]:
    try:
        return {name: environment.open_db(name.encode(), create=create) for name in TABLES}
    except lmdb.Error as error:
        raise StorageError(f"the store has not the tables it should: {error}") from None


def put_schema(txn: Txn, meta: Any) -> None:
    txn.put(_META_SCHEMA, str(SCHEMA).encode(), db=meta)


def current_folder(data_dir: Path) -> str | None:
    """The folder that holds the state; None before there is one. Raises `StorageError`."""
    try:
        folder = (data_dir / CURRENT_FILE).read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"can't read {data_dir / CURRENT_FILE}: {error}") from None
    if not _FOLDER.fullmatch(folder):
        raise StorageError(f"{data_dir / CURRENT_FILE} does not name a state folder")
    return folder


def make_current(data_dir: Path, folder: str) -> None:
    """Make `folder` the state, in one atomic and durable step. Raises `StorageError`."""
    aside = data_dir / (CURRENT_FILE + ".new")
    try:
        sync_directory(data_dir / folder)
        with open(aside, "w", encoding="ascii") as file:
            file.write(folder + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, data_dir / CURRENT_FILE)
        sync_directory(data_dir)
    except OSError as error:
        kind = StorageFull if error.errno in FULL else StorageError
        raise kind(f"can't make {folder} the state in {data_dir}: {error}") from None
