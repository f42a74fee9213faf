"""The Raft driver: the shell that runs a `RawNode` on an event loop.

Everything the core does happens on the loop's thread, in `_pump`: feed it what has arrived
(messages, ticks, proposals, reads), then carry out each `Ready`. Storage work goes to the
writer thread; messages that promise durability leave when it reports back (the core marks
them, see "async storage writes" in rawnode). All that arrives within one turn of the loop
shares one `Ready`, and all that waits for the disk shares one commit.

The fate of a proposal: its future resolves when the entry is applied *here*. It fails with
`NoLeader`, `Overloaded` or `NoRoom` only if it certainly was not proposed; once handed to the
core it can only succeed or end as `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from aspen.errors import NoLeader, NoRoom, StorageError, StorageFull
from aspen.limits import RAFT_BATCHES_IN_FLIGHT
from aspen.raft.admission import Refusal, may_take_over, read_marker
from aspen.raft.catchup import CatchUp
from aspen.raft.core import ProposalDropped
from aspen.raft.envelope import MARKER
from aspen.raft.lease import Lease, seconds_since_boot
from aspen.raft.measures import CommitTimes, LeaderTimes
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChangeV2,
    EntryKind,
    HardState,
    Message,
    MessageType,
    decode_conf_change,
)
from aspen.raft.pending import PendingProposals, PendingReads
from aspen.raft.ports import Clock, Listeners, Transport
from aspen.raft.proposing import Proposing
from aspen.raft.rawnode import RawNode, Role
from aspen.raft.room import Room
from aspen.raft.roster import Roster, decode_context
from aspen.raft.snapshots import OpenStream
from aspen.raft.standing import Standing, is_named
from aspen.raft.storage import LmdbLog
from aspen.raft.writer import Install, Retention, StateMachine, WriteJob, Writer
from aspen.state.store import Store

log = structlog.get_logger("aspen.raft")

_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})


class RaftDriver:
    """Runs one node's `RawNode`. Create it on the loop it is to run on."""

    def __init__(
        self,
        *,
        raw: RawNode,
        node_id: int,
        store: Store,
        log_storage: LmdbLog,
        machine: StateMachine,
        transport: Transport,
        clock: Clock,
        tick_ms: float,
        retention: Retention,
        listeners: Listeners,
        open_stream: OpenStream,
    ) -> None:
        self.raw = raw
        self.node_id = node_id
        self.roster: Roster = log_storage.roster
        self._leader_id = 0
        self.role: Role = Role.FOLLOWER
        self.last_contact_ms: int | None = None
        self.applied_index = log_storage.applied_index
        self.failure: Exception | None = None
        election_seconds = raw.raft.config.election_ticks * tick_ms / 1000
        self.room = Room(raw, election_seconds)
        self._lease = Lease(raw, seconds_since_boot, tick_ms / 1000, election_seconds)
        self._log_storage = log_storage
        self._transport = transport
        self._clock = clock
        self._tick_seconds = tick_ms / 1000
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self.writer = Writer(
            store,
            log_storage,
            machine,
            retention,
            on_durable=self._written,
            on_installed=lambda install, switched: self._from_writer(self._switch, install, switched),
            on_no_room=lambda error: self._from_writer(self._room_ended, error),
            on_failure=lambda error: self._from_writer(self._halt, error),
            slow=listeners.slow,
        )
        self.catch_up = CatchUp(
            raw,
            store,
            log_storage,
            open_stream=open_stream,
            clock=self._loop.time,
            step=self._step,
            wake=self.wake,
        )
        key = log_storage.node.endpoint_id if log_storage.node is not None else b""
        patience_ms = raw.raft.config.timeout_bounds[1] * tick_ms
        self.standing = Standing(
            key, self.roster, patience_ms=patience_ms, clock_ms=clock.monotonic_ms, on_removed=self._removed
        )
        self._hard_state = log_storage.hard_state
        self._batches_in_flight = 0
        self._pump_scheduled = self._stopped = False
        self._tick_timer: asyncio.TimerHandle | None = None
        self._campaign_from: int | None = None
        self.proposals = PendingProposals(self._loop, os.urandom(8))
        self._reads = PendingReads(self._loop, os.urandom(8))
        self._proposing = Proposing(raw, self.proposals, lambda: self.roster, clock.wall_ms, machine.refuses)
        self.commits, self.leaders = CommitTimes(seconds_since_boot), LeaderTimes(seconds_since_boot)

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self.writer.start()
        self._arm_tick(self._loop.time() + self._tick_seconds)
        self.wake()

    async def stop(self) -> None:
        """Stop ticking, make durable what is queued, and fail what still waits."""
        self._stopped = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        await self.catch_up.intake.close()
        if self.failure is None:
            await asyncio.to_thread(self.writer.stop)
        self.catch_up.offers.close()
        self.proposals.close()
        self._reads.close()

    def wake(self) -> None:
        """Run `_pump` once this turn of the loop has taken in whatever else has arrived."""
        if not self._pump_scheduled and not self._stopped:
            self._pump_scheduled = True
            self._loop.call_soon(self._guard, self._pump)

    def _guard(self, act: Callable[..., None], *arguments: Any) -> None:
        """Every way into the core: a broken invariant, or a log that can't be read, stops the node.
        The loop would only log it, and go on with a core left half way."""
        try:
            act(*arguments)
        except Exception as error:
            self._halt(error)

    def _arm_tick(self, when: float) -> None:
        self._tick_timer = self._loop.call_at(when, self._guard, self._tick, when)

    def _tick(self, due: float) -> None:
        # Ticks missed while this process was held up are skipped, not made up for: what arrived
        # meanwhile must be heard before an election timeout may run out.
        now = self._loop.time()
        following = due + self._tick_seconds
        self._arm_tick(following if following > now else now + self._tick_seconds)
        if self.room.may_tick(now) and self.standing.may_tick(leads=self.role is Role.LEADER):
            self.raw.tick()
            self._lease.ticked()
        self.catch_up.offers.expire()
        if self._reads.stale(now):
            self._reads.retry()
        self.wake()

    # --- what comes in ------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A message from a node that has proven the cookie."""
        heard = is_named(message, self.roster, self.raw.leader_id) and self.room.takes(message)
        if heard and self.standing.takes(message) and not self._stopped and not self._is_stuck():
            self._guard(self._take, message)

    def _take(self, message: Message) -> None:
        if message.type is MessageType.TRANSFER_LEADER and not may_take_over(self.raw.raft, message.sender):
            return
        if message.type is MessageType.PROP:
            if (proposal := self._proposing.received(message)) is not None:
                self._step(proposal)
        elif message.type is MessageType.SNAP and self.catch_up.needs(message):
            self.catch_up.fetch(message)
        else:
            self._step(message)
        if message.type in _FROM_LEADER and message.sender == self.raw.leader_id:
            self.last_contact_ms = self._clock.monotonic_ms()
            self.standing.heard_leader()
        self.wake()

    def _step(self, message: Message) -> None:
        try:
            self.raw.step(message)
        except ProposalDropped:
            # Its proposer is told nothing: a dropped forward ends as an unknown outcome there.
            log.debug("a forwarded proposal was dropped", sender=message.sender)

    def _switch(self, install: Install, switched: threading.Event) -> None:
        """The snapshot is the state on disk. On the loop, while the writer waits."""
        try:
            self.catch_up.switch(install)
            self._listeners.replaced()
        finally:
            switched.set()
        own = install.own
        self.roster = own.roster
        self.standing.applied(own.roster)
        self.applied_index = own.index
        self.proposals.term_applied(own.term)
        self._reads.applied(own.index)

    def unreachable(self, node_id: int) -> None:
        """The transport could not reach a member."""
        if not self._stopped:
            self.raw.report_unreachable(node_id)
            self.catch_up.offers.unreachable(node_id)

    async def propose(self, command: bytes) -> Any:
        """Replicate a command; return what the machine said of it, once applied on this node.

        Raises `NoLeader`, `Overloaded` or `NoRoom` (not proposed) or `OutcomeUnknown`.
        """
        return await self._propose(command)

    async def propose_change(self, change: ConfChangeV2) -> Refusal | None:
        """Replicate a change of the membership; None once it is in effect here, or why it never will be.

        Raises as `propose` does. A change that enters a joint configuration is left by itself, later.
        """
        told = await self._propose(MARKER, change)
        return None if told is True else read_marker(told)

    async def _propose(self, command: bytes, change: ConfChangeV2 | None = None) -> Any:
        self._check_in_service()
        if self.room.error is not None:
            raise NoRoom("this node's disk is full; another node may take the write")
        future = self.proposals.add(command, change)
        self.wake()
        return await future

    async def read_barrier(self, *, leased: bool = False) -> None:
        """Return once the local replica holds all that was acknowledged before this call.

        ReadIndex (thesis §6.4); `leased`, at once on a leader under its lease (§6.4.1).
        Raises `NoLeader` or `Overloaded`.
        """
        self._check_in_service()
        if leased and (index := self._lease.read_index()) is not None and index <= self.applied_index:
            return
        future = self._reads.add()
        self.wake()
        await future

    def _check_in_service(self) -> None:
        if self._stopped:
            raise NoLeader("this node is stopping")
        self.standing.check()

    @property
    def leader_id(self) -> int:
        """0 if none is known. A removed node follows nobody, though its core may not forget: a vote
        set free could break the leader's lease."""
        return 0 if self.standing.removed else self._leader_id

    def _removed(self) -> None:
        self._fail_waiting()
        self._listeners.progressed()

    def _fail_waiting(self) -> None:
        """A node that was removed applies nothing more, once what it has got so far is applied."""
        if not self._batches_in_flight:
            self.proposals.close()
            self._reads.close()

    def campaign_once_applied(self, index: int) -> None:
        """Stand once `index` is applied, not after a timeout: for founders, and for a sole voter."""
        self._campaign_from = index
        self._campaign_if_due()

    def _campaign_if_due(self) -> None:
        if self._campaign_from is not None and self.applied_index >= self._campaign_from:
            self._campaign_from = None
            if not self.raw.leader_id:
                self.raw.campaign()
                self.wake()

    # --- the pump -----------------------------------------------------------------------------

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._stopped:
            return
        if self.raw.leader_id:
            if self.room.error is None:
                self._proposing.propose_waiting()
            if (context := self._reads.next_round()) is not None:
                self.raw.read_index(context)
        while self._batches_in_flight < RAFT_BATCHES_IN_FLIGHT and self.raw.has_ready():
            self._carry_out()

    def _carry_out(self) -> None:
        ready = self.raw.ready()
        if ready.soft_state is not None:
            self._role_changed(ready.soft_state.leader_id, ready.soft_state.role)
        for read in ready.read_states:
            self._reads.confirmed(read.context, read.index, self.applied_index)
        outgoing: list[Message] = []
        append, apply = None, None
        for message in ready.messages:
            if message.to == LOCAL_APPEND_THREAD:
                append = message
            elif message.to == LOCAL_APPLY_THREAD:
                apply = message
            else:
                outgoing.append(message)
                if message.type is MessageType.SNAP:
                    self.catch_up.offers.assign(message)
        if outgoing:
            self._transport.send(outgoing)
        self.commits.note(append.entries if append else (), self.role is Role.LEADER, self.raw.commit_index)
        if append is not None or apply is not None:
            self.submit(self._job(append, apply))
        self._listeners.progressed()

    def submit(self, job: WriteJob) -> None:
        self._batches_in_flight += 1
        self.writer.submit(job)

    def _job(self, append: Message | None, apply: Message | None) -> WriteJob:
        job = WriteJob()
        responses: list[Message] = []
        if append is not None:
            job.entries = append.entries
            if append.term or append.vote or append.commit:
                self._hard_state = HardState(append.term, append.vote, append.commit)
                job.hard_state = self._hard_state
            if append.snapshot is not None:
                job.install = self.catch_up.install_of(append.snapshot, self._hard_state)
            responses += append.responses
        if apply is not None:
            job.committed = apply.entries
            self._change_roster(job)
            responses += apply.responses
        job.responses = responses
        return job

    def _change_roster(self, job: WriteJob) -> None:
        """Switch the core to each configuration as its entry is handed out for application. It is committed,
        so this can't be undone; a crash before it is durable as applied has it applied again."""
        for entry in job.committed:
            if entry.kind is not EntryKind.NORMAL:
                change = decode_conf_change(entry)
                self.roster = self.roster.changed(change, self.raw.apply_conf_change(change))
                job.changes.append(decode_context(change.context).request_id)
                job.rosters.append((entry.index, self.roster))
        if job.rosters:
            log.info("membership", **self.roster.roles)
            self.standing.applied(self.roster)

    def _role_changed(self, leader_id: int, role: Role) -> None:
        if (leader_id, role) == (self._leader_id, self.role):
            return
        self.leaders.note(leader_id)
        self._leader_id, self.role = leader_id, role
        log.info("leadership", role=role.name.lower(), leader=leader_id or None, term=self.raw.term)
        if leader_id:
            self._reads.retry()
            self.last_contact_ms = self._clock.monotonic_ms()

    # --- back from the writer -----------------------------------------------------------------

    def _from_writer(self, act: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(self._guard, act, *arguments)

    def _written(self, jobs: Sequence[WriteJob], dns_changed: bool, cut: tuple[int, int] | None) -> None:
        """On the writer thread, after the commit."""
        if dns_changed:
            self._listeners.dns_changed()
        self._from_writer(self._durable, jobs, cut)

    def _room_ended(self, error: StorageFull) -> None:
        log.error("no room on disk: nothing is acknowledged until there is", error=str(error))
        self.room.ended(error, self._loop.time())
        self.proposals.refuse(self.proposals.take_all(), NoRoom("this node's disk is full"))
        self._listeners.progressed()
        self.wake()

    def _is_stuck(self) -> bool:
        """Whether so much waits for room that what is heard now could not even be answered."""
        return self.room.error is not None and self._batches_in_flight >= RAFT_BATCHES_IN_FLIGHT

    def _halt(self, error: Exception) -> None:
        """Fall silent at once: a leader that can't go on must not keep others from leading."""
        if self.failure is not None:
            return
        self.failure = error
        self._stopped = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        bug = None if isinstance(error, StorageError) else error
        log.critical("this node stops", error=str(error), exc_info=bug)
        self.proposals.close()
        self._reads.close()
        self._listeners.failed(error)

    def _durable(self, jobs: Sequence[WriteJob], cut: tuple[int, int] | None) -> None:
        """On the loop: the jobs are on disk; let go what waited for that."""
        if self.room.error is not None:
            self.room.again()
            log.warning("there is room on disk again")
        outgoing: list[Message] = []
        for job in jobs:
            self._batches_in_flight -= 1
            self._log_storage.durable(job.entries)
            for request_id in job.changes:
                self.proposals.applied(request_id, True)
            for request_id, result in job.results:
                self.proposals.applied(request_id, result, job)
            if job.committed:
                last = job.committed[-1]
                self.applied_index = last.index
                self.proposals.term_applied(last.term)
                self._reads.applied(last.index)
            if job.compaction is not None and not job.compaction.done():
                job.compaction.set_result(cut is not None)
            for message in job.responses:
                if message.to == self.node_id:
                    self.raw.step(message)
                else:
                    outgoing.append(message)
        if cut is not None:
            self._log_storage.compacted(*cut)
        self._campaign_if_due()
        if outgoing and not self._stopped:
            self._transport.send(outgoing)
        if self.standing.removed:
            self._fail_waiting()
        self._listeners.progressed()
        self.wake()
