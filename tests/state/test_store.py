"""The store and the status page: one owner, a schema, shared words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from aspen.errors import InvariantViolation, StorageError, StorageFull
from aspen.limits import LMDB_READERS, LMDB_READERS_BYTES
from aspen.state.packets import LmdbPackets
from aspen.state.status_page import GENERATION, StatusPage
from aspen.state.store import DataDirectoryLock, Store, allocate

MAP_BYTES = 16 * 1024**2


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = DataDirectoryLock(tmp_path)
    script = (
        "import sys; from pathlib import Path; from aspen.state.store import DataDirectoryLock\n"
        "from aspen.errors import StorageError\n"
        "try: DataDirectoryLock(Path(sys.argv[1]))\n"
        "except StorageError as error: print(error)\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert f"in use by process {os.getpid()}" in second.stdout
    lock.release()
    DataDirectoryLock(tmp_path).release()


def test_what_a_write_did_is_gone_if_it_failed(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)

    def fail_half_way() -> None:
        with store.write() as txn:
            txn.put(b"k", b"v", db=store.tables["kv"])
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        fail_half_way()
    with store.read() as txn:
        assert txn.get(b"k", db=store.tables["kv"]) is None
    store.close()


def test_a_full_map_changes_nothing_and_what_fits_is_still_taken(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=256 * 1024)
    kv = store.tables["kv"]

    def write_both() -> None:
        with store.write() as txn:
            txn.put(b"small", b"v", db=kv)
            txn.put(b"large", bytes(1024 * 1024), db=kv)

    with pytest.raises(StorageFull):
        write_both()
    with store.write() as txn:
        assert txn.get(b"small", db=kv) is None
        txn.put(b"small", b"w", db=kv)
    store.close()


def put(store: Store, key: bytes) -> None:
    with store.write() as txn:
        txn.put(key, bytes(8_192), db=store.tables["kv"])


def fill(store: Store, mark: bytes) -> int:
    """How many values went in before there was no room."""
    for number in range(10_000):
        try:
            put(store, b"%s%d" % (mark, number))
        except StorageFull:
            return number
    raise AssertionError("it is never full")


def test_a_store_that_has_filled_its_map_has_room_again_when_it_is_opened_anew(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=256 * 1024)
    before = fill(store, b"before")
    with pytest.raises(StorageFull, match="start the node again"):
        put(store, b"another")
    store.close()
    store = Store.open(tmp_path, map_bytes=256 * 1024)
    assert fill(store, b"after") > before / 2
    store.close()


def full_disk(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("aspen.state.store.allocate", refuse)


@pytest.mark.parametrize(
    ("failure", "probe", "kind"),
    [
        (lmdb.DiskError("no space left on device"), None, StorageFull),
        (lmdb.Error("mdb_txn_commit: Input/output error"), errno.ENOSPC, StorageFull),  # a write cut short
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), errno.EDQUOT, StorageFull),
        (lmdb.Error("mdb_txn_commit: Input/output error"), None, StorageError),  # a failed sync
        (lmdb.Error("mdb_txn_commit: Input/output error"), errno.EIO, StorageError),
        (lmdb.PanicError("the root could not be written"), errno.ENOSPC, StorageError),
    ],
)
def test_a_full_disk_is_told_from_a_broken_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: lmdb.Error,
    probe: int | None,
    kind: type[StorageError],
) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    if probe is not None:
        full_disk(store, monkeypatch, probe)
    with pytest.raises(StorageError) as caught, store.write():
        raise failure
    assert type(caught.value) is kind
    assert sorted(path.name for path in (tmp_path / store.folder).iterdir()) == ["data.mdb", "lock.mdb"]
    store.close()


def test_lmdb_keeps_its_readers_in_a_file_of_the_size_we_give_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    assert store.environment.info()["max_readers"] == LMDB_READERS
    assert (tmp_path / store.folder / "lock.mdb").stat().st_size == LMDB_READERS_BYTES
    store.close()


def test_no_room_for_a_new_store_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB alone would map a file without room for its pages, and die of it."""

    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("aspen.state.store.allocate", refuse)
    with pytest.raises(StorageFull):
        Store.open(tmp_path, map_bytes=MAP_BYTES)


def test_what_is_mapped_has_its_room_on_disk_from_the_start(tmp_path: Path) -> None:
    """A store to a mapped page that the disk has no room for would kill the process."""
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    StatusPage.create(tmp_path / "page", workers=64).close()
    for path in (tmp_path / store.folder / "lock.mdb", tmp_path / "page"):
        found = path.stat()
        assert found.st_blocks * 512 >= found.st_size
    store.close()


def test_a_full_disk_gives_a_new_page_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StatusPage.create(tmp_path / "page", workers=1).close()

    def room_for_one(descriptor: int, size: int) -> None:
        if (tmp_path / "page").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, size)

    monkeypatch.setattr("aspen.state.status_page.allocate", room_for_one)
    StatusPage.create(tmp_path / "page", workers=1).close()
    StatusPage.open(tmp_path / "page").close()


def test_a_store_that_failed_says_so_to_readers(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    packets = LmdbPackets(store)
    store.close()
    with pytest.raises(StorageError):
        packets.get(bytes(32))
    with pytest.raises(StorageError), store.read():
        pass


def test_another_schema_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    with store.write() as txn:
        txn.put(b"schema", b"99", db=store.tables["meta"])
    store.close()
    with pytest.raises(StorageError, match="schema 99"):
        Store.open(tmp_path, map_bytes=MAP_BYTES)


def test_a_reader_process_needs_an_existing_store(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't open the store"):
        Store.open(tmp_path, read_only=True)


def test_the_page_is_shared_between_its_openers(tmp_path: Path) -> None:
    path = tmp_path / "status.page"
    node = StatusPage.create(path, workers=2)
    worker = StatusPage.open(path)
    node.generation = 7
    worker.worker(1).add(3, 5)
    worker.worker(1).add(3, 1)
    assert worker.words[GENERATION] == 7
    assert node.worker(1).get(3) == 6
    assert node.worker(0).get(3) == 0
    with pytest.raises(InvariantViolation):
        worker.worker(2)
    node.close()
    worker.close()


def test_a_new_run_replaces_the_page_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "status.page"
    old = StatusPage.create(path, workers=1)
    old.generation = 99
    new = StatusPage.create(path, workers=1)
    old.worker(0).add(0, 1)
    assert (new.generation, new.worker(0).get(0)) == (0, 0)
    old.close()
    new.close()


def test_a_file_that_is_no_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "status.page"
    path.write_bytes(bytes(2**20))
    with pytest.raises(StorageError, match="not a status page"):
        StatusPage.open(path)
    path.write_bytes(b"short")
    with pytest.raises(StorageError, match="too short"):
        StatusPage.open(path)
