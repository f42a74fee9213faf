"""One simulated node: a disk that lasts, and at times a process that runs the real Raft core over it.

The process follows the rules of production's driver and writer (`aspen.raft.driver`,
`aspen.raft.writer`): asynchronous storage writes; one transaction holds the entries, the hard
state and the application of committed entries; while it is being synced, more jobs queue up and
share the next; answers that promise something leave only when it is durable; a configuration
takes effect in the core as its entry is handed out; ticks missed while the process was held up
are not made up for.

A crash can be armed to happen at the n-th *crash point* from now; there is one before and after
each send, each hand-over to the writer, each commit and each report of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from raft_sim.disk import Disk, DiskError, Job
from raft_sim.history import Operation, Outcome, ReadMode
from raft_sim.invariants import PROMISES
from raft_sim.kernel import TICK
from raft_sim.profile import Lease
from raft_sim.requests import Reads, Writes
from raft_sim.trace import describe_message

from aspen.errors import StorageFull
from aspen.raft.lease import Lease as LeaderLease
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    decode_conf_change,
)
from aspen.raft.rawnode import ProposalDropped, RaftConfig, RawNode, ReadOnlyOption, Role
from aspen.raft.room import Room

if TYPE_CHECKING:
    from raft_sim.world import World

BATCHES_IN_FLIGHT: Final = 8
ROOM_RETRY: Final = TICK
FETCH: Final = 3 * TICK
"""How long it takes at most to fetch a snapshot."""
OFFER: Final = 20 * TICK
"""After that, a leader gives up a snapshot that it has offered."""


class Crashed(Exception):
    """The process of `node` ends here and now."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.node_id)
        self.node = node


