"""The writer of one simulated process: makes its jobs durable, in order, and reports them.

The rules are production's (`aspen.raft.writer`): all that is queued goes into one transaction; while
it is being synced, more jobs queue up and share the next; nothing is reported before it is durable.
A failed fsync ends the process, want of room does not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from raft_sim.disk import Job
from raft_sim.kernel import TICK

from aspen.errors import StorageFull
from aspen.raft.messages import Entry, Message

if TYPE_CHECKING:
    from raft_sim.process import Process

ROOM_RETRY: Final = TICK


class Writer:
    """Owns what is under way to the disk."""

    def __init__(self, process: Process) -> None:
        self.in_flight: deque[Job] = deque()
        """Handed over and not durable; the first `committing` of them are being synced."""
        self.committing = 0
        self._unreported: list[Job] = []
        """Durable, but the process has not heard of it yet."""
        self._process = process
        self._node = process.node
        self._world = process.world

    def submit(self, job: Job) -> None:
        node = self._node
        if node.crash_in:
            node.crash_point()
        self.in_flight.append(job)
        if not self.committing:
            self._begin_commit()
        if node.crash_in:
            node.crash_point()

    def _begin_commit(self) -> None:
        """All that is queued goes into one transaction."""
        self.committing = len(self.in_flight)
        profile, node = self._world.profile, self._node
        duration = profile.fsync_min + int(node.random.random() * profile.fsync_spread)
        self._world.kernel.schedule(duration * node.fsync_slowness, self.on_commit)

    def on_commit(self, _: object = None, __: object = None) -> None:
        """The fsync returns."""
        process, node = self._process, self._node
        if not process.alive or process.defers(self.on_commit):
            return
        if node.crash_in:
            node.crash_point()
        if node.disk_full:
            self._no_room()
            return
        if node.eio_next:
            self._commit_failed()
            return
        process.room.again()
        jobs = [self.in_flight.popleft() for _ in range(self.committing)]
        self.committing = 0
        self._unreported = list(jobs)
        if node.crash_in:
            node.crash_point()
        if self.in_flight:
            self._begin_commit()
        outgoing: list[Message] = []
        for job in jobs:
            del self._unreported[0]
            self._make_durable(job)
            process.report(job, outgoing)
        process.reported(outgoing)

    def _no_room(self) -> None:
        """Nothing has happened, and nothing is promised until there is room: try again later."""
        self._world.count("commits without room")
        self._process.room_ended(StorageFull("no room"))
        self._world.kernel.schedule(ROOM_RETRY, self.on_commit)

    def _commit_failed(self) -> None:
        """What an fsync that failed has left on the disk can't be known: the process must end."""
        self._world.count("commits failed")
        self._world.trace("{}: EIO", self._node.node_id)
        self._node.eio_next = False
        self._world.crash(self._node)

    def finish(self) -> None:
        """The process ends in order: all that is queued gets to the disk."""
        for job in self.in_flight:
            self._make_durable(job)

    def abandon(self) -> None:
        """The process is gone: of what is under way, some prefix gets to the disk."""
        count = len(self.in_flight)
        kept = self._node.random.randrange(count + 1) if count else 0
        self._world.trace("{}: {} of {} jobs in flight are durable", self._node.node_id, kept, count)
        for job in (*self._unreported, *(self.in_flight[position] for position in range(kept))):
            self._make_durable(job)

    def _make_durable(self, job: Job) -> None:
        node = self._node
        disk = node.disk
        disk.commit(job, self._on_applied)
        if job.snapshot is not None:
            self._world.count("snapshots installed")
            self._world.invariants.installed(node, job.snapshot.metadata)
        node.durable_term, node.durable_commit = disk.hard_state.term, disk.hard_state.commit
        node.durable_applied = disk.applied

    def _on_applied(self, entry: Entry, request_id: int, found: int) -> None:
        self._world.invariants.applied(self._node, entry)
