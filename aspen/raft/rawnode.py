"""The face of the core: feed it ticks, messages and proposals; carry out each `Ready` it returns.

Synchronous mode: write `Ready.entries`, `hard_state` and `snapshot` to disk, send `messages` at
any time and `messages_after_persist` once the disk is done, apply `committed_entries`, then call
`advance`; only then comes the next `Ready`.

Asynchronous storage writes: `Ready.messages` holds all there is to do. STORAGE_APPEND (to the
append thread: hard state in its term, vote and commit, entries, snapshot) and STORAGE_APPLY (to
the apply thread: committed entries) each carry `responses`, to be delivered, some to this node
itself, once that work is durable. Each thread must keep the order in which it was given work;
there is no `advance`, and the next `Ready` may be taken while that work is still under way.
Committed entries are handed out only once they are known to be on this node's own disk.

Everything handed out is frozen: the core never changes it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aspen.errors import invariant
from aspen.raft import core
from aspen.raft.log import LogStorage as LogStorage
from aspen.raft.log import entries_bytes
from aspen.raft.membership import Configuration
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_TYPES,
    NO_NODE,
    RESPONSE_TYPES,
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
    conf_change_kind,
    encode_conf_change,
)
from aspen.raft.progress import ProgressView
from aspen.raft.reads import ReadState
from aspen.raft.reconfiguration import apply_conf_change
from aspen.raft.roles import become_follower
from aspen.raft.settings import RaftConfig as RaftConfig
from aspen.raft.settings import ReadOnlyOption as ReadOnlyOption
from aspen.raft.settings import Role as Role
from aspen.raft.state import ProposalDropped as ProposalDropped
from aspen.raft.state import RaftState

_LOCAL_THREADS = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)
_OUTSIDE_TERMS = frozenset({MessageType.PROP, MessageType.READ_INDEX})
_EMPTY_HARD_STATE = HardState()


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """What need not be durable: who leads, and what this node is."""

    leader_id: int
    role: Role


class Ready(msgspec.Struct, frozen=True):
    """What is to be done now. See the module's docstring for the order."""

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: tuple[ReadState, ...]
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed_entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    messages_after_persist: tuple[Message, ...]
    must_sync: bool


class Status(msgspec.Struct, frozen=True):
    """A picture of the node. `progress` is empty unless it leads."""

    node_id: int
    hard_state: HardState
    soft_state: SoftState
    applied: int
    last_index: int
    lead_transferee: int
    configuration: Configuration
    progress: Mapping[int, ProgressView]