class Node:
    """A member, or one that is to be, or was. `up` says whether its process runs."""

    raw: RawNode
    writes: Writes
    reads: Reads

    def __init__(self, world: World, node_id: int) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = Disk(node_id)
        self.up = False
        self.incarnation = 0
        self.retired = False
        """It was removed and is wiped: it never starts again."""
        self.was_member = False
        self.random = world.kernel.stream(f"node {node_id}")
        self.tick_length = TICK
        self.paused = False
        self.crash_in = 0
        """How many crash points from now the process ends; 0 for never."""
        self.eio_next = False
        self.disk_full = False
        self.fsync_slowness = 1

        # What the invariants remember of it.
        self.durable_term = self.durable_commit = self.durable_applied = 0
        self.leading_incarnation: dict[int, int] = {}
        self.seen_term = self.seen_vote = self.seen_commit = self.led_term = self.applied_seen = 0
        self.batch_size = 0
        self.inherited_bytes = 0
        """Of entries that a leader found uncommitted; the core counts them only as they are applied."""

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process over what is on the disk."""
        world = self.world
        self.incarnation += 1
        world.trace("{} starts", self.node_id)
        disk = self.disk
        try:
            disk.restart()
            world.invariants.restarted(self)
            self.raw = RawNode(self._config())
        except DiskError as error:
            world.trace("{} can't start: {}", self.node_id, error)
            return
        self.up = True
        self.raft = raft = self.raw.raft
        self.paused = False
        self.crash_in = 0
        self._backlog: list[tuple[Any, Any, Any]] = []
        self._jobs: deque[Job] = deque()
        self._committing = 0
        self._unreported: list[Job] = []
        self._batches = 0
        self._wake_scheduled = False
        self._tick_missed = False
        self._ticks_to_skip = 0
        self._fetching: Message | None = None
        clock = self.world.kernel.clock
        self._lease = LeaderLease(self.raw, clock, self.tick_length, world.profile.election_units)
        self._room = Room(self.raw, world.profile.election_units)
        self._last_tick = world.kernel.now
        self._hard_state = disk.hard_state
        self._leader = (0, Role.FOLLOWER)
        self._campaign_from: int | None = None
        self.applied = self.applied_seen = disk.applied
        self.writes = Writes(world.ended)
        self.reads = Reads(self.incarnation, self._serve, world.ended)
        self.seen_term, self.seen_vote = raft.term, raft.vote
        self.seen_commit = raft.log.first_index - 1
        self.led_term = 0
        world.invariants.commit_moved(self)
        world.kernel.schedule(self.random.randrange(TICK), self.on_tick, self.incarnation)
        blank = not raft.term and not raft.log.last_index
        if blank and self.node_id in world.bootstrapping:
            self.found_cluster()
        elif disk.conf_state.voters == (self.node_id,):
            self._campaign_once_applied(raft.log.committed)

    def _config(self) -> RaftConfig:
        profile = self.world.profile
        lease = profile.lease
        return RaftConfig(
            node_id=self.node_id,
            storage=self.disk,
            rng=self.random,
            election_ticks=profile.election_ticks,
            heartbeat_ticks=profile.heartbeat_ticks,
            applied=self.disk.applied,
            async_storage_writes=True,
            max_message_bytes=profile.max_message_bytes,
            max_committed_bytes_per_ready=profile.max_committed_bytes,
            max_uncommitted_bytes=profile.max_uncommitted_bytes,
            max_inflight_messages=profile.max_inflight_messages,
            max_inflight_bytes=profile.max_inflight_bytes,
            check_quorum=profile.check_quorum,
            pre_vote=profile.pre_vote,
            read_only_option=(
                ReadOnlyOption.LEASE_BASED if lease is Lease.LEASE_BASED else ReadOnlyOption.SAFE
            ),
            leader_lease=lease is Lease.LEADER,
            disable_proposal_forwarding=not profile.forwarding,
            step_down_on_removal=True,
        )

    @property
    def leads(self) -> bool:
        return self.raft.role is Role.LEADER

    @property
    def unusable(self) -> bool:
        """Whether it can't come back as it is."""
        return self.retired or (not self.up and self.disk.damaged)

    def found_cluster(self) -> None:
        """As a founder with an empty disk: know who the founders are."""
        members = self.world.founders
        self.raw.bootstrap([(node_id, b"") for node_id in members])
        self._campaign_once_applied(len(members))
        self.observe()
        self.wake()

    def crash(self) -> None:
        """End the process without warning. Of what was handed to the disk, some prefix is durable."""
        if not self.up:
            return
        self._end()
        in_flight = len(self._jobs)
        kept = self.random.randrange(in_flight + 1) if in_flight else 0
        self.world.count("crashes")
        self.world.trace("{} crashes; {} of {} jobs in flight are durable", self.node_id, kept, in_flight)
        survivors = [*self._unreported, *(self._jobs[position] for position in range(kept))]
        for job in survivors:
            self._make_durable(job)

    def stop(self) -> None:
        """End the process in order: what was handed to the disk gets there."""
        self._end()
        for job in self._jobs:
            self._make_durable(job)

    def _end(self) -> None:
        self.up = False
        self.incarnation += 1
        for _, item, _ in self._backlog:
            if isinstance(item, Operation):
                self.world.ended(item, Outcome.UNKNOWN, 0)
        self.writes.close()
        self.reads.close()

    def crash_point(self) -> None:
        """Called wherever a crash may matter; see the module's docstring."""
        self.crash_in -= 1
        if not self.crash_in:
            raise Crashed(self)

    def pause(self) -> None:
        self.paused = True

    def resume(self, incarnation: int, _: object = None) -> None:
        """What came in meanwhile is dealt with now; what clients asked and what others said in any order."""
        if incarnation != self.incarnation or not self.paused:
            return
        self.world.trace("{} resumes", self.node_id)
        self.paused = False
        self._notice_lost_time(0)
        if self._tick_missed and self.random.random() < 0.5:
            self._late_tick()
        if self.random.random() < 0.5:
            self._backlog.sort(key=lambda item: not isinstance(item[1], Operation))
        while self._backlog:
            handler, first, second = self._backlog.pop(0)
            handler(first, second)
        if self._tick_missed:
            self._late_tick()

    def _late_tick(self) -> None:
        self._tick_missed = False
        self.on_tick(self.incarnation)

    def draw_clock_rate(self) -> None:
        """Its clock runs at 0.9 to 1.1 of the right rate."""
        self.tick_length = int(TICK / (0.9 + 0.2 * self.random.random()))

    def step_clock(self, ticks: int) -> None:
        """Its clock jumps forward, or stands still until time has caught up with it."""
        if not self.up or self.paused:
            return
        if ticks < 0:
            self._ticks_to_skip = -ticks
            return
        for _ in range(ticks):
            self.raw.tick()
            self.observe()
        self.wake()

    def heal_disk(self) -> None:
        self.fsync_slowness = 1
        self.disk_full = False

    def heal(self) -> None:
        """End all its troubles."""
        self.heal_disk()
        self.eio_next = False
        self.crash_in = 0
        self.tick_length = TICK
        if self.retired:
            return
        self.disk.repair()
        if not self.up:
            self.start()
        self._ticks_to_skip = 0
        self.resume(self.incarnation)

    # --- what comes in ------------------------------------------------------------------------

    def on_tick(self, incarnation: int, _: object = None) -> None:
        if incarnation != self.incarnation:
            return
        if self.paused:
            self._tick_missed = True
            return
        kernel = self.world.kernel
        now = kernel.now
        kernel.schedule(self.tick_length, self.on_tick, incarnation)
        self._notice_lost_time(1)
        self._last_tick = now
        if self._ticks_to_skip:
            self._ticks_to_skip -= 1
            return
        if self._room.may_tick(now):
            self.raw.tick()
            self._lease.ticked()
        self.observe()
        self.writes.expire(now)
        self.reads.tick(now)
        self.wake()

    def _notice_lost_time(self, ticks_due: int) -> None:
        """Ticks that were missed don't count towards elections, but a lease has grown older by them."""
        missed = (self.world.kernel.now - self._last_tick) // self.tick_length - ticks_due
        if missed > 0:
            self.raw.skip_ticks(missed)
            self._last_tick += missed * self.tick_length

    def receive(self, message: Message, peer: int) -> None:
        if not self.up:
            return
        if self.paused:
            self._backlog.append((self.receive, message, peer))
            return
        if message.sender != peer and message.type is not MessageType.TRANSFER_LEADER:
            return  # passed on in another's name: the transport refuses that
        if not self._room.takes(message) or (self._room.error and self._batches >= BATCHES_IN_FLIGHT):
            return
        if self.world.tracing:
            self.world.trace("{} <- {}", self.node_id, describe_message(message))
        if message.type is MessageType.SNAP and self.world.profile.streamed_snapshots:
            self._fetch(message)
        else:
            self._step(message)

    def _step(self, message: Message) -> None:
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
            self.batch_size = count
            self.world.invariants.uncommitted(self)

    def peer_unreachable(self, peer: int, _: object = None) -> None:
        if self.up and not self.paused:
            self.raw.report_unreachable(peer)
            self.wake()

    # --- snapshots ----------------------------------------------------------------------------

    def _offered(self, message: Message) -> None:
        """A SNAP message leaves: its receiver has some time to fetch what it speaks of."""
        told = self.world.profile.snapshot_told
        delay = self.random.randrange(2 * FETCH) if told else OFFER
        self.world.kernel.schedule(delay, self._on_offer_end, message.to, (self.incarnation, not told))

    def _on_offer_end(self, to: int, offer: tuple[int, bool]) -> None:
        incarnation, failed = offer
        if incarnation != self.incarnation:
            return
        if self.paused:
            self._backlog.append((self._on_offer_end, to, offer))
        else:
            self.raw.report_snapshot(to, failed)
            self.wake()

    def _fetch(self, message: Message) -> None:
        """Fetch what a SNAP message speaks of, unless another is being fetched or installed."""
        if message.term >= self.raft.term and self._fetching is None:
            self._fetching = message
            delay = self.random.randrange(FETCH)
            self.world.kernel.schedule(delay, self._on_fetched, self.incarnation, message)

    def _on_fetched(self, incarnation: int, message: Message) -> None:
        if incarnation != self.incarnation:
            return
        if self.paused:
            self._backlog.append((self._on_fetched, incarnation, message))
            return
        if not self.world.network.reaches(message.sender, self.node_id):
            self._fetching = None
            return
        if message.term < self.raft.term and self.raft.leader_id:
            # Committed state is committed state: take it in the new leader's name.
            message = msgspec.structs.replace(message, term=self.raft.term, sender=self.raft.leader_id)
        self._step(message)
        if self.raw.pending_snapshot is None:
            self._fetching = None

    # --- requests -----------------------------------------------------------------------------

    def propose(self, operation: Operation, data: bytes) -> None:
        if self.paused:
            self._backlog.append((self.propose, operation, data))
            return
        if self._room.error is not None:
            self.world.ended(operation, Outcome.REFUSED, 0)
            return
        self.writes.add(operation, data, self.world.kernel.now)
        self.wake()

    def read(self, operation: Operation, _: object = None) -> None:
        if self.paused:
            self._backlog.append((self.read, operation, None))
            return
        now = self.world.kernel.now
        if operation.mode is ReadMode.READ_INDEX:
            self.reads.add(operation, now)
            self.wake()
            return
        index = self._lease.read_index()
        if index is None:
            self.world.ended(operation, Outcome.REFUSED, 0)
        else:
            self.reads.confirmed_at([(now, operation)], index, self.applied)

    def _serve(self, operation: Operation) -> None:
        self.world.ended(operation, Outcome.OK, self.disk.machine.registers.get(operation.key, 0))

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

    def forget_leader(self) -> None:
        self.raw.forget_leader()
        self.observe()
        self.wake()

    def compact(self, index: int) -> None:
        """Drop the log up to `index`, in a transaction of its own."""
        job = Job()
        job.compact_to = index
        self._submit(job)

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
        raft = self.raft
        if raft.log.committed != self.seen_commit:
            self.world.invariants.commit_moved(self)
        if raft.term != self.seen_term or raft.vote != self.seen_vote:
            self.world.invariants.term_moved(self)
        if raft.role is Role.LEADER and self.led_term != raft.term:
            log = raft.log
            inherited = log.slice(log.applied + 1, log.last_index + 1, 1 << 40)
            self.inherited_bytes = sum([len(entry.data) for entry in inherited])
            self.world.invariants.elected(self)

    def wake(self) -> None:
        turn = self.world.profile.turn
        if not turn:
            self.pump()
        elif not self._wake_scheduled:
            self._wake_scheduled = True
            self.world.kernel.schedule(self.random.randrange(turn), self._on_wake, self.incarnation)

    def _on_wake(self, incarnation: int, _: object = None) -> None:
        if incarnation != self.incarnation:
            return
        if self.paused:
            self._backlog.append((self._on_wake, incarnation, None))
            return
        self._wake_scheduled = False
        self.pump()

    def pump(self) -> None:
        raw = self.raw
        if self.raft.leader_id:
            if self.writes.queued and self._room.error is None:
                self._propose_waiting()
            if self.reads.queued:
                raw.read_index(self.reads.next_round(self.world.kernel.now))
                self.observe()
        while self._batches < BATCHES_IN_FLIGHT and raw.has_ready():
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
        world = self.world
        if ready.soft_state is not None:
            self._role_changed(ready.soft_state.leader_id, ready.soft_state.role)
        for read in ready.read_states:
            self.reads.confirmed(read.context, read.index, self.applied)
        outgoing: list[Message] = []
        append = apply = None
        for message in ready.messages:
            if message.to == LOCAL_APPEND_THREAD:
                append = message
            elif message.to == LOCAL_APPLY_THREAD:
                apply = message
            else:
                outgoing.append(message)
        if self.raft.role is Role.LEADER:
            world.invariants.limits(self)
        if outgoing:
            for message in outgoing:
                if message.type in PROMISES:
                    world.invariants.promised(self, message)
            self._send(outgoing)
        if append is not None or apply is not None:
            self._batches += 1
            self._submit(self._job(append, apply))

    def _role_changed(self, leader_id: int, role: Role) -> None:
        if (leader_id, role) == self._leader:
            return
        self._leader = (leader_id, role)
        if self.world.tracing:
            self.world.trace(
                "{} is {} of term {}, leader {}", self.node_id, role.name, self.raft.term, leader_id
            )
        if leader_id:
            self.reads.retry()

    def _send(self, messages: Sequence[Message]) -> None:
        network, node_id = self.world.network, self.node_id
        for message in messages:
            if self.crash_in:
                self.crash_point()
            if message.type is MessageType.SNAP:
                self._offered(message)
            network.send(node_id, message)
        if self.crash_in:
            self.crash_point()

    def _job(self, append: Message | None, apply: Message | None) -> Job:
        job = Job()
        if append is not None:
            if append.entries:
                self.world.invariants.appended(self, append.entries)
            job.entries = append.entries
            if append.snapshot is not None:
                self.world.invariants.restored(self, append.snapshot.metadata)
                job.snapshot = append.snapshot
            if append.term or append.vote or append.commit:
                self._hard_state = HardState(append.term, append.vote, append.commit)
                job.hard_state = self._hard_state
            job.responses = append.responses
        if apply is not None:
            job.committed = apply.entries
            self._switch_configuration(job)
            job.responses = (*job.responses, *apply.responses)
        return job

    def _switch_configuration(self, job: Job) -> None:
        for entry in job.committed:
            if entry.kind is not EntryKind.NORMAL:
                job.conf_state = self.raw.apply_conf_change(decode_conf_change(entry))
                self.world.invariants.conf_applied(self, entry.index, job.conf_state)
                self.observe()
                self.world.trace("{} applies configuration {}", self.node_id, job.conf_state)

    # --- the writer ---------------------------------------------------------------------------

    def _submit(self, job: Job) -> None:
        if self.crash_in:
            self.crash_point()
        self._jobs.append(job)
        if not self._committing:
            self._begin_commit()
        if self.crash_in:
            self.crash_point()

    def _begin_commit(self) -> None:
        """All that is queued goes into one transaction."""
        self._committing = len(self._jobs)
        profile = self.world.profile
        duration = profile.fsync_min + int(self.random.random() * profile.fsync_spread)
        self.world.kernel.schedule(duration * self.fsync_slowness, self._on_commit, self.incarnation)

    def _on_commit(self, incarnation: int, _: object = None) -> None:
        if incarnation != self.incarnation:
            return
        if self.paused:
            self._backlog.append((self._on_commit, incarnation, None))
            return
        if self.crash_in:
            self.crash_point()
        if self.disk_full:
            self._no_room()
            return
        if self.eio_next:
            self._commit_failed()
            return
        self._room.again()
        jobs = [self._jobs.popleft() for _ in range(self._committing)]
        self._committing = 0
        self._unreported = list(jobs)
        if self.crash_in:
            self.crash_point()
        if self._jobs:
            self._begin_commit()
        outgoing: list[Message] = []
        for job in jobs:
            del self._unreported[0]
            self._make_durable(job)
            if not job.compact_to:
                self._batches -= 1
            self._report(job, outgoing)
        self._campaign_if_due()
        if outgoing:
            self._send(outgoing)
        self.wake()

    def _no_room(self) -> None:
        """Nothing has happened, and nothing is promised until there is room: try again later."""
        if self._room.error is None:
            self.world.count("disks full")
            self.world.trace("{}: no room", self.node_id)
            self._room.ended(StorageFull("no room"), self.world.kernel.now)
            self.writes.refuse(self.writes.take())
            self.observe()
            self.wake()
        self.world.kernel.schedule(ROOM_RETRY, self._on_commit, self.incarnation)

    def _commit_failed(self) -> None:
        """What an fsync that failed has left on the disk can't be known: the node must stop."""
        self.world.count("commits failed")
        self.world.trace("{}: EIO", self.node_id)
        self.eio_next = False
        self.crash()

    def _make_durable(self, job: Job) -> None:
        disk = self.disk
        disk.commit(job, self._on_applied)
        if job.snapshot is not None:
            self.world.count("snapshots installed")
            self.world.invariants.installed(self, job.snapshot.metadata)
        self.durable_term, self.durable_commit = disk.hard_state.term, disk.hard_state.commit
        self.durable_applied = disk.applied

    def _on_applied(self, entry: Entry, request_id: int, found: int) -> None:
        self.world.invariants.applied(self, entry)

    def _report(self, job: Job, outgoing: list[Message]) -> None:
        """`job` is durable; let go what waited for that."""
        for request_id, found in job.results:
            self.writes.applied(request_id, found)
        if job.committed:
            last = job.committed[-1]
            self.applied = last.index
            self.writes.term_applied(last.term)
            self.reads.applied(last.index)
        if job.snapshot is not None:
            self._fetching = None
            self.writes.term_applied(job.snapshot.metadata.term)
            self.applied = job.snapshot.metadata.index
            self.reads.applied(self.applied)
        self._report_responses(job, outgoing)

    def _report_responses(self, job: Job, outgoing: list[Message]) -> None:
        for message in job.responses:
            if self.crash_in:
                self.crash_point()
            if message.to == self.node_id:
                self.raw.step(message)
                self.observe()
            else:
                if message.type in PROMISES:
                    self.world.invariants.promised(self, message)
                outgoing.append(message)
