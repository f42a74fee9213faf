"""A cluster in one thread: its network can be cut, its nodes crash, and nothing is left to chance."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    decode_conf_change,
)
from aspen.raft.progress import NO_LIMIT
from aspen.raft.rawnode import RaftConfig, RawNode, Ready, Role
from aspen.raft.reads import ReadState

ELECTION_TICKS = 10
THREADS = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)


def entries(*terms: int, start: int = 1) -> list[Entry]:
    """A log by the terms of its entries."""
    return [Entry(term, index) for index, term in enumerate(terms, start)]


def storage_of(
    voters: Iterable[int],
    *,
    learners: Iterable[int] = (),
    log: Sequence[Entry] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    compacted: int = 0,
) -> MemoryStorage:
    members = ConfState(voters=tuple(voters), learners=tuple(learners))
    storage = MemoryStorage(members)
    storage.append(log)
    storage.hard_state = HardState(max([term, *(entry.term for entry in log)]), vote, max(commit, compacted))
    if compacted:
        storage.create_snapshot(compacted, members, b"state")
        storage.compact(compacted)
    return storage


def raw_node(node_id: int, storage: MemoryStorage, **settings: Any) -> RawNode:
    defaults: dict[str, Any] = {
        "election_ticks": ELECTION_TICKS,
        "heartbeat_ticks": 1,
        "rng": random.Random(node_id),
        "max_message_bytes": NO_LIMIT,
        "max_committed_bytes_per_ready": NO_LIMIT,
        "max_uncommitted_bytes": NO_LIMIT,
        "max_inflight_bytes": NO_LIMIT,
    }
    return RawNode(RaftConfig(node_id=node_id, storage=storage, **{**defaults, **settings}))


def lone_node(
    node_id: int = 1,
    voters: Iterable[int] = (1, 2, 3),
    *,
    learners: Iterable[int] = (),
    log: Sequence[Entry] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    compacted: int = 0,
    **settings: Any,
) -> RawNode:
    """One node of a cluster whose other members are the test itself."""
    storage = storage_of(
        voters, learners=learners, log=log, term=term, vote=vote, commit=commit, compacted=compacted
    )
    return raw_node(node_id, storage, **settings)


def storage(raw: RawNode) -> MemoryStorage:
    found = raw.raft.config.storage
    assert isinstance(found, MemoryStorage)
    return found


def carry_out(raw: RawNode) -> Ready:
    """Do at once all that a Ready asks for (synchronous mode)."""
    ready = raw.ready()
    store = storage(raw)
    if ready.hard_state is not None:
        store.hard_state = ready.hard_state
    if ready.snapshot is not None:
        store.apply_snapshot(ready.snapshot)
    store.append(ready.entries)
    for entry in ready.committed_entries:
        if entry.kind is not EntryKind.NORMAL:
            raw.apply_conf_change(decode_conf_change(entry))
    raw.advance()
    return ready


def take(raw: RawNode) -> list[Message]:
    """Carry out whatever is ready; return the messages that leave."""
    sent: list[Message] = []
    while raw.has_ready():
        ready = carry_out(raw)
        sent += [*ready.messages, *ready.messages_after_persist]
    return sent


def make_leader(raw: RawNode) -> None:
    """Have a lone node elected by everyone."""
    raw.campaign()
    for request in take(raw):
        if request.type is MessageType.PRE_VOTE:
            answer(raw, request, MessageType.PRE_VOTE_RESP, term=request.term)
    for request in take(raw):
        if request.type is MessageType.VOTE:
            answer(raw, request, MessageType.VOTE_RESP)
    if raw.role is not Role.LEADER:  # without PreVote the votes were asked for in the first round
        for voter in raw.raft.configuration.all_voters - {raw.node_id}:
            raw.step(Message(MessageType.VOTE_RESP, to=raw.node_id, sender=voter, term=raw.term))
    take(raw)
    assert raw.role is Role.LEADER


def answer(raw: RawNode, request: Message, kind: MessageType, **fields: Any) -> None:
    """The addressee of `request` answers it."""
    fields.setdefault("term", raw.term)
    raw.step(Message(kind, to=raw.node_id, sender=request.to, **fields))


def of_type(messages: Iterable[Message], kind: MessageType) -> list[Message]:
    return [message for message in messages if message.type is kind]


def add(node_id: int) -> ConfChange:
    return ConfChange(ConfChangeType.ADD_NODE, node_id)


def remove(node_id: int) -> ConfChange:
    return ConfChange(ConfChangeType.REMOVE_NODE, node_id)


def add_learner(node_id: int) -> ConfChange:
    return ConfChange(ConfChangeType.ADD_LEARNER_NODE, node_id)


def joint(*changes: ConfChange, transition: ConfChangeTransition = ConfChangeTransition.AUTO) -> ConfChangeV2:
    singles = tuple(ConfChangeSingle(change.type, change.node_id) for change in changes)
    return ConfChangeV2(singles, transition)


class Cluster:
    """Nodes 1..size, and the network between them. `settle` runs until there is nothing left to do."""

    def __init__(
        self,
        size: int = 3,
        *,
        learners: Iterable[int] = (),
        logs: dict[int, Sequence[Entry]] | None = None,
        joining: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        """`joining` are nodes that exist but belong to no configuration yet. What the others start with
        is then in the log's first entries, from which the newcomers learn it."""
        self.settings = settings
        learners = tuple(learners)
        voters = [i for i in range(1, size + 1) if i not in learners]
        self.storages: dict[int, MemoryStorage] = {}
        for node_id in range(1, size + 1):
            log = (logs or {}).get(node_id, ())
            self.storages[node_id] = MemoryStorage()
            if not joining:
                self.storages[node_id] = storage_of(voters, learners=learners, log=log)
        for node_id in joining:
            self.storages[node_id] = MemoryStorage()
        self.applied: dict[int, list[Entry]] = {node_id: [] for node_id in self.storages}
        self.reads: dict[int, list[ReadState]] = {node_id: [] for node_id in self.storages}
        self.raws: dict[int, RawNode] = {}
        self.network: deque[Message] = deque()
        self.history: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.drops: Callable[[Message], bool] = lambda message: False
        self.down: set[int] = set()
        for node_id in self.storages:
            self.start(node_id)
        if joining:
            for node_id in voters:
                self.raws[node_id].bootstrap([(voter, b"") for voter in voters])
            self.settle()

    # --- nodes --------------------------------------------------------------------------------

    def __getitem__(self, node_id: int) -> RawNode:
        return self.raws[node_id]

    def start(self, node_id: int, **settings: Any) -> None:
        applied = self.applied[node_id][-1].index if self.applied[node_id] else 0
        store = self.storages[node_id]
        applied = max(applied, store.first_index() - 1)
        self.raws[node_id] = raw_node(node_id, store, applied=applied, **{**self.settings, **settings})
        self.down.discard(node_id)

    def crash(self, node_id: int) -> None:
        """What was not on disk is lost, and so is what was on its way from or to the node."""
        self.down.add(node_id)
        self.network = deque(m for m in self.network if node_id not in (m.to, m.sender))

    def restart(self, node_id: int, **settings: Any) -> None:
        # A state machine is durable here, a member's own configuration comes back with it.
        conf_state = self.raws[node_id].raft.configuration.conf_state()
        self.crash(node_id)
        store = self.storages[node_id]
        snapshot = store._snapshot
        metadata = SnapshotMetadata(conf_state, snapshot.metadata.index, snapshot.metadata.term)
        store._snapshot = Snapshot(snapshot.data, metadata)
        self.start(node_id, **settings)

    # --- network ------------------------------------------------------------------------------

    def isolate(self, *node_ids: int) -> None:
        """Cut a group of nodes off from the others."""
        for inside in node_ids:
            for outside in self.storages.keys() - set(node_ids):
                self.cut |= {(inside, outside), (outside, inside)}

    def heal(self) -> None:
        self.cut.clear()
        self.drops = lambda message: False

    def _lost(self, message: Message) -> bool:
        if message.sender == message.to or message.sender in THREADS:
            return False
        unreachable = (message.sender, message.to) in self.cut or self.down & {message.sender, message.to}
        return bool(unreachable) or self.drops(message)

    # --- running ------------------------------------------------------------------------------

    def settle(self) -> None:
        for _ in range(10_000):
            for node_id in sorted(self.storages.keys() - self.down):
                self._drain(node_id)
            if not self.network:
                return
            for _ in range(len(self.network)):
                self._deliver(self.network.popleft())
        raise AssertionError("the cluster does not come to rest")

    def _deliver(self, message: Message) -> None:
        if message.to in self.raws and not self._lost(message):
            self.history.append(message)
            self.raws[message.to].step(message)

    def _drain(self, node_id: int) -> None:
        raw = self.raws[node_id]
        while raw.has_ready():
            ready = raw.ready()
            self.reads[node_id] += ready.read_states
            if raw.raft.config.async_storage_writes:
                for message in ready.messages:
                    self._route(node_id, message)
                continue
            self._store(node_id, ready.hard_state, ready.entries, ready.snapshot)
            self._apply(node_id, ready.committed_entries)
            self.network += ready.messages
            self.network += ready.messages_after_persist
            raw.advance()

    def _route(self, node_id: int, message: Message) -> None:
        if message.to == LOCAL_APPEND_THREAD:
            state = HardState(message.term, message.vote, message.commit)
            self._store(node_id, state if state.term else None, message.entries, message.snapshot)
        elif message.to == LOCAL_APPLY_THREAD:
            self._apply(node_id, message.entries)
        else:
            self.network.append(message)
        self.network += message.responses

    def _store(
        self, node_id: int, state: HardState | None, log: Sequence[Entry], snapshot: Snapshot | None
    ) -> None:
        store = self.storages[node_id]
        if state is not None:
            store.hard_state = state
        if snapshot is not None:
            store.apply_snapshot(snapshot)
            self.applied[node_id].append(Entry(snapshot.metadata.term, snapshot.metadata.index))
        store.append(log)

    def _apply(self, node_id: int, committed: Sequence[Entry]) -> None:
        for entry in committed:
            self.applied[node_id].append(entry)
            if entry.kind is not EntryKind.NORMAL:
                self.raws[node_id].apply_conf_change(decode_conf_change(entry))

    def tick(self, node_id: int, count: int = 1) -> None:
        for _ in range(count):
            self.raws[node_id].tick()

    def tick_all(self, count: int = 1) -> None:
        """Ticks for everyone, with the network running in between."""
        for _ in range(count):
            for node_id in sorted(self.storages.keys() - self.down):
                self.raws[node_id].tick()
            self.settle()

    # --- usual things -------------------------------------------------------------------------

    def elect(self, node_id: int) -> None:
        self.raws[node_id].campaign()
        self.settle()
        assert self.raws[node_id].role is Role.LEADER

    def propose(self, node_id: int, *datas: bytes) -> None:
        self.raws[node_id].propose_many(datas)
        self.settle()

    def change(self, node_id: int, change: ConfChange | ConfChangeV2) -> None:
        self.raws[node_id].propose_conf_change(change)
        self.settle()

    def compact(self, node_id: int) -> None:
        """Take a snapshot of all that is applied, and drop the log before it."""
        store, raw = self.storages[node_id], self.raws[node_id]
        index = raw.raft.log.applied
        data = b"".join(entry.data for entry in self.applied[node_id] if entry.kind is EntryKind.NORMAL)
        store.create_snapshot(index, raw.raft.configuration.conf_state(), data)
        store.compact(index)

    def roles(self) -> dict[int, Role]:
        return {node_id: raw.role for node_id, raw in self.raws.items()}

    def leaders(self) -> list[int]:
        return [i for i, raw in self.raws.items() if raw.role is Role.LEADER and i not in self.down]

    def log_of(self, node_id: int) -> list[tuple[int, int]]:
        """(term, index) of what is on a node's disk."""
        store = self.storages[node_id]
        found = store.entries(store.first_index(), store.last_index() + 1, NO_LIMIT)
        return [(entry.term, entry.index) for entry in found]

    def data_of(self, node_id: int) -> list[bytes]:
        """The commands applied on a node."""
        return [e.data for e in self.applied[node_id] if e.kind is EntryKind.NORMAL and e.data]
