"""Recovering a cluster that has lost its majority for good: one surviving node becomes a new cluster.

This is the one place where a membership changes without a majority's consent, so it is done by hand, on a
stopped node, knowing what it costs: writes that only the lost members had are gone.

Every entry in the survivor's log is taken for committed, whether the leader came to tell so or not: one
that was acknowledged may be among them, and one that was not may have happened all the same. Then the log
ends, the state stands for it, and the membership is this node alone, under a new cluster id. It remembers
the old id: a lost member that comes back with it is told that it was removed, and never heard.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from aspen.errors import ConfigError, StorageError
from aspen.raft.envelope import MARKER, open_envelope
from aspen.raft.messages import Entry, EntryKind, HardState, decode_conf_change
from aspen.raft.roster import CLUSTER_ID_BYTES, Roster, decode_context
from aspen.raft.storage import Installed, LmdbLog, put_own_part
from aspen.state.machine import Machine
from aspen.state.store import DataDirectoryLock, Store, current_folder

_ALL: Final = 2**63


@dataclass(frozen=True, slots=True)
class Survivor:
    """What a stopped node has."""

    node_id: int
    roster: Roster
    term: int
    """The newest it has heard of."""
    last_index: int
    last_term: int
    """Of the last entry in its log: of several survivors, the one with the highest term, and among those
    the highest index, has most."""
    commit_index: int
    applied_index: int
    newest_write_ms: int
    """When the leader took in the newest write that is applied here."""
    disk_written_ms: int
    """When this node last wrote to its disk: it had contact until about then."""


class StoppedNode:
    """The data directory of a node that does not run. Use as a context manager."""

    def __init__(self, data_dir: Path) -> None:
        """Raises `ConfigError` if there is no node's state, `StorageError` if the node runs."""
        if not data_dir.is_dir() or current_folder(data_dir) is None:
            raise ConfigError(f"{data_dir} is not the data directory of a node")
        self._lock = DataDirectoryLock(data_dir)
        try:
            self._store = Store.open(data_dir)
        except BaseException:
            self._lock.release()
            raise
        written = (data_dir / self._store.folder / "data.mdb").stat().st_mtime_ns // 1_000_000
        try:
            self._log = LmdbLog(self._store)
            self.survivor = self._look(written)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoppedNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()
        self._lock.release()

    def _look(self, written_ms: int) -> Survivor:
        log, machine = self._log, Machine(self._store)
        if log.node is None or not log.roster.members:
            raise ConfigError(f"the node of {self._store.data_dir} belongs to no cluster")
        with self._store.read() as txn:
            machine.begin(txn)
        last = log.last_index()
        return Survivor(
            node_id=log.node.node_id,
            roster=log.roster,
            term=log.hard_state.term,
            last_index=last,
            last_term=log.term(last),
            commit_index=log.hard_state.commit,
            applied_index=log.applied_index,
            newest_write_ms=machine.time_ms,
            disk_written_ms=written_ms,
        )

    def recover(self) -> Roster:
        """Make this node a cluster of its own. All of it happens, or nothing. Raises `StorageError`."""
        log, node = self._log, self._log.node
        if node is None:
            raise StorageError("a node without identity")
        last = log.last_index()
        roster = log.roster
        if roster.member(node.node_id) is None:
            raise ConfigError(f"node {node.node_id} is no member of its cluster: recover another one")
        machine = Machine(self._store)
        with self._store.write() as txn:
            machine.begin(txn)
            for entry in self._unapplied(last):
                roster = self._apply(machine, txn, entry, roster)
            machine.end(txn)
            roster = roster.recovered(node.node_id, node.endpoint_id, secrets.token_bytes(CLUSTER_ID_BYTES))
            txn.drop(self._store.tables["log"], delete=False)
            own = Installed(last, log.term(last), HardState(log.hard_state.term + 1, 0, last), roster)
            put_own_part(txn, self._store.tables, node, own)
        return roster

    def _unapplied(self, last: int) -> list[Entry]:
        first = self._log.applied_index + 1
        return self._log.entries(first, last + 1, _ALL) if first <= last else []

    def _apply(self, machine: Machine, txn: Any, entry: Entry, roster: Roster) -> Roster:
        if entry.kind is not EntryKind.NORMAL:
            # Whom it would have brought in is left behind like the others.
            context = decode_context(decode_conf_change(entry).context)
            known = {member.node_id: member for member in (*roster.members, *context.members)}
            return msgspec.structs.replace(roster, members=tuple(known.values()), version=roster.version + 1)
        if entry.data:
            _, proposed_at_ms, command = open_envelope(entry.data)
            if not command.startswith(MARKER):
                machine.apply(txn, entry.index, proposed_at_ms, command)
        return roster
