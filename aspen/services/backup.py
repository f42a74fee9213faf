"""Backups of a running node: one moment of its state, read while all else goes on.

A backup is made within one read transaction, chunk by chunk on a thread, as fast as its reader takes
it and no faster: nothing is kept in memory but a chunk, and writes go on beside it. An open
transaction keeps the pages of its moment from being reused, so backups are bounded in number and time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import structlog

from aspen import __version__
from aspen.errors import HttpError, StorageError
from aspen.http.backup import BackupRoutes
from aspen.http.errors import RETRY_AFTER_SECONDS
from aspen.http.routing import Router
from aspen.limits import BACKUP_MS, BACKUP_PAUSE_MS, BACKUPS
from aspen.raft.cluster import Consensus
from aspen.raft.ports import Clock
from aspen.raft.roster import Roster
from aspen.state.backup_format import BackupMember, Encoder, Header
from aspen.state.kv_revisions import read_state
from aspen.state.snapshot import Position, read_chunk
from aspen.state.store import SCHEMA, STATE_TABLES, Store, Txn

log = structlog.get_logger("aspen.services.backup")


class Backups:
    """Makes backups of this node's replica."""

    def __init__(self, store: Store, consensus: Consensus, clock: Clock) -> None:
        self._store = store
        self._consensus = consensus
        self._clock = clock
        self._open: set[_Moment] = set()
        self.completed = 0
        self.broken_off = 0
        self.last_s = 0.0
        """When the last one was complete, in seconds since 1970; 0 if none was since the start."""
        store.before_leaving.append(self._give_up)

    def serve(self, admin: Router) -> Self:
        """Have them asked for by HTTP."""
        BackupRoutes(self.stream).add_routes(admin)
        return self

    def _give_up(self) -> None:
        """The store leaves its environment: backups under way end as broken off."""
        for moment in list(self._open):
            moment.close()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The bytes of a backup of the state as it is now. Close it when it is not read to its end.

        Raises `HttpError` if too many are under way or there is nothing to back up, `StorageError`
        if it is broken off.
        """
        if len(self._open) >= BACKUPS:
            retry = {"Retry-After": RETRY_AFTER_SECONDS}
            raise HttpError(503, "overloaded", "a backup of this node is being made already", headers=retry)
        moment = _Moment(self._store)
        self._open.add(moment)
        try:
            header = await asyncio.to_thread(moment.use, self._header)
            deadline = time.monotonic() + BACKUP_MS / 1000
            log.info("backup begins", index=header.index, pairs=header.pairs_total)
            encoder = Encoder()
            yield encoder.begin(header)
            position: Position | None = Position()
            while position is not None:
                if time.monotonic() > deadline:
                    raise StorageError(f"the backup took longer than {BACKUP_MS // 60_000} minutes")
                began = time.monotonic()
                data, position = await asyncio.to_thread(moment.use, _reading(encoder, position))
                took_s = time.monotonic() - began
                yield data
                # As long as that took, whoever else wants the interpreter has it to himself.
                await asyncio.sleep(max(took_s, BACKUP_PAUSE_MS / 1000))
            yield encoder.end()
            log.info("backup ends", index=header.index)
            self.completed, self.last_s = self.completed + 1, self._clock.wall_ms() / 1000
        except (GeneratorExit, StorageError):
            self.broken_off += 1
            raise
        finally:
            self._open.discard(moment)
            moment.close()

    def _header(self, txn: Txn, tables: dict[str, Any]) -> Header:
        index, term, roster = self._consensus.applied_in(txn)
        if index == 0:
            raise HttpError(409, "not_initialized", "this node belongs to no cluster: it has nothing yet")
        return Header(
            schema=SCHEMA,
            cluster_id=roster.cluster_id,
            node_id=self._consensus.node_id,
            index=index,
            term=term,
            revision=read_state(self._store, txn).revision,
            created_at_ms=self._clock.wall_ms(),
            aspen_version=__version__,
            members=_members(roster),
            tables=STATE_TABLES,
            pairs={name: int(txn.stat(tables[name])["entries"]) for name in STATE_TABLES},
        )


class _Moment:
    """A read transaction that one thread at a time uses, and that can be taken away between two uses."""

    def __init__(self, store: Store) -> None:
        self._txn: Txn | None = store.begin_read()
        self._tables = store.tables
        self._lock = threading.Lock()

    def use(self, act: Callable[[Txn, dict[str, Any]], Any]) -> Any:
        with self._lock:
            if self._txn is None:
                raise StorageError("the backup was broken off: the store has been replaced or closed")
            return act(self._txn, self._tables)

    def close(self) -> None:
        with self._lock:
            if self._txn is not None:
                self._txn.abort()
                self._txn = None


def _reading(encoder: Encoder, position: Position) -> Callable[..., tuple[bytes, Position | None]]:
    def read(txn: Txn, tables: dict[str, Any]) -> tuple[bytes, Position | None]:
        chunk = read_chunk(txn, tables, position)
        return (b"", None) if chunk is None else (encoder.chunk(chunk), chunk.end)

    return read


def _members(roster: Roster) -> tuple[BackupMember, ...]:
    voters = {*roster.conf_state.voters, *roster.conf_state.voters_outgoing}
    return tuple(BackupMember(m.node_id, m.endpoint_id, m.node_id in voters) for m in roster.members)
