"""Is every member's state the same? One hash of all that the log has made, at one log index.

A `Checkpoint` command makes each member look at its state as it is right after that entry: the
writer ends its transaction there, and a thread hashes what a read transaction sees of that moment
while writes go on. What comes of it, each member puts into the log as a `CheckpointReport`; so every
member hears of every hash, whichever of them is asked, and no other way between them is needed.
Reports aren't part of the state: they are kept in memory, the last few.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import blake3
import structlog

from aspen.limits import CHECKPOINT_BATCH_PAIRS, CHECKPOINT_PAUSE_MS, CHECKPOINTS_KEPT, RAFT_MEMBERS
from aspen.state.commands import CheckpointReport
from aspen.state.store import STATE_TABLES, Store, Txn

log = structlog.get_logger("aspen.state")

_LENGTH_BYTES: Final = 8


class Checkpoints:
    """One node's checkpoints: hashing its own, remembering everyone's reports."""

    def __init__(self, store: Store, on_hash: Callable[[int, bytes], None]) -> None:
        """`on_hash` is called with a log index and the hash of the state there, on another thread."""
        self._store = store
        self._on_hash = on_hash
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._reports: dict[int, dict[int, bytes]] = {}
        store.before_leaving.append(self.give_up)

    def take(self, index: int) -> None:
        """The writer thread has committed the state of `index`. One at a time: another is skipped."""
        if self._thread is not None and self._thread.is_alive():
            log.warning("checkpoint skipped: the one before is still being hashed", index=index)
            return
        self._given_up = threading.Event()
        txn = self._store.environment.begin()
        arguments = (index, txn, self._store.tables, self._given_up)
        self._thread = threading.Thread(target=self._hash, args=arguments, name="aspen-hash", daemon=True)
        self._thread.start()

    def give_up(self) -> None:
        """Let go of the moment being hashed; nothing of the store is in use when this returns."""
        self._given_up.set()
        if self._thread is not None:
            self._thread.join()

    def _hash(self, index: int, txn: Txn, tables: dict[str, Any], given_up: threading.Event) -> None:
        try:
            digest = hash_state(txn, tables, given_up)
        finally:
            txn.abort()
        if digest is not None:
            self._on_hash(index, digest)

    def reported(self, report: CheckpointReport) -> None:
        """A report was applied."""
        reports = self._reports.setdefault(report.index, {})
        if report.node_id in reports or len(reports) < 2 * RAFT_MEMBERS:
            reports[report.node_id] = report.digest
        while len(self._reports) > CHECKPOINTS_KEPT:
            del self._reports[min(self._reports)]

    def reports(self, index: int) -> dict[int, bytes]:
        """Node id → hash, of those who have reported on the checkpoint at `index`."""
        return dict(self._reports.get(index, {}))


def hash_state(txn: Txn, tables: dict[str, Any], given_up: threading.Event | None = None) -> bytes | None:
    """BLAKE3 over every pair of every state table, in order; None if it was given up."""
    hasher = blake3.blake3()
    for name in STATE_TABLES:
        hasher.update(_framed(name.encode()))
        for batch in _batches(txn.cursor(db=tables[name])):
            if given_up is not None and given_up.is_set():
                return None
            hasher.update(b"".join(batch))
            time.sleep(CHECKPOINT_PAUSE_MS / 1000)  # the event loop has its turn
    return hasher.digest()


def _batches(cursor: Any) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key, value in cursor:
        # Lengths first: or bytes could move from a key to its value, and nobody would notice.
        batch.append(_framed(key) + _framed(value))
        if len(batch) == CHECKPOINT_BATCH_PAIRS:
            yield batch
            batch = []
    if batch:
        yield batch


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data
