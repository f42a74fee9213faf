"""The state's tables in memory, with as much of LMDB's interface as the state machine and its readers use.

So the very same functions decide what a command does, with a disk or without. One thread, one
transaction at a time, no way back: for tests and for the deterministic backend.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from aspen.state.store import STATE_TABLES


class MemoryTable:
    """Pairs in key order."""

    __slots__ = ("keys", "pairs")

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []


class MemoryCursor:
    """A place in a table."""

    def __init__(self, table: MemoryTable) -> None:
        self._table = table
        self._at = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(key, self._table.pairs[key]) for key in self._table.keys])

    def first(self) -> bool:
        self._at = 0
        return self._is_inside()

    def last(self) -> bool:
        self._at = max(0, len(self._table.keys) - 1)
        return self._is_inside()

    def set_range(self, key: bytes) -> bool:
        """Go to the first pair whose key is no smaller."""
        self._at = bisect_left(self._table.keys, key)
        return self._is_inside()

    def next(self) -> bool:
        self._at += 1
        return self._is_inside()

    def prev(self) -> bool:
        """Before the first pair is nowhere, as behind the last."""
        self._at = self._at - 1 if self._at else len(self._table.keys)
        return self._is_inside()

    def key(self) -> bytes:
        return self._table.keys[self._at] if self._is_inside() else b""

    def value(self) -> bytes:
        return self._table.pairs[self.key()] if self._is_inside() else b""

    def item(self) -> tuple[bytes, bytes]:
        return self.key(), self.value()

    def _is_inside(self) -> bool:
        return self._at < len(self._table.keys)


class MemoryTxn:
    """Reads and writes at once: there is nobody to be isolated from."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, key: bytes, *, db: MemoryTable) -> bytes | None:
        return db.pairs.get(key)

    def put(self, key: bytes, value: bytes, *, overwrite: bool = True, db: MemoryTable) -> bool:
        if key not in db.pairs:
            insort(db.keys, key)
        elif not overwrite:
            return False
        db.pairs[key] = value
        return True

    def delete(self, key: bytes, *, db: MemoryTable) -> bool:
        if db.pairs.pop(key, None) is None:
            return False
        del db.keys[bisect_left(db.keys, key)]
        return True

    def cursor(self, *, db: MemoryTable) -> MemoryCursor:
        return MemoryCursor(db)

    def stat(self, table: MemoryTable) -> dict[str, int]:
        pages = {"branch_pages": 0, "leaf_pages": 0, "overflow_pages": 0, "psize": 0}  # there is no disk
        return {"entries": len(table.keys), **pages}

    def abort(self) -> None:
        pass


class MemoryEnvironment:
    def begin(self) -> MemoryTxn:
        return MemoryTxn()


class MemoryStore:
    """`aspen.state.store.TableStore` without a disk."""

    def __init__(self) -> None:
        self.tables = {name: MemoryTable() for name in STATE_TABLES}
        self.packets_table = self.tables["packets"]
        self.environment = MemoryEnvironment()

    def begin_read(self) -> MemoryTxn:
        return MemoryTxn()

    @contextmanager
    def read(self) -> Iterator[MemoryTxn]:
        yield MemoryTxn()

    @contextmanager
    def write(self) -> Iterator[MemoryTxn]:
        yield MemoryTxn()
