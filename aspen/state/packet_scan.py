"""All packets of the replica, a page at a time."""

from __future__ import annotations

from aspen.state.packets import decode_record
from aspen.state.store import TableStore

_KEY_BYTES = 32


class LmdbPacketScan:
    """Reads the packets of the local replica in the order of their keys."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def payloads(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """(public key, payload) of at most `limit` packets under keys beyond `after` (`b""`: from the first).

        Tombstones are left out. Fewer than `limit` mean that there are no more.
        """
        found: list[tuple[bytes, bytes]] = []
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.packets_table)
            going = cursor.set_range(after + b"\0") if after else cursor.first()
            while going and len(found) < limit:
                key, value = bytes(cursor.key()), bytes(cursor.value())
                record = decode_record(key, value)
                if not record.tombstone:
                    found.append((key, record.payload))
                going = cursor.next()
        return found
