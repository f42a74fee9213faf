"""One node's Raft state: the variables of figure 2, the members, and what is about to be sent.

Every other module of the core is a set of functions over this object, one module a role or a
concern: `roles` changes it from one role to another, `elections`, `follower` and `leader` take
the messages, `replication` sends entries, `reconfiguration` changes the members, and `core`
orders them all. It decides nothing by itself.

Raft paper, figure 2.
"""

from __future__ import annotations

from typing import Final

from aspen.errors import AspenError, invariant
from aspen.raft.log import LogCompacted, LogUnavailable, RaftLog
from aspen.raft.membership import Configuration, ProgressDefaults, ProgressMap
from aspen.raft.messages import NO_NODE, HardState, Message, MessageType
from aspen.raft.reads import ReadQueue, ReadState
from aspen.raft.settings import RaftConfig, Role


class ProposalDropped(AspenError):
    """A proposal was not taken: there is no leader, it is handing over, or it is overloaded."""


_AFTER_APPEND: Final = frozenset(
    {MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP},
)
"""These promise something durable: they leave once what precedes them is on disk (§5.1)."""


class RaftState:
    """The variables. Only the modules of the core may change them."""

    __slots__ = (
        "campaigns",
        "check_quorum",
        "config",
        "configuration",
        "election_elapsed",
        "heartbeat_elapsed",
        "lead_transferee",
        "leader_id",
        "log",
        "messages",
        "messages_after_append",
        "node_id",
        "pending_conf_index",
        "progress",
        "randomized_timeout",
        "read_states",
        "reads",
        "role",
        "term",
        "ticks",
        "timeout_now_sent",
        "uncommitted_bytes",
        "vote",
        "vote_hold_ticks",
        "votes",
    )

    def __init__(self, config: RaftConfig) -> None:
        self.config = config
        self.node_id = config.node_id
        self.check_quorum = config.check_quorum
        self.log = RaftLog(config.storage, config.max_committed_bytes_per_ready)
        self.term = 0
        self.vote = NO_NODE
        self.leader_id = NO_NODE
        self.role = Role.FOLLOWER
        self.configuration = Configuration()
        self.progress: ProgressMap = {}
        self.votes: dict[int, bool] = {}
        self.campaigns = 0
        """Elections in which this node stood; rounds of PreVote don't count."""

        self.ticks = 0
        self.election_elapsed = 0
        """Ticks since the last election began or, on a follower, the leader was heard from."""
        self.heartbeat_elapsed = 0
        self.randomized_timeout = config.election_ticks
        self.vote_hold_ticks = 0
        """A restarted node may have promised a lease that it no longer knows of: no vote so long."""

        self.lead_transferee = NO_NODE
        self.timeout_now_sent = False
        """In this term another was told to campaign at once: the lease is worth nothing any more."""
        self.pending_conf_index = 0
        """No configuration change is taken until this index is applied (§4.1: one at a time)."""
        self.uncommitted_bytes = 0
        self.reads = ReadQueue()

        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.read_states: list[ReadState] = []

    # --- sending ------------------------------------------------------------------------------

    def emit(self, message: Message) -> None:
        """Queue a message: to leave at once, or after what precedes it is on disk."""
        if message.type in _AFTER_APPEND:
            self.messages_after_append.append(message)
        else:
            invariant(message.to != self.node_id, "a message to itself would never be durable")
            self.messages.append(message)

    def reply(
        self,
        kind: MessageType,
        to: int,
        *,
        index: int = 0,
        context: bytes = b"",
    ) -> None:
        """Queue a message of this term with no more than an index or a context to it."""
        self.emit(
            Message(kind, to=to, sender=self.node_id, term=self.term, index=index, context=context),
        )

    # --- looking ------------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def promotable(self) -> bool:
        """Whether it may become leader: a voter, and not about to be replaced by a snapshot."""
        member = self.progress.get(self.node_id)
        return member is not None and not member.is_learner and self.log.unstable.snapshot is None

    @property
    def committed_in_term(self) -> bool:
        """Whether the commit index is sure to cover what earlier leaders committed (§5.4.2, §6.4)."""
        try:
            return self.log.term(self.log.committed) == self.term
        except (LogCompacted, LogUnavailable):
            return False

    def progress_defaults(self) -> ProgressDefaults:
        config = self.config
        return ProgressDefaults(self.log.last_index, config.max_inflight_messages, config.max_inflight_bytes)

    @property
    def holds_lease(self) -> bool:
        """Whether no other node can have become leader yet, if clocks drift by less than a tenth.

        A follower that answered a heartbeat votes for no one for `election_ticks` after it. Of
        those a quarter is kept back for drift, and for both ends' ticks being cut off.
        """
        if self.role is not Role.LEADER or not self.config.keeps_lease or self.timeout_now_sent:
            return False
        confirmed_at = self.reads.confirmed_at
        lease_ticks = self.config.election_ticks * 3 // 4
        return confirmed_at is not None and self.ticks - confirmed_at < lease_ticks
