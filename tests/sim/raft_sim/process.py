"""One process of a simulated node: the real Raft core, and a driver that follows production's rules.

As in `aspen.raft.driver`: asynchronous storage writes; one job holds the entries, the hard state
and the application of committed entries; answers that promise something leave only when it is
durable; a configuration takes effect in the core as its entry is handed out; ticks missed while
the process was held up are not made up for; a snapshot is fetched before the core sees its
message; a full disk (`aspen.raft.room`) and the lease (`aspen.raft.lease`) are production's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from raft_sim.config import raft_config
from raft_sim.disk import Job
from raft_sim.history import Operation, Outcome, ReadMode
from raft_sim.invariants import PROMISES
from raft_sim.kernel import TICK, Handler
from raft_sim.requests import Reads, Writes
from raft_sim.snapshots import Snapshots
from raft_sim.trace import describe_message
from raft_sim.writer import Writer

from aspen.errors import StorageFull
from aspen.raft.lease import Lease as LeaderLease
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeV2,
    EntryKind,
    HardState,
    Message,
    MessageType,
    decode_conf_change,
)
from aspen.raft.rawnode import ProposalDropped, RawNode, Role
from aspen.raft.room import Room

if TYPE_CHECKING:
    from raft_sim.node import Node

BATCHES_IN_FLIGHT: Final = 8


class Process:
    """From a start to the crash or stop that ends it. Raises `DiskError` if it can't start."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.world = world = node.world
        self.raw = RawNode(raft_config(node))
        self.raft = self.raw.raft
        self.alive = True
        self.paused = False
        self.applied = node.disk.applied
        self.room = Room(self.raw, world.profile.election_units)
        self.writer = Writer(self)
        self.snapshots = Snapshots(self)
        self.writes = Writes(world.ended)
        self.reads = Reads(node.incarnation, self._serve, world.ended)
        self.batches = 0
        self._lease = LeaderLease(
            self.raw, world.kernel.clock, node.tick_length, world.profile.election_units
        )
        self._backlog: list[tuple[Handler, Any, Any]] = []
        """What came in while the process was paused."""
        self._wake_scheduled = False
        self._tick_missed = False
        self._ticks_to_skip = 0
        self._last_tick = world.kernel.now
        self._hard_state = node.disk.hard_state
        self._leader = (0, Role.FOLLOWER)
        self._campaign_from: int | None = None

    def begin(self) -> None:
        """Start ticking; found the cluster, or stand at once, if that is for this node to do."""
        node, world, raft = self.node, self.world, self.raft
        world.kernel.schedule(node.random.randrange(TICK), self.on_tick)
        blank = not raft.term and not raft.log.last_index
        if blank and node.node_id in world.bootstrapping:
            self.raw.bootstrap([(node_id, b"") for node_id in world.founders])
            self._campaign_once_applied(len(world.founders))
            self.observe()
            self.wake()
        elif node.disk.conf_state.voters == (node.node_id,):
            self._campaign_once_applied(raft.log.committed)

    def end(self) -> None:
        """Whoever waits for this process sees a broken connection."""
        self.alive = False
        for _, item, _ in self._backlog:
            if isinstance(item, Operation):
                self.world.ended(item, Outcome.UNKNOWN, 0)
        self.writes.close()
        self.reads.close()

    # --- time ---------------------------------------------------------------------------------

    def defers(self, handler: Handler, first: object = None, second: object = None) -> bool:
        """Whether the process is paused, and the event has to wait."""
        if self.paused:
            self._backlog.append((handler, first, second))
        return self.paused

    def resume(self, _: object = None, __: object = None) -> None:
        """What came in meanwhile is dealt with now; what clients asked and what others said in any order."""
        if not self.alive or not self.paused:
            return
        self.world.trace("{} resumes", self.node.node_id)
        self.paused = False
        self._notice_lost_time(0)
        if self._tick_missed and self.node.random.random() < 0.5:
            self._late_tick()
        if self.node.random.random() < 0.5:
            self._backlog.sort(key=lambda item: not isinstance(item[1], Operation))
        while self._backlog:
            handler, first, second = self._backlog.pop(0)
            handler(first, second)
        if self._tick_missed:
            self._late_tick()

    def _late_tick(self) -> None:
        self._tick_missed = False
        self.on_tick()

    def step_clock(self, ticks: int) -> None:
        """The clock jumps forward, or stands still until time has caught up with it."""
        if self.paused:
            return
        if ticks < 0:
            self._ticks_to_skip = -ticks
            return
        for _ in range(ticks):
            self.raw.tick()
            self.observe()
        self.wake()

    def heal(self) -> None:
        """The clock is right again, and nothing holds the process up."""
        self._ticks_to_skip = 0
        self.resume()

    def on_tick(self, _: object = None, __: object = None) -> None:
        if not self.alive:
            return
        if self.paused:
            self._tick_missed = True
            return
        kernel = self.world.kernel
        now = kernel.now
        kernel.schedule(self.node.tick_length, self.on_tick)
        self._notice_lost_time(1)
        self._last_tick = now
        if self._ticks_to_skip:
            self._ticks_to_skip -= 1
            return
        if self.room.may_tick(now):
            self.raw.tick()
            self._lease.ticked()
        self.observe()
        self.writes.expire(now)
        self.reads.tick(now)
        self.wake()

    def _notice_lost_time(self, ticks_due: int) -> None:
        """Ticks that were missed don't count towards elections, but a lease has grown older by them."""
        tick_length = self.node.tick_length
        missed = (self.world.kernel.now - self._last_tick) // tick_length - ticks_due
        if missed > 0:
            self.raw.skip_ticks(missed)
            self._last_tick += missed * tick_length

    # --- messages -----------------------------------------------------------------------------

    def receive(self, message: Message, peer: int) -> None:
        if self.defers(self.receive, message, peer) or not self.alive:
            return
        if message.sender != peer and message.type is not MessageType.TRANSFER_LEADER:
            return  # passed on in another's name: the transport refuses that
        if not self.room.takes(message) or (self.room.error and self.batches >= BATCHES_IN_FLIGHT):
            return
        if self.world.tracing:
            self.world.trace("{} <- {}", self.node.node_id, describe_message(message))
        if message.type is MessageType.SNAP and self.world.profile.streamed_snapshots:
            self.snapshots.fetch(message)
        else:
            self.step(message)

    def step(self, message: Message) -> None:
        try:
            self.raw.step(message)
        except ProposalDropped:
            return  # its proposer learns nothing
        self.observe()
        if message.type is MessageType.PROP:
            self._took_proposal(len(message.entries))
        self.wake()

    def _took_proposal(self, count: int) -> None:
        if self.raft.role is Role.LEADER:
            self.node.batch_size = count
            self.world.invariants.uncommitted(self.node)

    def peer_unreachable(self, peer: int) -> None:
        if not self.paused:
            self.raw.report_unreachable(peer)
            self.wake()

    # --- requests -----------------------------------------------------------------------------

    def propose(self, operation: Operation, data: bytes) -> None:
        if self.defers(self.propose, operation, data):
            return
        if self.room.error is not None:
            self.world.ended(operation, Outcome.REFUSED, 0)
            return
        self.writes.add(operation, data, self.world.kernel.now)
        self.wake()

    def read(self, operation: Operation, _: object = None) -> None:
        if self.defers(self.read, operation):
            return
        now = self.world.kernel.now
        if operation.mode is ReadMode.READ_INDEX:
            self.reads.add(operation, now)
            self.wake()
        elif (index := self._lease.read_index()) is None:
            self.world.ended(operation, Outcome.REFUSED, 0)
        else:
            self.reads.confirmed_at([(now, operation)], index, self.applied)

    def _serve(self, operation: Operation) -> None:
        self.world.ended(operation, Outcome.OK, self.node.disk.machine.registers.get(operation.key, 0))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> bool:
        """False if it certainly was not proposed."""
        try:
            self.raw.propose_conf_change(change)
        except ProposalDropped:
            return False
        self.observe()
        self.wake()
        return True

    def transfer_leader(self, to: int) -> None:
        self.raw.transfer_leader(to)
        self.observe()
        self.wake()

    def campaign(self) -> None:
        self.raw.campaign()
        self.observe()
        self.wake()

    def forget_leader(self) -> None:
        self.raw.forget_leader()
        self.observe()
        self.wake()

    def compact(self, index: int) -> None:
        """Drop the log up to `index`, in a transaction of its own."""
        job = Job()
        job.compact_to = index
        self.writer.submit(job)

    def _campaign_once_applied(self, index: int) -> None:
        self._campaign_from = index
        self._campaign_if_due()

    def _campaign_if_due(self) -> None:
        if self._campaign_from is not None and self.applied >= self._campaign_from:
            self._campaign_from = None
            if not self.raft.leader_id:
                self.raw.campaign()
                self.observe()
                self.wake()

    # --- the pump -----------------------------------------------------------------------------

    def observe(self) -> None:
        """Called after everything the core was asked to do."""
        raft, node = self.raft, self.node
        if raft.log.committed != node.seen_commit:
            self.world.invariants.commit_moved(node)
        if raft.term != node.seen_term or raft.vote != node.seen_vote:
            self.world.invariants.term_moved(node)
        if raft.role is Role.LEADER and node.led_term != raft.term:
            self.world.invariants.elected(node)

    def wake(self) -> None:
        turn = self.world.profile.turn
        if not turn:
            self._pump()
        elif not self._wake_scheduled:
            self._wake_scheduled = True
            self.world.kernel.schedule(self.node.random.randrange(turn), self._on_wake)

    def _on_wake(self, _: object = None, __: object = None) -> None:
        if self.alive and not self.defers(self._on_wake):
            self._wake_scheduled = False
            self._pump()

    def _pump(self) -> None:
        raw = self.raw
        if self.raft.leader_id:
            if self.writes.queued and self.room.error is None:
                self._propose_waiting()
            if self.reads.queued:
                raw.read_index(self.reads.next_round(self.world.kernel.now))
                self.observe()
        while self.batches < BATCHES_IN_FLIGHT and raw.has_ready():
            self._carry_out()

    def _propose_waiting(self) -> None:
        batch = self.writes.take()
        try:
            self.raw.propose_many(self.writes.data(batch))
        except ProposalDropped:
            self.writes.refuse(batch)
            return
        self.writes.proposed(batch, self.raft.term)
        self.observe()
        self._took_proposal(len(batch))

    def _carry_out(self) -> None:
        ready = self.raw.ready()
        if ready.soft_state is not None:
            self._role_changed(ready.soft_state.leader_id, ready.soft_state.role)
        for read in ready.read_states:
            self.reads.confirmed(read.context, read.index, self.applied)
        invariants = self.world.invariants
        outgoing: list[Message] = []
        append = apply = None
        for message in ready.messages:
            if message.to == LOCAL_APPEND_THREAD:
                append = message
            elif message.to == LOCAL_APPLY_THREAD:
                apply = message
            else:
                outgoing.append(message)
                if message.type in PROMISES:
                    invariants.promised(self.node, message)
        if self.raft.role is Role.LEADER:
            invariants.limits(self.node)
        if outgoing:
            self.send(outgoing)
        if append is not None or apply is not None:
            self.batches += 1
            self.writer.submit(self.job(append, apply))

    def _role_changed(self, leader_id: int, role: Role) -> None:
        if (leader_id, role) == self._leader:
            return
        self._leader = (leader_id, role)
        if self.world.tracing:
            term = self.raft.term
            self.world.trace("{} is {} of term {}, leader {}", self.node.node_id, role.name, term, leader_id)
        if leader_id:
            self.reads.retry()

    def send(self, messages: Sequence[Message]) -> None:
        network, node = self.world.network, self.node
        for message in messages:
            if node.crash_in:
                node.crash_point()
            if message.type is MessageType.SNAP:
                self.snapshots.offered(message)
            network.send(node.node_id, message)
        if node.crash_in:
            node.crash_point()

    def job(self, append: Message | None, apply: Message | None) -> Job:
        """What the writer is to do for one `Ready`."""
        invariants = self.world.invariants
        job = Job()
        if append is not None:
            if append.entries:
                invariants.appended(self.node, append.entries)
            job.entries = append.entries
            if append.snapshot is not None:
                invariants.restored(self.node, append.snapshot.metadata)
                job.snapshot = append.snapshot
            if append.term or append.vote or append.commit:
                self._hard_state = HardState(append.term, append.vote, append.commit)
                job.hard_state = self._hard_state
            job.responses = append.responses
        if apply is not None:
            job.committed = apply.entries
            self.switch_configuration(job)
            job.responses = (*job.responses, *apply.responses)
        return job

    def switch_configuration(self, job: Job) -> None:
        """Configurations take effect as their entries are handed out for application."""
        for entry in job.committed:
            if entry.kind is not EntryKind.NORMAL:
                job.conf_state = self.raw.apply_conf_change(decode_conf_change(entry))
                self.world.invariants.conf_applied(self.node, entry.index, job.conf_state)
                self.observe()
                self.world.trace("{} applies configuration {}", self.node.node_id, job.conf_state)

    # --- back from the writer -----------------------------------------------------------------

    def report(self, job: Job, outgoing: list[Message]) -> None:
        """`job` is durable; let go what waited for that. What is to be sent goes into `outgoing`."""
        if not job.compact_to:
            self.batches -= 1
        for request_id, found in job.results:
            self.writes.applied(request_id, found)
        if job.committed:
            last = job.committed[-1]
            self.applied = last.index
            self.writes.term_applied(last.term)
            self.reads.applied(last.index)
        if job.snapshot is not None:
            self.snapshots.installed()
            self.writes.term_applied(job.snapshot.metadata.term)
            self.applied = job.snapshot.metadata.index
            self.reads.applied(self.applied)
        self.report_responses(job, outgoing)

    def report_responses(self, job: Job, outgoing: list[Message]) -> None:
        node = self.node
        for message in job.responses:
            if node.crash_in:
                node.crash_point()
            if message.to == node.node_id:
                self.raw.step(message)
                self.observe()
            else:
                if message.type in PROMISES:
                    self.world.invariants.promised(node, message)
                outgoing.append(message)

    def reported(self, outgoing: Sequence[Message]) -> None:
        """A transaction has been dealt with."""
        self._campaign_if_due()
        if outgoing:
            self.send(outgoing)
        self.wake()

    def room_ended(self, error: StorageFull) -> None:
        if self.room.error is None:
            self.world.trace("{}: no room", self.node.node_id)
            self.room.ended(error, self.world.kernel.now)
            self.writes.refuse(self.writes.take())
            self.observe()
            self.wake()
