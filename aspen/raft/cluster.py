"""One member's replicated log, ready to use: storage, core, driver and transport put together.

`Consensus` is what the rest of the node holds: it proposes commands, waits for read barriers,
says who leads and who the members are, and decides which peers the endpoint may admit.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aspen.errors import ControlPlaneError
from aspen.limits import (
    RAFT_COMMITTED_BYTES_PER_READY,
    RAFT_INFLIGHT_BYTES,
    RAFT_INFLIGHT_MESSAGES,
    RAFT_MEMBERS,
    RAFT_MESSAGE_BYTES,
    RAFT_UNCOMMITTED_BYTES,
)
from aspen.raft.driver import Clock, RaftDriver, Transport
from aspen.raft.rawnode import RaftConfig, RawNode, Role
from aspen.raft.roster import CLUSTER_ID_BYTES, NO_CLUSTER, Member, Roster, encode_members
from aspen.raft.snapshots import OpenStream
from aspen.raft.storage import LmdbLog
from aspen.raft.writer import Retention, StateMachine
from aspen.state.store import Store

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
    ) -> None:
        """`known_peers` (node id → endpoint id) counts only until a membership is replicated.

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
        self._log_storage = LmdbLog(store)
        self._log_storage.claim(node_id, endpoint_id)
        self.driver: RaftDriver

    def start(
        self,
        transport: Transport,
        *,
        on_dns_change: Callable[[], None],
        on_progress: Callable[[RaftDriver], None],
        on_failure: Callable[[Exception], None],
        on_replaced: Callable[[], None],
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
            on_dns_change=on_dns_change,
            on_progress=on_progress,
            on_failure=on_failure,
            on_replaced=on_replaced,
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

    @property
    def first_index(self) -> int:
        """The oldest entry still in the log."""
        return self._log_storage.first_index()

    def initialise(self, members: Sequence[tuple[int, bytes, tuple[tuple[str, int], ...]]]) -> None:
        """Found a new cluster of (node id, endpoint id, addresses), this node among them.

        The members' entries are the first of the log; the others get them by replication.
        Raises `ControlPlaneError.InvalidRequest`.
        """
        if self.initialised:
            raise ControlPlaneError.InvalidRequest("this node belongs to a cluster already")
        _check_founders(members, self.node_id, self.endpoint_id)
        cluster_id = secrets.token_bytes(CLUSTER_ID_BYTES)
        peers = [
            (node_id, encode_members((Member(node_id, endpoint_id, addresses, cluster_id),)))
            for node_id, endpoint_id, addresses in sorted(members)
        ]
        self.driver.raw.bootstrap(peers)
        self.driver.campaign_once_applied(len(peers))
        log.info("cluster founded", members=[node_id for node_id, _ in peers])
        self.driver.wake()

    def admit(self, peer_node_id: int, peer_endpoint_id: bytes, peer_cluster_id: bytes) -> str | None:
        """Why a peer with a proven key may not speak under this node id; `None` if it may."""
        own = self.cluster_id
        if NO_CLUSTER not in (own, peer_cluster_id) and own != peer_cluster_id:
            return "foreign_cluster"
        roster = self.driver.roster
        if roster.members:
            member = roster.member(peer_node_id)
            bound = None if member is None else member.endpoint_id
        else:
            bound = self.known_peers.get(peer_node_id)
        return None if bound == peer_endpoint_id else "node_id_claimed"

    def endpoint_of(self, node_id: int) -> bytes | None:
        """The key that a node id is bound to."""
        if (member := self.driver.roster.member(node_id)) is not None:
            return member.endpoint_id
        return self.known_peers.get(node_id)

    # --- reads and writes ---------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.driver.role is Role.LEADER

    async def propose(self, command: bytes) -> Any:
        return await self.driver.propose(command)

    def since_contact_ms(self) -> int:
        """Milliseconds since a leader was heard from: 0 on the leader, -1 if never."""
        if self.is_leader:
            return 0
        heard = self.driver.last_contact_ms
        return -1 if heard is None else max(0, self._clock.monotonic_ms() - heard)


def _check_founders(
    members: Sequence[tuple[int, bytes, tuple[tuple[str, int], ...]]], node_id: int, endpoint_id: bytes
) -> None:
    refuse = ControlPlaneError.InvalidRequest
    if not 1 <= len(members) <= RAFT_MEMBERS:
        raise refuse(f"a cluster starts with 1 to {RAFT_MEMBERS} members, not {len(members)}")
    if len({m[0] for m in members}) != len(members):
        raise refuse("two of the initial members have the same node id")
    if len({m[1] for m in members}) != len(members):
        raise refuse("two of the initial members have the same endpoint id")
    if any(m[0] <= 0 for m in members):
        raise refuse("node ids start at 1")
    if (node_id, endpoint_id) not in {(m[0], m[1]) for m in members}:
        raise refuse(f"this node ({node_id}) must be one of the initial members")
