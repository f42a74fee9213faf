"""The key-value store: what `KvSet` and `KvDelete` change, and the readers over the replica.

etcd's model: one global revision, one step per applied write command; each entry knows the
revision that created it, the one that last modified it, and its version since creation. Values
are stored as three u64 (create revision, modification revision, version) ‖ the value's bytes.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.state.apply import ApplyContext
from aspen.state.kv_commands import KvDelete, KvResult, KvSet
from aspen.state.store import TableStore, Txn

_HEADER: Final = struct.Struct(">QQQ")
_U64: Final = struct.Struct(">Q")
_REVISION: Final = b"kv_revision"
"""In table `machine`."""


class KvEntry(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


class KvPage(NamedTuple):
    """One page of a scan, in key order; `more` says that the prefix goes on after it."""

    entries: tuple[KvEntry, ...]
    more: bool
    revision: int


def _decode(key: bytes, value: bytes) -> KvEntry:
    create_revision, mod_revision, version = _HEADER.unpack_from(value)
    return KvEntry(key, value[_HEADER.size :], create_revision, mod_revision, version)


def read_revision(store: TableStore, txn: Txn) -> int:
    value = txn.get(_REVISION, db=store.tables["machine"])
    return 0 if value is None else int(_U64.unpack(value)[0])


def _next_revision(store: TableStore, txn: Txn) -> int:
    revision = read_revision(store, txn) + 1
    txn.put(_REVISION, _U64.pack(revision), db=store.tables["machine"])
    return revision


def apply_kv_set(context: ApplyContext, command: KvSet) -> KvResult:
    store, txn = context.store, context.txn
    table = store.tables["kv"]
    revision = _next_revision(store, txn)
    pairs = dict(command.pairs)  # the last pair of a key wins; insertion order is the command's
    for key, value in pairs.items():
        old = txn.get(key, db=table)
        if old is None:
            create_revision, version = revision, 1
        else:
            create_revision, _, version = _HEADER.unpack_from(old)
            version += 1
        txn.put(key, _HEADER.pack(create_revision, revision, version) + value, db=table)
    return KvResult(revision, len(pairs))


def apply_kv_delete(context: ApplyContext, command: KvDelete) -> KvResult:
    """Delete the keys that exist. Deleting nothing leaves the revision where it was."""
    store, txn = context.store, context.txn
    table = store.tables["kv"]
    changed = sum(1 for key in command.keys if txn.delete(key, db=table))
    revision = _next_revision(store, txn) if changed else read_revision(store, txn)
    return KvResult(revision, changed)


class LmdbKv:
    """Reads keys from the local replica."""

    __slots__ = ("_store", "_table")

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, key: bytes) -> KvEntry | None:
        with self._store.read() as txn:
            value = txn.get(key, db=self._store.tables["kv"])
        return None if value is None else _decode(key, value)

    def scan(self, prefix: bytes, after: bytes | None, limit: int, max_bytes: int) -> KvPage:
        """Entries under `prefix`, after the key `after` if given, in key order.

        Ends at `limit` entries or before the page exceeds `max_bytes` of keys and values, but
        always holds at least one entry if there is one.
        """
        entries: list[KvEntry] = []
        size, more = 0, False
        with self._store.read() as txn:
            revision = read_revision(self._store, txn)
            cursor = txn.cursor(db=self._store.tables["kv"])
            start = prefix if after is None else max(prefix, after + b"\0")
            found = cursor.set_range(start) if start else cursor.first()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    break
                size += len(key) + len(value) - _HEADER.size
                if len(entries) == limit or (entries and size > max_bytes):
                    more = True
                    break
                entries.append(_decode(key, value))
                found = cursor.next()
        return KvPage(tuple(entries), more, revision)

    def revision(self) -> int:
        with self._store.read() as txn:
            return read_revision(self._store, txn)
