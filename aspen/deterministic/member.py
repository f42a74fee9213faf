"""One member of a deterministic cluster: a core, its log and state in memory, and nothing else.

What `RaftDriver` and its writer thread do with threads and a disk is done here in one go: each
`Ready` is stored, applied and sent before the next. What is stored survives `crash` and `restart`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from aspen.deterministic.time import SimulatedTime
from aspen.errors import ControlPlaneError, NoLeader, NotLeader, invariant
from aspen.identity import Identity
from aspen.limits import LEASE_CHECK_MS
from aspen.raft.admission import Refusal, may_take_over, read_marker
from aspen.raft.control import MembershipControl
from aspen.raft.core import ProposalDropped
from aspen.raft.envelope import MARKER, open_envelope
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    decode_conf_change,
)
from aspen.raft.pending import PendingProposals, PendingReads
from aspen.raft.plans import Founder, check_founders
from aspen.raft.proposing import Proposing
from aspen.raft.rawnode import RaftConfig, RawNode, Ready, Role
from aspen.raft.roster import ChangeContext, Member, Roster, decode_context, encode_context
from aspen.raft.standing import Standing
from aspen.state.commands import Command, Result, encode_command, validate_command
from aspen.state.kv_reader import LmdbKv
from aspen.state.lease_expiry import LeaseClock
from aspen.state.leases import LmdbLeases
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.packets import LmdbPackets
from aspen.state.ports import Consistency, Freshness
from aspen.state.zones import LmdbZones

TICK_MS: Final = 10
HEARTBEAT_TICKS: Final = 5
ELECTION_TICKS: Final = 15
ELECTION_TICKS_MAX: Final = 30
_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})

Send = Callable[["DeterministicMember", Sequence[Message]], None]


class Disk(MemoryStorage):
    """What a member has stored: its log, its hard state, and how far both state and members have come."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster()
        self.applied_index = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.roster.conf_state


