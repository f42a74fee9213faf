"""Three drivers on one loop, with real stores and a network of function calls.

What is tested here is the shell: proposals find their result on the node that made them, reads
wait for what was acknowledged, restarts find everything, and nothing is told before it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_process import Member, Network, cluster, founders, identity_of, leader_of, put, state_of

from aspen.errors import (
    ControlPlaneError,
    InvariantViolation,
    NoLeader,
    NoRoom,
    NotLeader,
    OutcomeUnknown,
    ProposalError,
    StorageError,
    StorageFull,
)
from aspen.identity import Identity
from aspen.raft import pending, snapshots, storage, writer
from aspen.raft.messages import Message, MessageType, Snapshot, SnapshotMetadata
from aspen.raft.rawnode import Role
from aspen.raft.writer import Retention
from aspen.state import snapshot
from aspen.state.kv_commands import KvEntry
from aspen.state.kv_reader import under
from aspen.state.ports import Consistency

EMPTY = KvEntry(b"", b"", 0, 0, 0)


async def test_a_lone_member_writes_and_finds_it_after_a_restart(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        results = await asyncio.gather(*(put(members[1], b"k%d" % i, b"v") for i in range(50)))
        assert sorted(result.revision for result in results) == list(range(1, 51))
        state = members[1].consensus.driver.applied_index
    async with cluster(tmp_path, 1) as members:
        entry = members[1].kv.get(b"k49")
        assert entry is not None
        assert entry.value == b"v"
        assert members[1].consensus.driver.applied_index >= state
        assert (await put(members[1], b"more", b"v")).revision == 51


async def test_each_member_can_write_and_hears_its_own_result(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        for n, member in members.items():
            result = await put(member, b"from", b"%d" % n)
            assert result.revision == n
            entry = member.kv.get(b"from")  # acknowledged means applied here
            assert entry is not None
            assert entry.value == b"%d" % n


async def test_a_consistent_read_sees_every_write_acknowledged_before_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        for i in range(20):
            await put(members[1 + i % 3], b"k", b"%d" % i)
            reader = members[1 + (i + 1) % 3]
            await reader.proposer.barrier(Consistency.CONSISTENT)
            entry = reader.kv.get(b"k")
            assert entry is not None
            assert entry.value == b"%d" % i


async def test_only_the_leader_serves_leader_reads(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        await leader.proposer.barrier(Consistency.LEADER)
        follower = next(m for m in members.values() if m is not leader)
        with pytest.raises(NotLeader, match=f"the leader is node {leader.node_id}"):
            await follower.proposer.barrier(Consistency.LEADER)


async def test_a_member_that_was_away_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        away = next(m for m in members.values() if not m.consensus.is_leader)
        network = away.network
        await away.stop()
        others = [m for m in members.values() if m is not away]
        for i in range(30):
            await put(others[i % 2], b"k%d" % i, b"v")
        back = Member(away.node_id, tmp_path / str(away.node_id), network)
        await back.until(lambda: back.kv.get(b"k29") is not None)
        assert len(back.kv.scan(under(b"k"), 100, 1 << 20).entries) == 30


async def test_writes_go_on_after_the_leader_is_cut_off_and_it_steps_down(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        await put(members[1], b"before", b"v")
        old = leader_of(members)
        others = [m for m in members.values() if m is not old]
        old.network.cut = {old.node_id}
        for member in others:
            await member.until(
                lambda member=member: member.consensus.driver.leader_id not in (0, old.node_id)  # type: ignore[misc]
            )
        await put(others[0], b"after", b"v")
        await old.until(lambda: not old.consensus.is_leader)  # CheckQuorum (thesis §6.2)
        old.network.cut = set()
        await old.until(lambda: old.kv.get(b"after") is not None)


async def test_a_minority_never_acknowledges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 200)
    monkeypatch.setattr(pending, "RAFT_READ_MS", 200)
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        leader.network.cut = {n for n in members if n != leader.node_id}
        with pytest.raises(OutcomeUnknown):
            await put(leader, b"lost", b"v")
        with pytest.raises(NoLeader):
            await leader.proposer.barrier(Consistency.CONSISTENT)
        await leader.until(lambda: not leader.consensus.is_leader)
        with pytest.raises(NoLeader):  # now it knows that it leads no one: not even proposed
            await put(leader, b"lost too", b"v")
        await leader.proposer.barrier(Consistency.STALE)


async def test_what_waits_when_a_node_stops_is_told_so(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        leader.network.cut = {1, 2, 3}
        waiting = asyncio.ensure_future(put(leader, b"k", b"v"))
        await asyncio.sleep(0)
        await leader.stop()
        with pytest.raises(ProposalError):
            await waiting


async def test_a_store_that_fails_halts_the_node_and_acknowledges_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        member = members[1]

        def broken_write() -> None:
            raise StorageError("the disk is gone")

        member.store.write = broken_write  # type: ignore[method-assign, assignment]
        waiting = asyncio.ensure_future(put(member, b"k", b"v"))
        await member.until(lambda: bool(member.failures))
        with pytest.raises(ProposalError):
            await waiting
        with pytest.raises(NoLeader):
            await put(member, b"k", b"v")
        await member.consensus.stop()


async def test_a_bug_in_the_core_halts_the_node(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        member = members[1]

        def broken_ready() -> None:
            raise InvariantViolation("two leaders in one term")

        member.consensus.driver.raw.ready = broken_ready  # type: ignore[method-assign, assignment]
        with pytest.raises(ProposalError):
            await put(member, b"k", b"v")
        assert [type(failure) for failure in member.failures] == [InvariantViolation]
        await member.consensus.stop()


class FullDisk:
    """A member's store, refusing every transaction while `full`."""

    def __init__(self, member: Member) -> None:
        self.full = True
        self._write = member.store.write
        member.store.write = self.write  # type: ignore[method-assign]

    @contextmanager
    def write(self) -> Iterator[Any]:
        if self.full:
            raise StorageFull("no space left on device")
        with self._write() as txn:
            yield txn


