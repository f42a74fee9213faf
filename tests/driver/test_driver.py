"""Three drivers on one loop, with real stores and a network of function calls.

What is tested here is the shell: proposals find their result on the node that made them, reads
wait for what was acknowledged, restarts find everything, and nothing is told before it is durable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

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
from aspen.proposer import ClusterProposer
from aspen.raft import pending, snapshots, storage, writer
from aspen.raft.cluster import Consensus, Timing
from aspen.raft.driver import Clock, RaftDriver
from aspen.raft.messages import Message
from aspen.raft.rawnode import Role
from aspen.raft.writer import Retention
from aspen.state import snapshot
from aspen.state.commands import KvResult, KvSet
from aspen.state.kv import KvEntry, LmdbKv
from aspen.state.machine import Machine
from aspen.state.ports import Consistency
from aspen.state.store import STATE_TABLES, Store

EMPTY = KvEntry(b"", b"", 0, 0, 0)
MAP_BYTES = 64 * 1024**2
TIMING = Timing(heartbeat_ms=20, election_min_ms=60, election_max_ms=120)
CLOCK = Clock(lambda: time.monotonic_ns() // 1_000_000, lambda: time.time_ns() // 1_000_000)


class Pipe:
    """One end of an in-memory frame stream."""

    def __init__(self) -> None:
        self.other: Pipe = self
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.breaks_after: int | None = None

    async def send(self, frame: bytes) -> None:
        if self.breaks_after is not None:
            self.breaks_after -= 1
            if self.breaks_after < 0:
                self.close()
                raise ConnectionError("the cable was pulled")
        await self.other.frames.put(frame)

    async def receive(self) -> bytes | None:
        return await self.frames.get()

    def close(self) -> None:
        self.other.frames.put_nowait(None)


class Network:
    """Delivers on the next turn of the loop, to whoever is attached and not cut off."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.cut: set[int] = set()
        self.stream_breaks_after: list[int] = []
        self.streams: list[asyncio.Task[None]] = []

    def opener(self, from_node: int) -> Callable[[int], Awaitable[Pipe]]:
        async def open_stream(node_id: int) -> Pipe:
            if node_id in self.cut or node_id not in self.members:
                raise ConnectionError("no way there")
            near, far = Pipe(), Pipe()
            near.other, far.other = far, near
            if self.stream_breaks_after:
                far.breaks_after = self.stream_breaks_after.pop(0)
            served = self.members[node_id].consensus.driver.catch_up.offers.serve(from_node, far)
            self.streams.append(asyncio.ensure_future(served))
            return near

        return open_stream

    def send(self, messages: Sequence[Message]) -> None:
        loop = asyncio.get_running_loop()
        for message in messages:
            if message.sender not in self.cut and message.to not in self.cut:
                loop.call_soon(self._deliver, message)

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is not None:
            member.consensus.driver.receive(message)


class Member:
    """A node's consensus, without its network face or its services."""

    retention = Retention(entries=20_000, size_bytes=256 * 1024**2)

    def __init__(self, node_id: int, data_dir: Path, network: Network) -> None:
        self.node_id = node_id
        self.identity = identity_of(node_id)
        self.network = network
        self.failures: list[Exception] = []
        self.progress = asyncio.Event()
        self.replaced = 0
        self.store = Store.open(data_dir, map_bytes=MAP_BYTES)
        self.kv = LmdbKv(self.store)
        self.consensus = Consensus(
            node_id=node_id,
            endpoint_id=self.identity.endpoint_id,
            store=self.store,
            machine=Machine(self.store),
            timing=TIMING,
            clock=CLOCK,
            known_peers={other: identity_of(other).endpoint_id for other in (1, 2, 3)},
            retention=self.retention,
        )
        self.consensus.start(
            network,
            on_dns_change=lambda: None,
            on_progress=self._progress,
            on_failure=self._failed,
            on_replaced=self._replaced,
            open_stream=network.opener(node_id),
        )
        self.proposer = ClusterProposer(self.consensus)
        network.members[node_id] = self

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        self.progress.set()

    def _replaced(self) -> None:
        self.replaced += 1

    def _progress(self, driver: RaftDriver) -> None:
        self.progress.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.progress.clear()
                await self.progress.wait()

    async def stop(self) -> None:
        del self.network.members[self.node_id]
        await self.consensus.stop()
        self.store.close()


def identity_of(node_id: int) -> Identity:
    return Identity.from_seed(bytes([node_id]) * 32)


def founders(*node_ids: int) -> list[tuple[int, bytes, tuple[tuple[str, int], ...]]]:
    return [(n, identity_of(n).endpoint_id, (("127.0.0.1", 7300 + n),)) for n in node_ids]


@asynccontextmanager
async def cluster(tmp_path: Path, size: int = 3) -> AsyncIterator[dict[int, Member]]:
    network = Network()
    members = {n: Member(n, tmp_path / str(n), network) for n in range(1, size + 1)}
    if not members[1].consensus.initialised:
        members[1].consensus.initialise(founders(*members))
    for member in members.values():
        await member.until(lambda member=member: member.consensus.driver.leader_id != 0)  # type: ignore[misc]
    try:
        yield members
    finally:
        for member in list(network.members.values()):
            await member.stop()


async def put(member: Member, key: bytes, value: bytes) -> KvResult:
    result = await member.proposer.propose(KvSet(((key, value),)))
    assert isinstance(result, KvResult)
    return result


def leader_of(members: dict[int, Member]) -> Member:
    return next(m for m in members.values() if m.consensus.is_leader)


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
        assert len(back.kv.scan(b"k", None, 100, 1 << 20).entries) == 30


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
        assert consensus.admit(9, stranger, own) == "node_id_claimed"
        assert consensus.admit(2, two, b"another cluster!") == "foreign_cluster"


def state_of(member: Member) -> dict[str, list[tuple[bytes, bytes]]]:
    with member.store.read() as txn:
        return {name: list(txn.cursor(db=member.store.tables[name])) for name in STATE_TABLES}


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
        assert len(back.kv.scan(b"k", None, 1_000, 1 << 20).entries) == 120


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
