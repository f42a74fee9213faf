"""Members on one loop, with real stores and a network of function calls.

Each message goes as if over a connection of its own: both ends must admit each other first.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aspen.identity import Identity
from aspen.raft.cluster import Consensus, Timing
from aspen.raft.messages import Message, MessageType
from aspen.raft.ports import Clock, Listeners
from aspen.raft.writer import Retention
from aspen.services.proposer import ClusterProposer
from aspen.state.kv_commands import KvResult, KvSet
from aspen.state.kv_reader import LmdbKv
from aspen.state.machine import Machine
from aspen.state.store import STATE_TABLES, Store

MAP_BYTES = 64 * 1024**2
TIMING = Timing(heartbeat_ms=30, election_min_ms=120, election_max_ms=240)
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
            sender, receiver = self.members.get(message.sender), self.members.get(message.to)
            if message.type is MessageType.TRANSFER_LEADER:  # names the one that is to lead
                sender = receiver
            if sender is None or receiver is None or {message.sender, message.to} & self.cut:
                continue
            if sender is receiver or (self._admits(receiver, sender) and self._admits(sender, receiver)):
                loop.call_soon(self._deliver, message)

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is not None:
            member.consensus.driver.receive(message)

    @staticmethod
    def _admits(member: Member, peer: Member) -> bool:
        own, other = member.consensus, peer.consensus
        reason = own.admit(peer.node_id, other.endpoint_id, other.cluster_id)
        if reason is not None:
            member.refusals[reason] += 1
            other.refused_by(own.endpoint_id, reason)
        return reason is None


class Member:
    """A node's consensus, without its network face or its services."""

    retention = Retention(entries=20_000, size_bytes=256 * 1024**2)

    def __init__(
        self,
        node_id: int,
        data_dir: Path,
        network: Network,
        *,
        identity: Identity | None = None,
        knows: Sequence[int] = (1, 2, 3),
        timing: Timing = TIMING,
    ) -> None:
        self.node_id = node_id
        self.identity = identity or identity_of(node_id)
        self.refusals: Counter[str] = Counter()
        self.network = network
        self.failures: list[Exception] = []
        self.progress = asyncio.Event()
        self.replaced = 0
        self.store = Store.open(data_dir, map_bytes=MAP_BYTES)
        self.kv = LmdbKv(self.store)
        self.machine = Machine(self.store)
        self.consensus = Consensus(
            node_id=node_id,
            endpoint_id=self.identity.endpoint_id,
            store=self.store,
            machine=self.machine,
            timing=timing,
            clock=CLOCK,
            known_peers={other: identity_of(other).endpoint_id for other in knows},
            retention=self.retention,
        )
        self.consensus.start(
            network,
            Listeners(lambda: None, self._progress, self._failed, self._replaced),
            open_stream=network.opener(node_id),
        )
        self.proposer = ClusterProposer(self.consensus)
        network.members[node_id] = self

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        self.progress.set()

    def _replaced(self) -> None:
        self.replaced += 1

    def _progress(self) -> None:
        self.progress.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
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
async def cluster(tmp_path: Path, size: int = 3, timing: Timing = TIMING) -> AsyncIterator[dict[int, Member]]:
    network = Network()
    members = {n: Member(n, tmp_path / str(n), network, timing=timing) for n in range(1, size + 1)}
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


def state_of(member: Member) -> dict[str, list[tuple[bytes, bytes]]]:
    with member.store.read() as txn:
        return {name: list(txn.cursor(db=member.store.tables[name])) for name in STATE_TABLES}