async def test_a_leader_whose_disk_is_full_hands_over_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RAFT_ROOM_RETRY_MS", 20)
    async with cluster(tmp_path) as members:
        await put(members[1], b"before", b"v")
        full = leader_of(members)
        others = [m for m in members.values() if m is not full]
        disk = FullDisk(full)
        waiting = asyncio.ensure_future(put(full, b"during", b"v"))
        await full.until(lambda: full.consensus.driver.room.error is not None)
        with pytest.raises(NoRoom):
            await put(full, b"refused", b"v")
        for other in others:  # they don't wait for an election timeout: leadership was handed over
            await other.until(
                lambda other=other: other.consensus.driver.leader_id not in (0, full.node_id)  # type: ignore[misc]
            )
            await put(other, b"by %d" % other.node_id, b"v")
        await full.until(lambda: full.consensus.driver.role is Role.FOLLOWER)
        assert full.kv.get(b"before") is not None
        assert full.kv.get(b"by %d" % others[0].node_id) is None
        assert not waiting.done()
        assert not full.failures
        disk.full = False
        await full.until(lambda: full.kv.get(b"by %d" % others[1].node_id) is not None)
        assert full.consensus.driver.room.error is None
        await put(full, b"after", b"v")
        try:
            await waiting
        except OutcomeUnknown:  # the others may have taken it, or not
            pass
        else:
            assert others[0].kv.get(b"during") is not None


async def test_a_follower_whose_disk_is_full_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RAFT_ROOM_RETRY_MS", 20)
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 300)
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        full, other = (m for m in members.values() if m is not leader)
        disk = FullDisk(full)
        await put(leader, b"k", b"1")
        await full.until(lambda: full.consensus.driver.room.error is not None)
        other.network.cut = {other.node_id}
        with pytest.raises(OutcomeUnknown):  # only two are left, and one of them can't store it
            await put(leader, b"k", b"2")
        assert full.consensus.driver.role is Role.FOLLOWER  # it can't even vote for itself
        disk.full = False
        other.network.cut = set()
        for member in members.values():
            await member.until(lambda member=member: member.consensus.driver.leader_id != 0)  # type: ignore[misc]
        await put(leader, b"k", b"3")
        await full.until(lambda: (full.kv.get(b"k") or EMPTY).value == b"3")


