"""Seeded bugs in what runs the core: the writer, the disk, the driver's bookkeeping."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from raft_sim import config
from raft_sim.disk import Disk, Job
from raft_sim.history import Outcome
from raft_sim.mutation import Patch, mutation
from raft_sim.node import Node
from raft_sim.process import Process
from raft_sim.requests import Reads, Writes
from raft_sim.writer import Writer

from aspen.raft import storage as production
from aspen.raft.lease import Lease
from aspen.raft.messages import Entry, EntryKind, HardState, Message
from aspen.raft.rawnode import RaftConfig, RawNode


@mutation("openraft #1964")
def fsyncs_complete_out_of_order(patch: Patch) -> None:
    """Of two transactions under way, the later one is reported first."""
    original = Writer.on_commit

    def on_commit(self: Writer, _: object = None, __: object = None) -> None:
        process = self._process
        if process.alive and not process.paused and self.committing > 1:
            last = self.in_flight[self.committing - 1]
            outgoing: list[Message] = []
            process.report_responses(last, outgoing)
            last.responses = ()
            process.send(outgoing)
        original(self)

    patch.attribute(Writer, "on_commit", on_commit)


@mutation("etcd #20418")
def read_context_is_reused(patch: Patch) -> None:
    """All rounds of ReadIndex of a node have the same context."""
    patch.attribute(Reads, "next_context", lambda self: b"context!")


@mutation("etcd #22442")
def replay_resurrects_truncated_entries(patch: Patch) -> None:
    """Entries that were overwritten by a shorter log come back with a restart."""
    original_append, original_restart = Disk.append, Disk.restart
    tails: dict[int, list[Entry]] = {}

    def append(self: Disk, entries: Sequence[Entry]) -> None:
        old = list(self.log)
        original_append(self, entries)
        if old and old[-1].index > self.last_index():
            tails[id(self)] = old

    def restart(self: Disk) -> None:
        self.log += [entry for entry in tails.pop(id(self), []) if entry.index > self.last_index()]
        original_restart(self)

    patch.attribute(Disk, "append", append)
    patch.attribute(Disk, "restart", restart)


@mutation("etcd #11038")
def removed_leader_goes_on(patch: Patch) -> None:
    """A leader that was removed goes on sending heartbeats."""
    original = config.raft_config

    def raft_config(node: Node) -> RaftConfig:
        return dataclasses.replace(original(node), step_down_on_removal=False)

    patch.function(original, raft_config)


@mutation("TiKV #8381")
def uninitialised_peer_forgets_vote(patch: Patch) -> None:
    """A node without a log doesn't write down whom it votes for."""
    original = Process.job

    def job(self: Process, append: Message | None, apply: Message | None) -> Job:
        made, disk = original(self, append, apply), self.node.disk
        if not disk.log and not disk.before[0] and not made.entries and made.snapshot is None:
            made.hard_state = None
        return made

    patch.attribute(Process, "job", job)


@mutation("redisraft #23")
def unknown_outcome_is_failure(patch: Patch) -> None:
    """A client is told that its write failed when nobody knows."""
    original = Writes._end

    def end(self: Writes, request_id: int, outcome: Outcome) -> None:
        original(self, request_id, Outcome.REFUSED)

    patch.attribute(Writes, "_end", end)


@mutation("never retried silently")
def lost_write_is_retried(patch: Patch) -> None:
    """A write whose leader is gone is proposed again, as if it could not have happened."""

    def term_applied(self: Writes, term: int) -> None:
        if term <= self._oldest_term:
            return
        self._oldest_term = term
        for request_id, waiting in self._pending.items():
            if 0 < waiting.term < term:
                waiting.term = 0
                self._queue.append(request_id)

    patch.attribute(Writes, "term_applied", term_applied)


@mutation("figure 2: persistent state")
def forgets_vote(patch: Patch) -> None:
    """The hard state is written without the vote."""
    original = Process.job

    def job(self: Process, append: Message | None, apply: Message | None) -> Job:
        made = original(self, append, apply)
        if made.hard_state is not None:
            made.hard_state = HardState(made.hard_state.term, 0, made.hard_state.commit)
        return made

    patch.attribute(Process, "job", job)


@mutation("figure 2: persist, then answer")
def answers_before_persist(patch: Patch) -> None:
    """Responses leave when the work is handed to the disk, not when it is done."""
    original = Writer.submit

    def submit(self: Writer, job: Job) -> None:
        outgoing: list[Message] = []
        self._process.report_responses(job, outgoing)
        job.responses = ()
        original(self, job)
        self._process.send(outgoing)

    patch.attribute(Writer, "submit", submit)


@mutation("one transaction for log and state")
def applied_index_lags_state(patch: Patch) -> None:
    """The state is durable before the index that says how far it has come."""
    original = Disk._apply

    def apply(self: Disk, job: Job, on_applied: Any) -> None:
        before = self.applied, self.applied_term
        original(self, job, on_applied)
        if len(job.committed) > 1:
            self.applied, self.applied_term = before

    patch.attribute(Disk, "_apply", apply)


@mutation("a flipped bit is found")
def serves_damaged_entries(patch: Patch) -> None:
    """Log entries are read without a look at their checksum."""

    def decode_entry(index: int, value: bytes) -> Entry:
        term, kind, _ = production._ENTRY.unpack_from(value)
        return Entry(term, index, EntryKind(kind % 3), value[production._ENTRY.size :])

    patch.attribute(production, "_decode_entry", decode_entry)


@mutation("a failed fsync halts the node")
def ignores_failed_fsync(patch: Patch) -> None:
    """After EIO the transaction counts as done."""

    def commit_failed(self: Writer) -> None:
        self._node.eio_next = False
        outgoing: list[Message] = []
        for _ in range(self.committing):
            job = self.in_flight.popleft()
            self._process.batches -= not job.compact_to
            self._process.report_responses(job, outgoing)
        self.committing = 0
        self._process.reported(outgoing)

    patch.attribute(Writer, "_commit_failed", commit_failed)


@mutation("the configuration is part of the state")
def configuration_is_not_stored(patch: Patch) -> None:
    """A changed configuration takes effect, but is not written down."""
    original = Process.switch_configuration

    def switch_configuration(self: Process, job: Job) -> None:
        original(self, job)
        job.conf_state = None

    patch.attribute(Process, "switch_configuration", switch_configuration)


@mutation("thesis §6.4.1: clocks go on while a process sleeps")
def lease_survives_a_pause(patch: Patch) -> None:
    """Time that passed while the node was held up doesn't age its lease."""
    patch.attribute(RawNode, "skip_ticks", lambda self, count: None)
    patch.attribute(Lease, "read_index", lambda self: self._raw.lease_read_index())


@mutation("reads wait until the index is applied")
def reads_before_applied(patch: Patch) -> None:
    """A read is served as soon as its index is confirmed, applied here or not."""
    original = Reads.confirmed_at

    def confirmed_at(self: Reads, waiting: Any, index: int, applied: int) -> None:
        original(self, waiting, 0, applied)

    patch.attribute(Reads, "confirmed_at", confirmed_at)


@mutation("an offered snapshot expires")
def lost_snapshot_is_final(patch: Patch) -> None:
    """A leader whose snapshot was not fetched waits for it for good."""
    patch.attribute(RawNode, "report_snapshot", lambda self, node_id, failed: None)
