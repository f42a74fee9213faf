"""Random schedules against the safety of Raft: one seed, one story, no clock.

Every step is one event of one node: a tick, a message delivered, lost or doubled, one piece of
storage work done, a crash, a request. Storage is asynchronous and as slow as chance will have
it; a crash loses what is not written. After each step the properties of figure 3 are checked.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from raft_cluster import THREADS, add, add_learner, joint, raw_node, remove

from aspen.raft.log import LogCompacted
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeV2,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    decode_conf_change,
)
from aspen.raft.rawnode import ProposalDropped, RawNode, Role

_FOUNDERS = (1, 2, 3)
_JOINERS = (4, 5)


class _Storage(MemoryStorage):
    """Makes a snapshot of what is applied at the moment it is asked for one."""

    member: Member

    def snapshot(self) -> Snapshot:
        member = self.member
        metadata = SnapshotMetadata(member.conf_state, member.applied, self.term(member.applied))
        return Snapshot(b"%d" % member.state, metadata)


@dataclass
class Member:
    """A node and what survives its crash: log, hard state, and a state machine that is a checksum."""

    raw: RawNode
    storage: MemoryStorage
    applied: int = 0
    state: int = 0
    conf_state: ConfState = field(default_factory=ConfState)
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[tuple[Message, dict[int, ConfState]]] = field(default_factory=list)
    up: bool = True
    checked: int = 0


class Chaos:
    """One run. `run` raises AssertionError as soon as a property fails."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        choice = self.rng.random
        lease = choice() < 0.3
        self.settings = {
            "async_storage_writes": True,
            "pre_vote": choice() < 0.5,
            "check_quorum": lease or choice() < 0.5,
            "leader_lease": lease,
            "step_down_on_removal": choice() < 0.5,
            "max_inflight_messages": self.rng.choice((1, 2, 64)),
            "max_message_bytes": self.rng.choice((1, 60, 2**40)),
            "max_inflight_bytes": 2**40,
            "max_committed_bytes_per_ready": self.rng.choice((1, 100, 2**40)),
            "max_uncommitted_bytes": self.rng.choice((50, 2**40)),
        }
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.states: dict[int, int] = {0: 0}
        self.asked: dict[bytes, int] = {}
        self.reads = 0
        self.members: dict[int, Member] = {}
        for node_id in (*_FOUNDERS, *_JOINERS):
            founders = ConfState(voters=_FOUNDERS) if node_id in _FOUNDERS else ConfState()
            store = _Storage()
            if node_id in _FOUNDERS:
                # The first snapshot holds the founders, so that newcomers learn of them.
                store.apply_snapshot(Snapshot(b"0", SnapshotMetadata(founders, 1, 1)))
            applied = 1 if node_id in _FOUNDERS else 0
            raw = self._start(node_id, store, applied)
            store.member = self.members[node_id] = Member(raw, store, applied, conf_state=founders)
        self.states[1] = 0

    def _start(self, node_id: int, store: MemoryStorage, applied: int) -> RawNode:
        rng = random.Random(self.rng.getrandbits(32))
        return raw_node(node_id, store, applied=applied, rng=rng, **self.settings)

    # --- the schedule -------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        actions = {
            self._tick: 30,
            self._deliver: 60,
            self._append: 40,
            self._apply: 30,
            self._lose: 3,
            self._double: 2,
            self._propose: 10,
            self._read: 4,
            self._change: 1.5,
            self._transfer: 0.7,
            self._crash: 1.0,
            self._restart: 2.0,
            self._partition: 0.5,
            self._heal: 0.7,
            self._compact: 1.0,
        }
        for action in self.rng.choices(list(actions), list(actions.values()), k=steps):
            action()
            self._drain()
            self._check()

    def _pick(self) -> Member:
        return self.rng.choice([member for member in self.members.values() if member.up])

    def _tick(self) -> None:
        self._pick().raw.tick()

    def _deliver(self, *, remove_it: bool = True) -> None:
        if not self.network:
            return
        # Mostly in order, sometimes not.
        last = len(self.network) - 1
        position = min(last, int(self.rng.expovariate(0.7)))
        message = self.network.pop(position) if remove_it else self.network[position]
        if self._passes(message):
            member = self.members[message.to]
            if message.type is MessageType.SNAP and message.sender not in THREADS:
                self._report(message, failed=False)
            try:
                member.raw.step(message)
            except ProposalDropped:
                pass
        elif message.type is MessageType.SNAP:
            self._report(message, failed=True)

    def _passes(self, message: Message) -> bool:
        local = message.sender == message.to or message.sender in THREADS
        return self.members[message.to].up and (local or (message.sender, message.to) not in self.cut)

    def _report(self, message: Message, *, failed: bool) -> None:
        if self.members[message.sender].up:
            self.members[message.sender].raw.report_snapshot(message.to, failed)

    def _double(self) -> None:
        self._deliver(remove_it=False)

    def _lose(self) -> None:
        lossy = [m for m in self.network if m.sender not in THREADS and m.sender != m.to]
        if lossy:
            message = self.rng.choice(lossy)
            self.network.remove(message)
            if message.type is MessageType.SNAP:
                self._report(message, failed=True)

    def _propose(self) -> None:
        raw = self._pick().raw
        datas = [self.rng.randbytes(self.rng.randrange(1, 40)) for _ in range(self.rng.randrange(1, 4))]
        try:
            raw.propose_many(datas)
        except ProposalDropped:
            pass

    def _read(self) -> None:
        member = self._pick()
        context = b"%d" % len(self.asked)
        # Whatever is committed anywhere by now must be visible to the read.
        self.asked[context] = max(self.committed, default=0)
        member.raw.read_index(context)
        index = member.raw.lease_read_index()
        # Ticks are not synchronous here, so the lease's promise is not held to.
        assert index is None or self.settings["leader_lease"]

    def _change(self) -> None:
        leaders = [m for m in self.members.values() if m.up and m.raw.role is Role.LEADER]
        if not leaders:
            return
        pick = self.rng.choice
        ids = list(self.members)
        kinds = (add, add, remove, add_learner)
        change: ConfChange | ConfChangeV2 = pick(kinds)(pick(ids))
        if self.rng.random() < 0.4:
            change = joint(*(pick(kinds)(pick(ids)) for _ in range(self.rng.randrange(0, 4))))
        try:
            pick(leaders).raw.propose_conf_change(change)
        except ProposalDropped:
            pass

    def _transfer(self) -> None:
        self._pick().raw.transfer_leader(self.rng.choice(list(self.members)))

    def _partition(self) -> None:
        ids = list(self.members)
        self.cut = {(a, b) for a in ids for b in ids if a != b and self.rng.random() < 0.4}

    def _heal(self) -> None:
        self.cut = set()

    def _compact(self) -> None:
        member = self._pick()
        store, index = member.storage, member.raw.raft.log.applied
        if index == member.applied and index >= store.first_index():
            try:
                store.create_snapshot(index, member.conf_state, b"%d" % member.state)
                store.compact(index)
            except LogCompacted:
                pass

    # --- crashes ------------------------------------------------------------------------------

    def _crash(self) -> None:
        if sum(member.up for member in self.members.values()) > 3:
            member = self._pick()
            member.up = False
            member.append_work.clear()
            member.apply_work.clear()
            node_id = member.raw.node_id
            lost = [m for m in self.network if m.to == node_id]
            self.network = [m for m in self.network if m.to != node_id]
            for message in lost:
                if message.type is MessageType.SNAP:
                    self._report(message, failed=True)

    def _restart(self) -> None:
        for node_id, member in self.members.items():
            if not member.up:
                # The configuration is part of the applied state, and comes back with it.
                kept = member.storage._snapshot
                metadata = SnapshotMetadata(member.conf_state, kept.metadata.index, kept.metadata.term)
                member.storage._snapshot = Snapshot(kept.data, metadata)
                member.raw = self._start(node_id, member.storage, member.applied)
                member.storage._snapshot = kept
                member.up = True
                return

    # --- storage ------------------------------------------------------------------------------

    def _append(self) -> None:
        self._append_one(self._pick())

    def _apply(self) -> None:
        self._apply_one(self._pick())

    def _append_one(self, member: Member) -> None:
        if not member.append_work:
            return
        work = member.append_work.pop(0)
        if work.term:
            member.storage.hard_state = HardState(work.term, work.vote, work.commit)
        if work.snapshot is not None:
            metadata = work.snapshot.metadata
            member.storage.apply_snapshot(work.snapshot)
            member.applied, member.state = metadata.index, int(work.snapshot.data)
            member.conf_state = metadata.conf_state
        member.storage.append(work.entries)
        self.network += work.responses

    def _apply_one(self, member: Member) -> None:
        if not member.apply_work:
            return
        work, conf_states = member.apply_work.pop(0)
        for entry in work.entries:
            if entry.index <= member.applied:
                continue  # overtaken by a snapshot
            assert entry.index == member.applied + 1, "applied with a gap"
            member.applied = entry.index
            member.state = zlib.crc32(b"%d/%d" % (entry.term, entry.kind) + entry.data, member.state)
            assert self.states.setdefault(entry.index, member.state) == member.state, "states differ"
            member.conf_state = conf_states.get(entry.index, member.conf_state)
        self.network += work.responses

    def _drain(self) -> None:
        for member in self.members.values():
            while member.up and member.raw.has_ready():
                ready = member.raw.ready()
                for read in ready.read_states:
                    assert read.index >= self.asked[read.context], "a stale read"
                    self.reads += 1
                for message in ready.messages:
                    if message.to == LOCAL_APPEND_THREAD:
                        member.append_work.append(message)
                    elif message.to == LOCAL_APPLY_THREAD:
                        # The core switches as an entry is handed out, the disk when it is applied.
                        conf_states = {
                            entry.index: member.raw.apply_conf_change(decode_conf_change(entry))
                            for entry in message.entries
                            if entry.kind is not EntryKind.NORMAL
                        }
                        member.apply_work.append((message, conf_states))
                    else:
                        self.network.append(message)

    # --- figure 3 -----------------------------------------------------------------------------

    def _check(self) -> None:
        for node_id, member in self.members.items():
            if not member.up:
                continue
            raft = member.raw.raft
            if raft.role is Role.LEADER:
                assert self.leaders.setdefault(raft.term, node_id) == node_id, "two leaders in one term"
            log = raft.log
            for index in range(max(member.checked + 1, log.first_index), log.committed + 1):
                (entry,) = log.slice(index, index + 1, 2**40)
                found = (entry.term, entry.data)
                assert self.committed.setdefault(index, found) == found, "committed entries differ"
            member.checked = max(member.checked, log.committed)
            assert member.storage.hard_state.term <= raft.term
            assert log.applied <= log.applying <= log.committed <= log.last_index

    # --- the end ------------------------------------------------------------------------------

    def converge(self) -> int:
        """Heal everything; return the index that all members of the final configuration applied."""
        self.cut = set()
        while not all(member.up for member in self.members.values()):
            self._restart()
        for round_number in range(400):
            for member in self.members.values():
                member.raw.tick()
            self._settle()
            leaders = [m for m in self.members.values() if m.raw.role is Role.LEADER]
            leading = max(leaders, key=lambda m: m.raw.term, default=None)
            if leading is None or round_number < 40:
                continue
            raft = leading.raw.raft
            voters = [self.members[i] for i in raft.progress if i in self.members]
            if raft.committed_in_term and all(m.applied == raft.log.last_index for m in voters):
                return raft.log.last_index
        raise AssertionError("the cluster does not converge")

    def _settle(self) -> None:
        for _ in range(2000):
            self._drain()
            busy = bool(self.network)
            for _ in range(len(self.network)):
                message = self.network.pop(0)
                if message.type is MessageType.SNAP:
                    self._report(message, failed=False)
                try:
                    self.members[message.to].raw.step(message)
                except ProposalDropped:
                    pass
            for member in self.members.values():
                while member.append_work or member.apply_work:
                    busy = True
                    self._append_one(member)
                    self._apply_one(member)
            self._check()
            if not busy:
                return
        raise AssertionError("the cluster does not come to rest")
