"""Recovering a survivor: what is left of its log is applied, and the membership becomes itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aspen.errors import ConfigError, StorageError
from aspen.identity import Identity
from aspen.raft.envelope import MARKER, seal
from aspen.raft.messages import (
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    encode_conf_change,
)
from aspen.raft.roster import ChangeContext, Member, NextKey, Roster, encode_context
from aspen.raft.storage import LmdbLog
from aspen.services.recovery import StoppedNode
from aspen.state.commands import encode_command
from aspen.state.kv_commands import KvSet
from aspen.state.kv_reader import LmdbKv
from aspen.state.machine import Machine
from aspen.state.store import DataDirectoryLock, Store

OLD = b"o" * 16
KEYS = {node_id: Identity.generate().endpoint_id for node_id in range(1, 6)}


def member(node_id: int) -> Member:
    return Member(node_id, KEYS[node_id], (("192.0.2.1", 7300 + node_id),), OLD)


def command(index: int) -> Entry:
    data = encode_command(KvSet(((f"k{index}".encode(), b"v"),)))
    return Entry(2, index, EntryKind.NORMAL, seal(index.to_bytes(16, "big"), 1_000 * index, data))


def survivor(data_dir: Path, *, joint: bool = False) -> None:
    """Node 3 of three: its log has ten entries, of which it knows six to be committed, and applied four."""
    voters = ConfState((1, 2, 3), voters_outgoing=(1, 2, 3) if joint else ())
    newcomer = ConfChangeV2(
        (ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 4),),
        context=encode_context(ChangeContext((member(4),))),
    )
    entries = [command(index) for index in range(1, 11)]
    entries[7] = Entry(2, 8, EntryKind.CONF_CHANGE_V2, encode_conf_change(newcomer))
    entries[8] = Entry(2, 9, EntryKind.NORMAL, b"")  # as a leader begins its term
    entries[6] = Entry(2, 7, EntryKind.NORMAL, seal(bytes(16), 1, MARKER + b"anything"))
    store = Store.open(data_dir)
    log, machine = LmdbLog(store), Machine(store)
    log.claim(3, KEYS[3])
    with store.write() as txn:
        log.append(txn, entries)
        log.put_hard_state(txn, HardState(5, 2, 6))
        log.put_roster(txn, Roster(OLD, voters, tuple(member(n) for n in (1, 2, 3)), version=3))
        machine.begin(txn)
        for entry in entries[:4]:
            machine.apply(txn, entry.index, 1_000 * entry.index, entry.data[24:])
        machine.end(txn)
        log.put_applied(txn, 4, 2)
    store.close()


@pytest.mark.parametrize("joint", [False, True])
def test_all_of_its_log_is_kept_and_all_others_are_sent_away(tmp_path: Path, joint: bool) -> None:
    survivor(tmp_path, joint=joint)
    with StoppedNode(tmp_path) as node:
        told = node.survivor
        assert (told.node_id, told.term, told.last_index, told.last_term) == (3, 5, 10, 2)
        assert (told.commit_index, told.applied_index, told.newest_write_ms) == (6, 4, 4_000)
        node.recover()
    store = Store.open(tmp_path)
    log = LmdbLog(store)
    assert log.hard_state == HardState(6, 0, 10)
    assert (log.applied_index, log.applied_term, log.first_index(), log.last_index()) == (10, 2, 11, 10)
    roster = log.roster
    assert roster.conf_state == ConfState((3,))
    assert roster.cluster_id not in (OLD, bytes(16))
    assert [(each.node_id, each.cluster_id) for each in roster.members] == [(3, roster.cluster_id)]
    assert {each.node_id for each in roster.removed} == {1, 2, 4}
    assert roster.former_clusters == (OLD,)
    assert roster.version > 3
    kv = LmdbKv(store)
    there = [n for n in range(1, 11) if kv.get(f"k{n}".encode()) is not None]
    assert there == [1, 2, 3, 4, 5, 6, 10]
    store.close()


def test_a_survivor_in_the_middle_of_changing_its_key_keeps_the_one_it_runs_under(tmp_path: Path) -> None:
    """The membership had the old key still, and the new one for its next."""
    survivor(tmp_path)
    new = Identity.generate().endpoint_id
    store = Store.open(tmp_path)
    log = LmdbLog(store)
    with store.write() as txn:
        log.put_roster(txn, msgspec.structs.replace(log.roster, next_keys=(NextKey(3, new),)))
    log.change_key(3, new)
    store.close()
    with StoppedNode(tmp_path) as node:
        roster = node.recover()
    assert [(each.node_id, each.endpoint_id) for each in roster.members] == [(3, new)]
    assert roster.next_keys == ()
    assert roster.has_removed(KEYS[3])
    assert not roster.has_removed(new)


def test_a_second_recovery_remembers_both_clusters(tmp_path: Path) -> None:
    survivor(tmp_path)
    with StoppedNode(tmp_path) as node:
        first = node.recover()
    with StoppedNode(tmp_path) as node:
        second = node.recover()
    assert second.former_clusters == (OLD, first.cluster_id)
    assert second.removed == first.removed


def test_what_can_not_be_recovered_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the data directory"):
        StoppedNode(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    empty = tmp_path / "empty"
    Store.open(empty).close()
    with pytest.raises(ConfigError, match="belongs to no cluster"):
        StoppedNode(empty)
    survivor(tmp_path / "running")
    lock = DataDirectoryLock(tmp_path / "running")
    with pytest.raises(StorageError, match="in use"):
        StoppedNode(tmp_path / "running")
    lock.release()
    StoppedNode(tmp_path / "running").close()
