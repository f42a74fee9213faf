"""One simulated node: a disk that lasts, a clock, and at times a process that runs over them.

A crash can be armed to happen at the n-th *crash point* from now; there is one before and after
each send, each hand-over to the writer, each commit and each report of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft_sim.disk import Disk, DiskError
from raft_sim.kernel import TICK
from raft_sim.process import Process

from aspen.raft.messages import Message
from aspen.raft.rawnode import Role
from aspen.raft.state import RaftState

if TYPE_CHECKING:
    from raft_sim.world import World


class Crashed(Exception):
    """The process of `node` ends here and now."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.node_id)
        self.node = node


class Node:
    """A member, or one that is to be, or was. `up` says whether its process runs."""

    process: Process
    """The one that runs, or the last that did."""
    raft: RaftState

    def __init__(self, world: World, node_id: int) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = Disk(node_id)
        self.random = world.kernel.stream(f"node {node_id}")
        self.up = False
        self.incarnation = 0
        """How many processes it has had."""
        self.was_member = False
        self.retired = False
        """It was removed and is wiped: it never starts again."""

        self.tick_length = TICK
        self.crash_in = 0
        """How many crash points from now the process ends; 0 for never."""
        self.eio_next = False
        self.disk_full = False
        self.fsync_slowness = 1

        # What the invariants remember of it.
        self.durable_term = self.durable_commit = self.durable_applied = 0
        self.seen_term = self.seen_vote = self.seen_commit = self.led_term = self.applied_seen = 0
        self.leading_incarnation: dict[int, int] = {}
        """Term → which of its processes led in it."""
        self.batch_size = 0
        """How many entries the last proposal had."""
        self.inherited_bytes = 0
        """Of entries that a leader found uncommitted; the core counts them only as they are applied."""

    @property
    def leads(self) -> bool:
        return self.raft.role is Role.LEADER

    @property
    def applied(self) -> int:
        return self.process.applied

    @property
    def paused(self) -> bool:
        return self.up and self.process.paused

    @property
    def unusable(self) -> bool:
        """Whether it can't come back as it is."""
        return self.retired or (not self.up and self.disk.damaged)

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process over what is on the disk, if that can be trusted."""
        world, disk = self.world, self.disk
        self.incarnation += 1
        world.trace("{} starts", self.node_id)
        try:
            disk.restart()
            world.invariants.restarted(self)
            self.process = Process(self)
        except DiskError as error:
            world.trace("{} can't start: {}", self.node_id, error)
            return
        self.up = True
        self.crash_in = 0
        self.raft = raft = self.process.raft
        self.applied_seen = disk.applied
        self.seen_term, self.seen_vote = raft.term, raft.vote
        self.seen_commit = raft.log.first_index - 1
        self.led_term = 0
        world.invariants.commit_moved(self)
        self.process.begin()

    def crash(self) -> None:
        """End the process without warning."""
        if self.up:
            self.world.count("crashes")
            self.world.trace("{} crashes", self.node_id)
            self._end()
            self.process.writer.abandon()

    def stop(self) -> None:
        """End the process in order."""
        self._end()
        self.process.writer.finish()

    def _end(self) -> None:
        self.up = False
        self.incarnation += 1
        self.process.end()

    def crash_point(self) -> None:
        """Called wherever a crash may matter, if one is armed."""
        self.crash_in -= 1
        if not self.crash_in:
            raise Crashed(self)

    # --- the network's side -------------------------------------------------------------------

    def receive(self, message: Message, peer: int) -> None:
        if self.up:
            self.process.receive(message, peer)

    def peer_unreachable(self, peer: int, _: object = None) -> None:
        if self.up:
            self.process.peer_unreachable(peer)

    # --- troubles -----------------------------------------------------------------------------

    def draw_clock_rate(self) -> None:
        """Its clock runs at 0.9 to 1.1 of the right rate."""
        self.tick_length = int(TICK / (0.9 + 0.2 * self.random.random()))

    def step_clock(self, ticks: int) -> None:
        if self.up:
            self.process.step_clock(ticks)

    def pause(self, duration: int) -> None:
        """Have the process stand still, as by SIGSTOP. Time goes on."""
        if self.up and not self.process.paused:
            self.process.paused = True
            self.world.kernel.schedule(duration, self.process.resume)

    def heal_disk(self) -> None:
        self.fsync_slowness = 1
        self.disk_full = False

    def heal(self) -> None:
        """End all its troubles, and have it run."""
        self.heal_disk()
        self.eio_next = False
        self.crash_in = 0
        self.tick_length = TICK
        if self.retired:
            return
        self.disk.repair()
        if not self.up:
            self.start()
        self.process.heal()
