"""All members look at their state at one index, while writes go on: equal, unless one of them is not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from in_process import MAP_BYTES, Member, cluster, leader_of, put, state_of

from aspen.errors import ControlPlaneError
from aspen.limits import CHECKPOINTS_KEPT, RAFT_MEMBERS
from aspen.raft.envelope import seal
from aspen.raft.messages import Entry
from aspen.raft.writer import WriteJob, _split_at_checkpoints
from aspen.services.cluster_check import ClusterCheck, compare
from aspen.state import checkpoint
from aspen.state.checkpoint import Checkpoints, hash_state
from aspen.state.commands import Checkpoint, CheckpointReport, CheckpointResult, encode_command
from aspen.state.machine import Machine
from aspen.state.store import Store

CHECKPOINT = Machine.checkpoint_command


async def checking(members: dict[int, Member]) -> dict[int, ClusterCheck]:
    """Every member ready to check, as nodes are."""
    checks = {}
    for n, member in members.items():
        check = checks[n] = ClusterCheck(member.store)
        check.start(member.consensus, member.proposer)
        member.machine._checkpoints = check.checkpoints
        await member.consensus.read_barrier()
    return checks


async def test_members_agree_in_the_midst_of_writes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        checks = await checking(members)
        writes = [put(members[1 + i % 3], b"k%d" % (i % 7), b"%d" % i) for i in range(120)]
        load = asyncio.gather(*writes)
        reports = [await checks[n].check(timeout_ms=5_000) for n in (1, 2, 3)]
        await load
        for report in reports:
            assert report.alike
            assert [member.node_id for member in report.members] == [1, 2, 3]
        assert len({report.index for report in reports}) == 3
        for check in checks.values():
            await check.stop()


async def test_the_hash_is_that_of_the_very_index(tmp_path: Path) -> None:
    """Not of a little later, whatever else was in the same batch."""
    async with cluster(tmp_path, 1) as members:
        member = members[1]
        (check,) = (await checking(members)).values()
        hashes: dict[int, bytes] = {}
        member.machine._checkpoints = Checkpoints(member.store, hashes.__setitem__)
        first = asyncio.ensure_future(put(member, b"k", b"1"))
        at = asyncio.ensure_future(member.proposer.propose(Checkpoint()))
        last = asyncio.ensure_future(put(member, b"k", b"2"))
        result = await at
        assert isinstance(result, CheckpointResult)
        await asyncio.gather(first, last)
        async with asyncio.timeout(30):
            while result.index not in hashes:  # noqa: ASYNC110  a thread writes it
                await asyncio.sleep(0.005)
        assert state_of(member)["kv"][0][1].endswith(b"2")
        # The same again, in a store of its own, up to that index only.
        replay = Store.open(tmp_path / "replay", map_bytes=MAP_BYTES)
        machine = Machine(replay)
        with replay.write() as txn:
            machine.begin(txn)
            for index in range(1, result.index + 1):
                entry = member.consensus._log_storage.entries(index, index + 1, 1 << 20)[0]
                if entry.data and not entry.kind:
                    time_ms = int.from_bytes(entry.data[16:24], "big")
                    machine.apply(txn, index, time_ms, entry.data[24:])
            machine.end(txn)
        with replay.read() as txn:
            assert hash_state(txn, replay.tables) == hashes[result.index]
        replay.close()
        await check.stop()


async def test_a_replica_that_differs_is_named_and_one_that_is_away_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as members:
        checks = await checking(members)
        await put(members[1], b"k", b"v")
        leader = leader_of(members)
        liar, away = (m for m in members.values() if m is not leader)
        await liar.consensus.read_barrier()
        with liar.store.write() as txn:
            txn.put(b"k", bytes(24) + b"w", db=liar.store.tables["kv"])
        report = await checks[leader.node_id].check(timeout_ms=5_000)
        assert not report.alike
        assert [m.node_id for m in report.members if m.state == "differs"] == [liar.node_id]
        leader.network.cut = {away.node_id}
        report = await checks[leader.node_id].check(timeout_ms=300)
        states = {m.node_id: m.state for m in report.members}
        assert states == {leader.node_id: "alike", liar.node_id: "differs", away.node_id: "silent"}
        # Nobody waits long for a member that isn't reached; asked again, only for what is still missing.
        checks[leader.node_id]._reaches = lambda endpoint_id: endpoint_id != away.consensus.endpoint_id
        monkeypatch.setattr("aspen.services.cluster_check.CHECKPOINT_UNREACHED_MS", 50)
        async with asyncio.timeout(30):
            report = await checks[leader.node_id].check(timeout_ms=3_600_000)
        assert [m.node_id for m in report.members if not m.reached] == [away.node_id]
        leader.network.cut = set()
        again = await checks[leader.node_id].check(timeout_ms=5_000, index=report.index)
        assert again.index == report.index
        for check in checks.values():
            await check.stop()


async def test_a_node_without_a_cluster_checks_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        (check,) = (await checking(members)).values()
        members[1].consensus.driver.roster = type(members[1].consensus.roster)()
        with pytest.raises(ControlPlaneError.NotInitialized):
            await check.check(timeout_ms=0)
        await check.stop()


def test_most_are_right_and_of_equals_the_leader() -> None:
    one, two = b"1" * 32, b"2" * 32
    three = compare(7, [1, 2, 3], {1: one, 2: two, 3: two}, leader_id=1, reached=[1, 2])
    assert [m.reached for m in three.members] == [True, True, False]
    assert [m.state for m in three.members] == ["differs", "alike", "alike"]
    pair = compare(7, [1, 2], {1: one, 2: two}, leader_id=2, reached=[1, 2])
    assert [m.state for m in pair.members] == ["differs", "alike"]
    assert compare(7, [1, 2], {1: one, 2: one}, leader_id=0, reached=[]).alike
    nobody = compare(7, [1], {}, leader_id=1, reached=[1])
    assert not nobody.alike
    assert nobody.members[0].hash is None


# --- the parts ----------------------------------------------------------------------------------


def entry(index: int, command: bytes) -> Entry:
    return Entry(1, index, data=seal(b"r" * 16, 0, command))


def test_transactions_end_behind_checkpoints() -> None:
    set_, noop = b"\x92\x02\x90", Entry(1, 9)
    first = WriteJob(committed=(entry(1, set_), entry(2, CHECKPOINT), entry(3, set_)))
    second = WriteJob(entries=(entry(4, set_),))
    third = WriteJob(committed=(noop, entry(10, CHECKPOINT)))
    parts = _split_at_checkpoints([first, second, third], CHECKPOINT)
    shape = [
        [([e.index for e in part.committed], part.is_first, part.at_checkpoint) for part in transaction]
        for transaction in parts
    ]
    assert shape == [
        [([1, 2], True, True)],
        [([3], False, False), ([], True, False), ([9, 10], True, True)],
    ]


def store_with(tmp_path: Path, pairs: dict[bytes, bytes]) -> Store:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    with store.write() as txn:
        for key, value in pairs.items():
            txn.put(key, value, db=store.tables["kv"])
    return store


def digest_of(store: Store) -> bytes | None:
    with store.read() as txn:
        return hash_state(txn, store.tables)


def test_every_byte_and_its_place_counts(tmp_path: Path) -> None:
    digests = set()
    for i, pairs in enumerate(({}, {b"a": b"bc"}, {b"ab": b"c"}, {b"a": b"b", b"c": b""}, {b"a": b"bd"})):
        store = store_with(tmp_path / str(i), pairs)
        digests.add(digest_of(store))
        assert digest_of(store) in digests
        store.close()
    assert len(digests) == 5


def test_a_hash_in_the_making_is_given_up_when_the_store_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_BATCH_PAIRS", 1)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_PAUSE_MS", 20)
    store = store_with(tmp_path, {b"%04d" % i: b"v" for i in range(1_000)})
    hashes: dict[int, Any] = {}
    checkpoints = Checkpoints(store, hashes.__setitem__)
    checkpoints.take(1)
    checkpoints.take(2)  # one at a time
    assert sum(thread.name == "aspen-hash" for thread in threading.enumerate()) == 1
    store.close()
    assert not any(thread.name == "aspen-hash" for thread in threading.enumerate())
    assert hashes == {}


def test_what_is_remembered_of_reports_is_bounded(tmp_path: Path) -> None:
    store = store_with(tmp_path, {})
    checkpoints = Checkpoints(store, lambda index, digest: None)
    for index in range(3 * CHECKPOINTS_KEPT):
        for node_id in range(1, 4 * RAFT_MEMBERS):
            checkpoints.reported(CheckpointReport(index, node_id, b"d" * 32))
    assert checkpoints.reports(0) == {}
    assert len(checkpoints.reports(3 * CHECKPOINTS_KEPT - 1)) == 2 * RAFT_MEMBERS
    store.close()


def test_a_report_must_hold_a_hash() -> None:
    from aspen.errors import CommandError
    from aspen.state.commands import validate_command

    validate_command(CheckpointReport(1, 1, b"d" * 32))
    with pytest.raises(CommandError):
        validate_command(CheckpointReport(1, 1, b"short"))
    assert encode_command(Checkpoint()) == CHECKPOINT
