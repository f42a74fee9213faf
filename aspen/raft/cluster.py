"""One member's replicated log, ready to use: storage, core, driver and transport put together.

`Consensus` is what the rest of the node holds: it proposes commands, waits for read barriers,
says who leads and who the members are, and decides which peers the endpoint may admit.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aspen.errors import ControlPlaneError
from aspen.limits import (
    ADDRESS_BOOK_PEERS,
    CONTROL_MS,
    RAFT_COMMITTED_BYTES_PER_READY,
    RAFT_INFLIGHT_BYTES,
    RAFT_INFLIGHT_MESSAGES,
    RAFT_MESSAGE_BYTES,
    RAFT_UNCOMMITTED_BYTES,
)
from aspen.raft.admission import Refusal, may_take_over
from aspen.raft.control import MembershipControl
from aspen.raft.driver import RaftDriver
from aspen.raft.messages import ConfChangeV2
from aspen.raft.plans import Founder, check_founders
from aspen.raft.ports import Clock, Listeners, Transport
from aspen.raft.rawnode import RaftConfig, RawNode, Role
from aspen.raft.roster import CLUSTER_ID_BYTES, NO_CLUSTER, ChangeContext, Member, Roster, encode_context
from aspen.raft.snapshots import OpenStream
from aspen.raft.storage import LmdbLog
from aspen.raft.writer import Retention, StateMachine, WriteJob
from aspen.state.store import Store, Txn

log = structlog.get_logger("aspen.raft")

TICKS_PER_HEARTBEAT: Final = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """Heartbeat interval and the range election timeouts are drawn from, in milliseconds."""

    heartbeat_ms: int
    election_min_ms: int
    election_max_ms: int

    @property
    def tick_ms(self) -> float:
        return self.heartbeat_ms / TICKS_PER_HEARTBEAT

    def ticks(self, duration_ms: int) -> int:
        return max(1, round(duration_ms / self.tick_ms))


class Consensus:
    """This node's part in the cluster."""

    def __init__(
        self,
        *,
        node_id: int,
        endpoint_id: bytes,
        store: Store,
        machine: StateMachine,
        timing: Timing,
        clock: Clock,
        known_peers: dict[int, bytes],
        retention: Retention,
        joining: bytes = NO_CLUSTER,
    ) -> None:
        """`known_peers` (node id → endpoint id) counts only until a membership is replicated, and so does
        `joining`: the cluster that this node was let into, if it knows.

        Raises `StorageError` when the data directory is another node's, or can't be trusted.
        """
        self.node_id = node_id
        self.endpoint_id = endpoint_id
        self._store = store
        self._machine = machine
        self._timing = timing
        self._clock = clock
        self._retention = retention
        self.known_peers = known_peers
        self._met: dict[int, bytes] = {}
        """Admitted peers whom no membership known here names, by node id."""
        self._speaks_by: dict[int, bytes] = {}
        """The key by which a member has dialled last: of those changing theirs, by which to reach them."""
        self._joining = joining
        """The cluster that takes this node in, before it knows the membership."""
        self.control = MembershipControl(self)
        self._log_storage = LmdbLog(store)
        self._log_storage.claim(node_id, endpoint_id)
        self.driver: RaftDriver

    def start(
        self,
        transport: Transport,
        listeners: Listeners,
        *,
        open_stream: OpenStream,
    ) -> None:
        """Build the core from what is durable and start ticking. Call on the running loop."""
        timing = self._timing
        config = RaftConfig(
            node_id=self.node_id,
            election_ticks=timing.ticks(timing.election_min_ms),
            election_ticks_max=timing.ticks(timing.election_max_ms),
            heartbeat_ticks=TICKS_PER_HEARTBEAT,
            storage=self._log_storage,
            # Election timeouts must differ between nodes, so each draws its own seed.
            rng=random.Random(secrets.randbits(64)),  # noqa: S311 (spread, not secrecy)
            applied=self._log_storage.applied_index,
            async_storage_writes=True,
            max_message_bytes=RAFT_MESSAGE_BYTES,
            max_committed_bytes_per_ready=RAFT_COMMITTED_BYTES_PER_READY,
            max_uncommitted_bytes=RAFT_UNCOMMITTED_BYTES,
            max_inflight_messages=RAFT_INFLIGHT_MESSAGES,
            max_inflight_bytes=RAFT_INFLIGHT_BYTES,
            check_quorum=True,
            pre_vote=True,
            leader_lease=True,
            step_down_on_removal=True,
        )
        self.driver = RaftDriver(
            raw=RawNode(config),
            node_id=self.node_id,
            store=self._store,
            log_storage=self._log_storage,
            machine=self._machine,
            transport=transport,
            clock=self._clock,
            tick_ms=timing.tick_ms,
            retention=self._retention,
            listeners=listeners,
            open_stream=open_stream,
        )
        self.driver.start()
        if self.roster.conf_state.voters == (self.node_id,):
            self.driver.campaign_once_applied(self.driver.raw.commit_index)

    async def stop(self) -> None:
        await self.driver.stop()

    # --- membership ---------------------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        return self.driver.roster

    @property
    def cluster_id(self) -> bytes:
        return self.driver.roster.cluster_id

    @property
    def initialised(self) -> bool:
        """Whether this node belongs to a cluster, or has a log of one."""
        return self.driver.raw.term > 0 or self.driver.raw.last_index > 0

    def applied_in(self, txn: Txn) -> tuple[int, int, Roster]:
        """Index, term and membership of the state that a transaction sees."""
        return self._log_storage.read_applied(txn)

    @property
    def first_index(self) -> int:
        """The oldest entry still in the log."""
        return self._log_storage.first_index()

    def initialise(self, members: Sequence[Founder]) -> None:
        """Found a new cluster of (node id, endpoint id, addresses), this node among them.

        The members' entries are the first of the log; the others get them by replication.
        Raises `ControlPlaneError.InvalidRequest`.
        """
        if self.initialised:
            raise ControlPlaneError.InvalidRequest("this node belongs to a cluster already")
        check_founders(members, self.node_id, self.endpoint_id)
        cluster_id = secrets.token_bytes(CLUSTER_ID_BYTES)
        peers = [
            (node_id, encode_context(ChangeContext((Member(node_id, endpoint_id, addresses, cluster_id),))))
            for node_id, endpoint_id, addresses in sorted(members)
        ]
        self.driver.raw.bootstrap(peers)
        self.driver.campaign_once_applied(len(peers))
        log.info("cluster founded", members=[node_id for node_id, _ in peers])
        self.driver.wake()

    async def compact(self) -> int:
        """Cut the applied log off now, but for its newest entries; the oldest index still there."""
        async with asyncio.timeout(CONTROL_MS / 1000):
            more = True
            while more:
                done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                self.driver.submit(WriteJob(compaction=done))
                more = await done
        return self.first_index

    def admit(self, peer_node_id: int, peer_endpoint_id: bytes, peer_cluster_id: bytes) -> str | None:
        """Why a peer with a proven key may not speak under this node id; `None` if it may.

        A member's node id is its key's alone: with two nodes under one id, one of them could vote
        twice. Under a node id that is nobody's here, whoever proved the cookie and names this
        cluster is let in: perhaps this node is the one that has not heard of the newest member,
        and will only hear of it from that one. A node that belongs to no cluster yet lets any
        take it in, but for the ids it was told of, and then no other.
        """
        roster = self.driver.roster
        own = roster.cluster_id if roster.members else self._joining
        if NO_CLUSTER not in (own, peer_cluster_id) and own != peer_cluster_id:
            # Of the cluster that this one was recovered from: it has to begin anew.
            left_behind = peer_cluster_id in roster.former_clusters and roster.has_removed(peer_endpoint_id)
            return "removed" if left_behind else "foreign_cluster"
        holder = roster.by_endpoint(peer_endpoint_id)
        if holder is not None:
            return None if holder.node_id == peer_node_id else "node_id_claimed"
        bound = self._bound_to(peer_node_id)
        # Without a leader, this node may be the one that has not heard that it was added again.
        if roster.has_removed(peer_endpoint_id) and (bound is not None or self.leader_id):
            return "removed"
        if peer_node_id == self.node_id or bound not in (None, peer_endpoint_id):
            return "node_id_claimed"
        if bound is None and peer_cluster_id == NO_CLUSTER:
            return "not_admitted"  # it belongs nowhere yet, and nobody has asked it in
        if not roster.members and peer_cluster_id != NO_CLUSTER:
            self._joining = peer_cluster_id
        if bound is None and (peer_node_id in self._met or len(self._met) < ADDRESS_BOOK_PEERS):
            self._met[peer_node_id] = peer_endpoint_id  # so that it can be answered
        return None

    def connected(self, peer_node_id: int, peer_endpoint_id: bytes) -> None:
        """A member has dialled this node, and proven that key."""
        if self.driver.roster.member(peer_node_id) is not None:
            self._speaks_by[peer_node_id] = peer_endpoint_id

    def refused_by(self, peer_endpoint_id: bytes, reason: str) -> None:
        """A peer with a proven key did not admit this node."""
        if reason == "removed" and not self.is_leader and self._knows(peer_endpoint_id):
            self.driver.standing.told()

    def _knows(self, endpoint_id: bytes) -> bool:
        roster = self.driver.roster
        if roster.members:
            return roster.by_endpoint(endpoint_id) is not None
        return endpoint_id in (*self.known_peers.values(), *self._met.values())

    def endpoint_of(self, node_id: int) -> bytes | None:
        """The key to reach a node id by."""
        roster = self.driver.roster
        if (member := roster.member(node_id)) is not None:
            next_key = roster.next_key(node_id)
            changing = next_key is not None and self._speaks_by.get(node_id) == next_key
            return next_key if changing else member.endpoint_id
        return self._met.get(node_id) or self.known_peers.get(node_id)

    def _bound_to(self, node_id: int) -> bytes | None:
        """The key that alone may speak under a node id."""
        if not self.driver.roster.members:
            return self.known_peers.get(node_id)
        member = self.driver.roster.member(node_id)
        return None if member is None else member.endpoint_id

    # --- what changes of the membership stand on (`control.Ground`) ----------------------------

    @property
    def term(self) -> int:
        return self.driver.raw.term

    @property
    def leader_id(self) -> int:
        return self.driver.leader_id

    @property
    def removed(self) -> bool:
        """Whether this node was a member and is none any more."""
        return self.driver.standing.removed

    @property
    def election_timeout_ms(self) -> int:
        return self._timing.election_max_ms

    async def propose_change(self, change: ConfChangeV2) -> Refusal | None:
        return await self.driver.propose_change(change)

    async def read_barrier(self) -> None:
        await self.driver.read_barrier()

    def ask_transfer(self, node_id: int) -> bool:
        if not may_take_over(self.driver.raw.raft, node_id):
            return False
        self.driver.raw.transfer_leader(node_id)
        self.driver.wake()
        return True

    def now_ms(self) -> int:
        return self._clock.monotonic_ms()

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(duration_ms / 1000)

    # --- reads and writes ---------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.driver.role is Role.LEADER

    def leading_term(self) -> int | None:
        """The term in which this node leads; None if it doesn't."""
        return self.driver.raw.term if self.is_leader else None

    async def propose(self, command: bytes) -> Any:
        return await self.driver.propose(command)

    def since_contact_ms(self) -> int:
        """Milliseconds since a leader was heard from: 0 on the leader, -1 if never."""
        if self.is_leader:
            return 0
        heard = self.driver.last_contact_ms
        return -1 if heard is None else max(0, self._clock.monotonic_ms() - heard)