class DeterministicMember:
    """A handle like `Node`: `control`, `proposer`, `kv` and `packets` are what programs use."""

    def __init__(
        self, node_id: int, identity: Identity, time: SimulatedTime, rng: random.Random, send: Send
    ) -> None:
        self.node_id = node_id
        self.identity = identity
        self.host, self.port = f"node-{node_id}", 7_300
        """An address as members have one; nothing listens there."""
        self.time = time
        self.is_up = False
        self._rng = rng
        self._send = send
        self._incarnation = 0
        self._disk = Disk()
        self._store = MemoryStore()
        self._machine = Machine(self._store)
        self.kv = LmdbKv(self._store)
        self.leases = LmdbLeases(self._store)
        self.clock_ahead_ms = 0
        """How far its wall clock is from the right time; set it to have the clock step."""
        self._lease_clock = LeaseClock(self.leases)
        self._leading: tuple[int, int] | None = None
        """(term, since when), while it leads."""
        self._leases_due_ms = 0
        self.packets = LmdbPackets(self._store)
        self.zones = LmdbZones(self._store)
        self.control = MembershipControl(self)
        self.proposer = DeterministicProposer(self)
        self.start()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Come up with what is on disk."""
        invariant(not self.is_up, "the member is up already")
        disk = self._disk
        config = RaftConfig(
            node_id=self.node_id,
            election_ticks=ELECTION_TICKS,
            election_ticks_max=ELECTION_TICKS_MAX,
            heartbeat_ticks=HEARTBEAT_TICKS,
            storage=disk,
            rng=self._rng,
            applied=disk.applied_index,
            check_quorum=True,
            pre_vote=True,
            step_down_on_removal=True,
        )
        self.raw = RawNode(config)
        self.roster = disk.roster
        self.leader_id = 0
        self.role: Role = Role.FOLLOWER
        self.heard_at_ms: int | None = None
        self._incarnation += 1
        incarnation = self.node_id.to_bytes(4, "big") + self._incarnation.to_bytes(4, "big")
        self.proposals = PendingProposals(self.time, incarnation)
        self.reads = PendingReads(self.time, incarnation)
        self._proposing = Proposing(
            self.raw, self.proposals, lambda: self.roster, self.wall_ms, self._machine.refuses
        )
        self.standing = Standing(
            self.endpoint_id,
            self.roster,
            patience_ms=ELECTION_TICKS_MAX * TICK_MS,
            clock_ms=self.time.now_ms,
            on_removed=self._removed,
        )
        self.is_up = True
        self._arm_tick(self._rng.random() * TICK_MS)

    def crash(self) -> None:
        """Stop at once. What waits here ends; what is on disk stays."""
        self.is_up = False
        self.proposals.close()
        self.reads.close()

    def _arm_tick(self, delay_ms: float) -> None:
        self.time.call_later(delay_ms / 1_000, self._tick, self._incarnation)

    def _tick(self, incarnation: int) -> None:
        if not self.is_up or incarnation != self._incarnation:
            return
        self._arm_tick(TICK_MS)
        if self.standing.may_tick(leads=self.role is Role.LEADER):
            self.raw.tick()
        if self.reads.stale(self.time.time()):
            self.reads.retry()
        self._expire_leases()
        self.settle()

    def wall_ms(self) -> int:
        return self.time.wall_ms() + self.clock_ahead_ms

    def _expire_leases(self) -> None:
        """What `LeaseExpiry` does on a real node's leader; nobody waits for the outcome."""
        now_ms = self.time.now_ms()
        if self.role is not Role.LEADER:
            self._leading = None
            return
        if self._leading is None or self._leading[0] != self.raw.term:
            self._leading, self._leases_due_ms = (self.raw.term, now_ms), now_ms
        if now_ms >= self._leases_due_ms:
            self._leases_due_ms = now_ms + LEASE_CHECK_MS
            command, _ = self._lease_clock.due(now_ms - self._leading[1])
            if command is not None:
                outcome = self.proposals.add(encode_command(command))
                outcome.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    # --- what comes in ------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A message from another member."""
        if not self.is_up or not self.standing.takes(message):
            return
        if message.type is MessageType.TRANSFER_LEADER and not may_take_over(self.raw.raft, message.sender):
            return
        if message.type is MessageType.PROP:
            proposal = self._proposing.received(message)
            if proposal is None:
                return
            message = proposal
        try:
            self.raw.step(message)
        except ProposalDropped:
            pass  # its proposer hears nothing, and in the end that the outcome is unknown
        if message.type in _FROM_LEADER and message.sender == self.raw.leader_id:
            self.heard_at_ms = self.time.now_ms()
            self.standing.heard_leader()
        self.settle()

    def told_removed(self) -> None:
        """A member that knows of this one's removal refuses to speak to it."""
        self.standing.told()

    def _removed(self) -> None:
        self.raw.forget_leader()
        self.proposals.close()
        self.reads.close()

    # --- carrying out -------------------------------------------------------------------------

    def settle(self) -> None:
        """Propose what waits, and carry out what the core asks for, until it asks for nothing."""
        if self.raw.leader_id:
            self._proposing.propose_waiting()
            if (context := self.reads.next_round()) is not None:
                self.raw.read_index(context)
        while self.is_up and self.raw.has_ready():
            self._carry_out(self.raw.ready())
            self.raw.advance()

    def _carry_out(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self.leader_id, self.role = ready.soft_state.leader_id, ready.soft_state.role
            if self.leader_id:
                self.reads.retry()
                self.heard_at_ms = self.time.now_ms()
        for read in ready.read_states:
            self.reads.confirmed(read.context, read.index, self._disk.applied_index)
        self._disk.append(ready.entries)
        if ready.hard_state is not None:
            self._disk.hard_state = ready.hard_state
        if ready.committed_entries:
            self._apply(ready.committed_entries)
        self._send(self, (*ready.messages, *ready.messages_after_persist))

    def _apply(self, committed: Sequence[Entry]) -> None:
        with self._store.write() as txn:
            self._machine.begin(txn)
            for entry in committed:
                if entry.kind is not EntryKind.NORMAL:
                    self._change(decode_conf_change(entry))
                elif entry.data:
                    request_id, proposed_at_ms, command = open_envelope(entry.data)
                    told: Any = command
                    if not command.startswith(MARKER):
                        told = self._machine.apply(txn, entry.index, proposed_at_ms, command)
                    self.proposals.applied(request_id, told)
            self._machine.end(txn)
        last = committed[-1]
        self._disk.applied_index = last.index
        self.proposals.term_applied(last.term)
        self.reads.applied(last.index)

    def _change(self, change: ConfChangeV2) -> None:
        self.roster = self._disk.roster = self.roster.changed(change, self.raw.apply_conf_change(change))
        self.proposals.applied(decode_context(change.context).request_id, True)
        self.standing.applied(self.roster)

    # --- what changes of the membership stand on (`aspen.raft.control.Ground`) -----------------

    @property
    def endpoint_id(self) -> bytes:
        return self.identity.endpoint_id

    @property
    def term(self) -> int:
        return self.raw.term

    @property
    def removed(self) -> bool:
        return self.standing.removed

    @property
    def election_timeout_ms(self) -> int:
        return ELECTION_TICKS_MAX * TICK_MS

    @property
    def applied_index(self) -> int:
        return self._disk.applied_index

    def initialise(self, members: Sequence[Founder]) -> None:
        """Found a cluster. Raises `ControlPlaneError.InvalidRequest`."""
        if self.raw.term or self.raw.last_index:
            raise ControlPlaneError.InvalidRequest("this node belongs to a cluster already")
        check_founders(members, self.node_id, self.endpoint_id)
        cluster_id = self._rng.randbytes(16)
        self.raw.bootstrap(
            [
                (n, encode_context(ChangeContext((Member(n, endpoint_id, addresses, cluster_id),))))
                for n, endpoint_id, addresses in sorted(members)
            ]
        )
        self.settle()
        self.raw.campaign()
        self.settle()

    async def propose(self, command: bytes, change: ConfChangeV2 | None = None) -> Any:
        """As `RaftDriver.propose`; simulated time passes meanwhile."""
        self._check_in_service()
        return await self.outcome(self.proposals.add(command, change))

    async def propose_change(self, change: ConfChangeV2) -> Refusal | None:
        told = await self.propose(MARKER, change)
        return None if told is True else read_marker(told)

    async def read_barrier(self) -> None:
        self._check_in_service()
        await self.outcome(self.reads.add())

    async def outcome(self, future: asyncio.Future[Any]) -> Any:
        """Let time pass until it is there."""
        self.settle()
        self.time.run_until(future.done)
        return await future

    async def kv_beyond(self, revision: int) -> None:
        """Let time pass until this member has applied a change of a key after `revision`, and others
        have their turn meanwhile, one of whom will have to write."""
        while self.kv.revision() <= revision:
            if not self.is_up:
                raise NoLeader("this node is down")
            self.time.run_for(TICK_MS)
            await asyncio.sleep(0)

    def ask_transfer(self, node_id: int) -> bool:
        if not may_take_over(self.raw.raft, node_id):
            return False
        self.raw.transfer_leader(node_id)
        self.settle()
        return True

    def now_ms(self) -> int:
        return self.time.now_ms()

    async def sleep_ms(self, duration_ms: int) -> None:
        self.time.run_for(duration_ms)

    def _check_in_service(self) -> None:
        if not self.is_up:
            raise NoLeader("this node is down")
        self.standing.check()


class DeterministicProposer:
    """`aspen.state.ports.Proposer` over one member."""

    def __init__(self, member: DeterministicMember) -> None:
        self._member = member

    async def propose(self, command: Command) -> Result:
        validate_command(command)
        result: Result = await self._member.propose(encode_command(command))
        return result

    async def barrier(self, consistency: Consistency) -> None:
        member = self._member
        if consistency is Consistency.STALE:
            return
        if consistency is Consistency.LEADER and member.role is not Role.LEADER:
            raise NotLeader(member.leader_id)
        await member.read_barrier()

    def freshness(self) -> Freshness:
        member = self._member
        if member.role is Role.LEADER:
            since_ms = 0
        else:
            since_ms = -1 if member.heard_at_ms is None else member.time.now_ms() - member.heard_at_ms
        return Freshness(member.applied_index, member.leader_id, since_ms)