class RawNode:
    """One member of one Raft group. Not thread-safe: one thread calls it."""

    def __init__(self, config: RaftConfig) -> None:
        self.raft: RaftState = core.start(config)
        self._async = config.async_storage_writes
        self._soft_state = self._current_soft_state()
        self._hard_state = self.raft.hard_state
        self._steps_on_advance: list[Message] = []
        self._ready_is_out = False

    # --- looking ------------------------------------------------------------------------------

    @property
    def node_id(self) -> int:
        return self.raft.node_id

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def leader_id(self) -> int:
        return self.raft.leader_id

    @property
    def role(self) -> Role:
        return self.raft.role

    @property
    def commit_index(self) -> int:
        return self.raft.log.committed

    @property
    def last_index(self) -> int:
        return self.raft.log.last_index

    @property
    def pending_snapshot(self) -> Snapshot | None:
        """A snapshot that was taken in and is not yet known to be durable."""
        return self.raft.log.unstable.snapshot

    def status(self) -> Status:
        raft = self.raft
        leads = raft.role is Role.LEADER
        return Status(
            node_id=raft.node_id,
            hard_state=raft.hard_state,
            soft_state=self._current_soft_state(),
            applied=raft.log.applied,
            last_index=raft.log.last_index,
            lead_transferee=raft.lead_transferee,
            configuration=raft.configuration,
            progress={i: member.view() for i, member in raft.progress.items()} if leads else {},
        )

    def _current_soft_state(self) -> SoftState:
        return SoftState(self.raft.leader_id, self.raft.role)

    # --- feeding ------------------------------------------------------------------------------

    def tick(self) -> None:
        core.tick(self.raft)

    def skip_ticks(self, count: int) -> None:
        """So many ticks passed while this node was held up, and are not made up for.

        No timeout runs out by them, but a lease has grown older: others may have elected a leader
        meanwhile. Call it first of all when the node goes on, before anything is fed or read.
        """
        self.raft.ticks += count

    def campaign(self) -> None:
        """Stand for election now (with PreVote, if that is on)."""
        core.step(self.raft, Message(MessageType.HUP, sender=self.node_id))

    def propose(self, data: bytes) -> None:
        """Have `data` appended to the log, here or at the leader. Raises `ProposalDropped`."""
        self._propose((Entry(data=data),))

    def propose_many(self, datas: Sequence[bytes]) -> None:
        """Many proposals as one message: all of them are taken, or none. Raises `ProposalDropped`."""
        if datas:
            self._propose(tuple([Entry(0, 0, EntryKind.NORMAL, data) for data in datas]))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> None:
        """Raises `ProposalDropped`. A change that can't be made now is appended as an empty entry."""
        self._propose((Entry(kind=conf_change_kind(change), data=encode_conf_change(change)),))

    def _propose(self, entries: tuple[Entry, ...]) -> None:
        core.step(self.raft, Message(MessageType.PROP, sender=self.node_id, entries=entries))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """Switch to a committed change. Raises `ConfigurationRefused` if it can't be made.

        Call it for each such entry as it is handed out, in order and before anything else is fed
        to the core: a snapshot that comes in between brings a configuration of its own.
        """
        return apply_conf_change(self.raft, change.as_v2())

    def knows(self, message: Message) -> bool:
        """Whether `message` may be stepped: local ones come from here, responses from members.

        Every message between members is of some term, but for the forwarded ones.
        """
        if message.sender in _LOCAL_THREADS:
            return True
        if message.type in LOCAL_TYPES or (message.term == 0) is not (message.type in _OUTSIDE_TERMS):
            return False
        return message.type not in RESPONSE_TYPES or message.sender in self.raft.progress

    def step(self, message: Message) -> None:
        """Take a message from a member or a local thread; ignore it if `knows` says no.

        Raises `ProposalDropped` for a forwarded proposal that can't be taken.
        """
        if self.knows(message):
            core.step(self.raft, message)

    def read_index(self, context: bytes) -> None:
        """Ask for an index to read at; it comes as a `ReadState` with the same context, or never."""
        core.step(self.raft, Message(MessageType.READ_INDEX, sender=self.node_id, context=context))

    def lease_read_index(self) -> int | None:
        """The index to read at, if this node leads and its lease says so right now (thesis §6.4.1)."""
        raft = self.raft
        return raft.log.committed if raft.holds_lease and raft.committed_in_term else None

    def transfer_leader(self, to: int) -> None:
        core.step(self.raft, Message(MessageType.TRANSFER_LEADER, sender=to))

    def forget_leader(self) -> None:
        """Have a follower vote for another although its leader seems alive."""
        core.step(self.raft, Message(MessageType.FORGET_LEADER, sender=self.node_id))

    def step_down(self) -> None:
        """Stop leading, for a reason of this node's own: the others elect anew, as they do when a
        leader has lost its quorum (thesis §6.2)."""
        if self.raft.role is Role.LEADER:
            become_follower(self.raft, self.raft.term, NO_NODE)

    def report_unreachable(self, node_id: int) -> None:
        core.step(self.raft, Message(MessageType.UNREACHABLE, sender=node_id))

    def report_snapshot(self, node_id: int, failed: bool) -> None:
        core.step(self.raft, Message(MessageType.SNAP_STATUS, sender=node_id, reject=failed))

    def bootstrap(self, peers: Sequence[tuple[int, bytes]]) -> None:
        """Found a group of (node id, context): one ADD_NODE entry each, at term 1 and committed.

        Only on an empty log; each founder may do the same, or get the entries by replication.
        """
        raft = self.raft
        invariant(peers, "a group needs a member")
        invariant(raft.log.last_index == 0 and raft.term == 0, "only an empty log can be bootstrapped")
        # Forget what was there before: the first Ready must hold all of it.
        self._hard_state = _EMPTY_HARD_STATE
        become_follower(raft, 1, 0)
        changes = [ConfChange(ConfChangeType.ADD_NODE, node_id, context) for node_id, context in peers]
        raft.log.append(
            [
                Entry(1, index, EntryKind.CONF_CHANGE, encode_conf_change(change))
                for index, change in enumerate(changes, 1)
            ]
        )
        raft.log.committed = len(changes)
        # In effect at once, so that the node may campaign; applying the entries changes nothing more.
        for change in changes:
            single = ConfChangeSingle(change.type, change.node_id)
            apply_conf_change(raft, ConfChangeV2((single,)))

    # --- carrying out -------------------------------------------------------------------------

    def has_ready(self) -> bool:
        raft = self.raft
        if raft.messages or raft.messages_after_append or raft.read_states:
            return True
        log = raft.log
        unstable = log.unstable
        if unstable.has_next_entries() or log.has_next_committed(not self._async):
            return True
        if unstable.snapshot is not None and not unstable.snapshot_in_progress:
            return True
        soft, hard = self._soft_state, self._hard_state
        if raft.leader_id != soft.leader_id or raft.role is not soft.role:
            return True
        return raft.term != hard.term or raft.vote != hard.vote or log.committed != hard.commit

    def ready(self) -> Ready:
        """What is to be done now. It counts as accepted: the caller must carry it out."""
        raft = self.raft
        log = raft.log
        invariant(not self._ready_is_out, "the Ready before was not advanced")
        soft_state = self._current_soft_state()
        hard_state = raft.hard_state
        entries = tuple(log.unstable.next_entries())
        new_soft_state = None if soft_state == self._soft_state else soft_state
        new_hard_state = None if hard_state == self._hard_state else hard_state
        committed = tuple(log.next_committed(not self._async))
        snapshot = log.unstable.next_snapshot()
        must_sync = (
            bool(entries)
            or hard_state.vote != self._hard_state.vote
            or hard_state.term != self._hard_state.term
        )
        append = self._append_message(entries, new_hard_state, snapshot)
        if self._async:
            if append is not None:
                raft.messages.append(append)
            if committed:
                raft.messages.append(self._apply_message(committed))
            after_persist: tuple[Message, ...] = ()
        else:
            after_persist = tuple(m for m in raft.messages_after_append if m.to != raft.node_id)
            self._plan_advance(append, committed)
        ready = Ready(
            new_soft_state,
            new_hard_state,
            tuple(raft.read_states),
            entries,
            snapshot,
            committed,
            tuple(raft.messages),
            after_persist,
            must_sync,
        )
        self._accept(soft_state, hard_state, committed)
        return ready

    def _accept(self, soft_state: SoftState, hard_state: HardState, committed: tuple[Entry, ...]) -> None:
        raft = self.raft
        self._soft_state, self._hard_state = soft_state, hard_state
        raft.read_states = []
        raft.messages = []
        raft.messages_after_append = []
        raft.log.unstable.accept_in_progress()
        if committed:
            raft.log.accept_applying(committed[-1].index, entries_bytes(committed), not self._async)

    def _append_message(
        self, entries: tuple[Entry, ...], hard_state: HardState | None, snapshot: Snapshot | None
    ) -> Message | None:
        """The work for the append thread, with all that must wait for it; `None` if there is none."""
        raft = self.raft
        responses = raft.messages_after_append
        if not (entries or hard_state or snapshot or responses):
            return None
        if raft.log.unstable.entries or snapshot is not None:
            responses = [*responses, self._append_response(snapshot)]
        durable = hard_state or _EMPTY_HARD_STATE
        return Message(
            MessageType.STORAGE_APPEND,
            to=LOCAL_APPEND_THREAD,
            sender=raft.node_id,
            term=durable.term,
            vote=durable.vote,
            commit=durable.commit,
            entries=entries,
            snapshot=snapshot,
            responses=tuple(responses),
        )

    def _append_response(self, snapshot: Snapshot | None) -> Message:
        """What the append thread tells the core when it is done: the log up to here is on disk.

        It speaks of the last entry and of the current term, even if the entry was handed over
        earlier: an older answer may be about an entry that was overwritten and then came back
        with the same index and term, and is dropped for its old term. The newest one then
        confirms what it could not.
        """
        log = self.raft.log
        has_entries = bool(log.unstable.entries)
        return Message(
            MessageType.STORAGE_APPEND_RESP,
            to=self.raft.node_id,
            sender=LOCAL_APPEND_THREAD,
            term=self.raft.term,
            index=log.last_index if has_entries else 0,
            log_term=log.last_term if has_entries else 0,
            snapshot=snapshot,
        )

    def _apply_message(self, committed: tuple[Entry, ...]) -> Message:
        return Message(
            MessageType.STORAGE_APPLY,
            to=LOCAL_APPLY_THREAD,
            sender=self.raft.node_id,
            entries=committed,
            responses=(self._apply_response(committed),),
        )

    def _apply_response(self, committed: tuple[Entry, ...]) -> Message:
        return Message(
            MessageType.STORAGE_APPLY_RESP,
            to=self.raft.node_id,
            sender=LOCAL_APPLY_THREAD,
            entries=committed,
        )

    def _plan_advance(self, append: Message | None, committed: tuple[Entry, ...]) -> None:
        """Synchronous mode: what this node tells itself when all is on disk and applied."""
        steps = [m for m in append.responses if m.to == self.raft.node_id] if append is not None else []
        if committed:
            steps.append(self._apply_response(committed))
        self._steps_on_advance = steps
        self._ready_is_out = True

    def advance(self) -> None:
        """Synchronous mode: the last `Ready` was carried out."""
        invariant(self._ready_is_out, "there is no Ready to advance from")
        self._ready_is_out = False
        steps, self._steps_on_advance = self._steps_on_advance, []
        for message in steps:
            core.step(self.raft, message)
