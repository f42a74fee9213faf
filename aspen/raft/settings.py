"""What a Raft node is started with, and the names that its settings and its state share.

Times are in ticks: the core has no clock. The randomness of election timeouts comes from an
injected generator, so that a seed replays a whole cluster (§5.2, §9.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from aspen.errors import ConfigError
from aspen.limits import (
    RAFT_COMMITTED_BYTES_PER_READY,
    RAFT_INFLIGHT_BYTES,
    RAFT_INFLIGHT_MESSAGES,
    RAFT_MESSAGE_BYTES,
    RAFT_UNCOMMITTED_BYTES,
)
from aspen.raft.log import LogStorage
from aspen.raft.messages import LOCAL_APPLY_THREAD


class Role(IntEnum):
    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class ReadOnlyOption(Enum):
    """How ReadIndex makes sure that the leader still leads (thesis §6.4)."""

    SAFE = "safe"  # by a round of heartbeats: true whatever the clocks do
    LEASE_BASED = "lease"  # by its lease: no round, but clocks must not drift far apart (§6.4.1)


class RandomSource(Protocol):
    """What the core needs of `random.Random`."""

    def randrange(self, start: int, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Settings of one node. Raises `ConfigError` if they contradict each other."""

    node_id: int
    storage: LogStorage
    rng: RandomSource
    election_ticks: int
    heartbeat_ticks: int
    election_ticks_max: int = 0
    """Timeouts are drawn from [election_ticks, election_ticks_max); twice the former if 0."""
    applied: int = 0
    """What the state machine has applied; committed entries after it are handed out again."""
    async_storage_writes: bool = False
    max_message_bytes: int = RAFT_MESSAGE_BYTES
    max_committed_bytes_per_ready: int = RAFT_COMMITTED_BYTES_PER_READY
    max_uncommitted_bytes: int = RAFT_UNCOMMITTED_BYTES
    max_inflight_messages: int = RAFT_INFLIGHT_MESSAGES
    max_inflight_bytes: int = RAFT_INFLIGHT_BYTES
    check_quorum: bool = False
    """Step down when no quorum was heard from for an election timeout; honour leases (§6.2)."""
    pre_vote: bool = False
    """Ask whether an election could be won before disturbing anyone with a new term (§9.6)."""
    read_only_option: ReadOnlyOption = ReadOnlyOption.SAFE
    leader_lease: bool = False
    """Keep a lease for `RawNode.lease_read_index`; on in any case when reads are lease-based."""
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.node_id < LOCAL_APPLY_THREAD:
            raise ConfigError(f"node id {self.node_id} is not in 1..2^64-3")
        if self.heartbeat_ticks < 1:
            raise ConfigError("a heartbeat takes at least one tick")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError("the election timeout must be longer than the heartbeat interval")
        if self.election_ticks_max and self.election_ticks_max <= self.election_ticks:
            raise ConfigError("the longest election timeout must exceed the shortest")
        if min(self.max_message_bytes, self.max_committed_bytes_per_ready, self.max_inflight_messages) < 1:
            raise ConfigError("size limits are at least 1")
        if self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigError("a window must have room for one message")
        if self.keeps_lease and not self.check_quorum:
            raise ConfigError("a leader's lease needs check_quorum")

    @property
    def keeps_lease(self) -> bool:
        return self.leader_lease or self.read_only_option is ReadOnlyOption.LEASE_BASED

    @property
    def timeout_bounds(self) -> tuple[int, int]:
        return self.election_ticks, self.election_ticks_max or 2 * self.election_ticks