async def test_a_lone_member_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RAFT_ROOM_RETRY_MS", 20)
    async with cluster(tmp_path, 1) as members:
        member = members[1]
        disk = FullDisk(member)
        waiting = asyncio.ensure_future(put(member, b"k", b"v"))
        await member.until(lambda: member.consensus.driver.room.error is not None)
        await member.until(lambda: not member.consensus.is_leader)
        disk.full = False
        await member.until(lambda: member.consensus.is_leader)
        await put(member, b"more", b"v")
        assert (await asyncio.gather(waiting, return_exceptions=True))[0]


async def test_a_node_without_room_can_be_stopped(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        member = members[1]
        FullDisk(member)
        waiting = asyncio.ensure_future(put(member, b"k", b"v"))
        await member.until(lambda: member.consensus.driver.room.error is not None)
        await member.stop()
        with pytest.raises(OutcomeUnknown):
            await waiting
    async with cluster(tmp_path, 1) as members:
        assert members[1].kv.get(b"k") is None


async def test_founding_is_checked(tmp_path: Path) -> None:
    network = Network()
    member = Member(1, tmp_path, network)
    same = [founders(1)[0], (2, *founders(1)[0][1:])]
    for wrong in ([], founders(2), founders(1, 1), same, [(0, *founders(1)[0][1:])]):
        with pytest.raises(ControlPlaneError.InvalidRequest):
            member.consensus.initialise(wrong)
    member.consensus.initialise(founders(1))
    with pytest.raises(ControlPlaneError.InvalidRequest, match="already"):
        member.consensus.initialise(founders(1))
    await member.stop()


async def test_admission_binds_node_ids_to_keys(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        consensus, stranger = members[1].consensus, Identity.from_seed(b"s" * 32).endpoint_id
        await members[2].until(lambda: len(members[2].consensus.roster.members) == 3)
        own = consensus.cluster_id
        assert members[2].consensus.cluster_id == own
        two = identity_of(2).endpoint_id
        assert consensus.admit(2, two, own) is None
        assert consensus.admit(2, two, bytes(16)) is None  # not initialised yet: still the same key
        assert consensus.admit(2, stranger, own) == "node_id_claimed"
        assert consensus.admit(3, two, own) == "node_id_claimed"
        assert consensus.admit(1, stranger, own) == "node_id_claimed"
        assert consensus.admit(9, stranger, bytes(16)) == "not_admitted"  # nobody has asked it in
        assert consensus.admit(9, stranger, own) is None  # it may have joined, and we not heard of it
        assert consensus.admit(2, two, b"another cluster!") == "foreign_cluster"


async def fall_behind(members: dict[int, Member]) -> tuple[Member, list[Member]]:
    """Stop a follower and write until the others have cut off what it lacks."""
    away = next(m for m in members.values() if not m.consensus.is_leader)
    await away.stop()
    others = [m for m in members.values() if m is not away]
    for i in range(120):
        await put(others[i % 2], b"k%03d" % i, b"v" * 100)
    for member in others:
        await member.until(lambda member=member: member.consensus.first_index > 60)  # type: ignore[misc]
    return away, others


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact early, and cut snapshots into many chunks."""
    monkeypatch.setattr(Member, "retention", Retention(entries=20, size_bytes=256 * 1024**2))
    monkeypatch.setattr(storage, "RAFT_COMPACT_ENTRIES", 8)
    monkeypatch.setattr(snapshot, "SNAPSHOT_CHUNK_BYTES", 1_000)
    monkeypatch.setattr(snapshots, "SNAPSHOT_RETRY_MS", 1)


@pytest.mark.usefixtures("short_log")
async def test_a_member_behind_the_log_is_sent_the_state(tmp_path: Path) -> None:
    """Raft §7; and what it then holds survives its restart."""
    async with cluster(tmp_path) as members:
        away, others = await fall_behind(members)
        back = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        await back.until(lambda: back.kv.get(b"k119") is not None)
        assert back.replaced == 1
        assert back.store.folder == "state-2"
        await put(back, b"after", b"v")
        leader = leader_of({m.node_id: m for m in others})
        await leader.until(lambda: state_of(leader) == state_of(back))
        before = state_of(back)
        await back.stop()
        again = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        assert state_of(again) == before
        assert again.store.folder == "state-2"
        assert not (tmp_path / str(away.node_id) / "state-1").exists()
        await put(again, b"once more", b"v")


@pytest.mark.usefixtures("short_log")
async def test_a_transfer_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        away, _ = await fall_behind(members)
        away.network.stream_breaks_after = [3, 0, 4]
        back = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        await back.until(lambda: back.kv.get(b"k119") is not None)
        assert back.replaced == 1
        assert len(away.network.streams) == 4
        assert len(back.kv.scan(under(b"k"), 1_000, 1 << 20).entries) == 120


@pytest.mark.usefixtures("short_log")
async def test_a_cut_log_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as members:
        for i in range(80):
            await put(members[1], b"%d" % i, b"v")
        first = members[1].consensus.first_index
        assert first > 20
    async with cluster(tmp_path, 1) as members:
        assert members[1].consensus.first_index >= first
        assert (await put(members[1], b"k", b"v")).revision == 81


async def test_a_peer_that_never_fetches_its_snapshot_is_offered_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_log: None
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_OFFER_MS", 50)
    monkeypatch.setattr(snapshots, "SNAPSHOT_TRIES", 1)
    async with cluster(tmp_path) as members:
        away, _ = await fall_behind(members)
        away.network.stream_breaks_after = [0, 0]  # the first two transfers die at once
        back = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        await back.until(lambda: back.kv.get(b"k119") is not None)
        assert back.replaced == 1


@pytest.mark.parametrize("how", ["restarted", "unreachable"])
async def test_a_peer_that_lost_its_offer_is_offered_another_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_log: None, how: str
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_TRIES", 1)
    async with cluster(tmp_path) as members:
        away, _ = await fall_behind(members)
        (leader,) = (m for m in away.network.members.values() if m.consensus.is_leader)
        if how == "restarted":
            away.network.stream_breaks_after = [0]  # the transfer dies at once
        else:
            monkeypatch.setattr(snapshots.SnapshotIntake, "begin", lambda self, message: None)  # lost
        back = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        await leader.until(lambda: bool(leader.consensus.driver.catch_up.offers._offers))
        await asyncio.sleep(0.1)
        assert back.replaced == 0
        monkeypatch.undo()
        getattr(leader.consensus.driver.catch_up.offers, how)(away.node_id)
        await back.until(lambda: back.kv.get(b"k119") is not None)
        assert back.replaced == 1


@pytest.mark.usefixtures("short_log")
async def test_a_snapshot_of_what_a_member_has_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as members:
        away, others = await fall_behind(members)
        back = Member(away.node_id, tmp_path / str(away.node_id), away.network)
        await back.until(lambda: back.kv.get(b"k119") is not None)
        assert len(away.network.streams) == 1
        (leader,) = (m for m in others if m.consensus.is_leader)
        raw, hear = leader.consensus.driver.raw, leader.consensus.driver.receive
        said: list[Message] = []
        metadata = SnapshotMetadata(
            leader.consensus.roster.conf_state, back.consensus.driver.applied_index, 1
        )

        def listen(message: Message) -> None:
            said.append(message)
            hear(message)

        monkeypatch.setattr(leader.consensus.driver, "receive", listen)
        back.consensus.driver.receive(
            Message(
                MessageType.SNAP,
                to=back.node_id,
                sender=leader.node_id,
                term=raw.term,
                snapshot=Snapshot(b"", metadata),
            )
        )
        await leader.until(
            lambda: (MessageType.APP_RESP, metadata.index) in [(m.type, m.index) for m in said]
        )
        assert len(away.network.streams) == 1
        assert back.replaced == 1
