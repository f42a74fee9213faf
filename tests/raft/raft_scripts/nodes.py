"""The nodes of a script: a `RawNode` each, over memory, with an "appender" as its state machine.

Its state is the concatenation of all that was applied, and there is a snapshot of it at every
index. Log, hard state and state machine are durable: a restart begins with them and nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from raft_scripts.datadriven import Arguments, CommandError

from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    Snapshot,
    SnapshotMetadata,
    decode_conf_change,
)
from aspen.raft.progress import NO_LIMIT
from aspen.raft.rawnode import RaftConfig, RawNode, ReadOnlyOption

_READ_ONLY = {"safe": ReadOnlyOption.SAFE, "lease-based": ReadOnlyOption.LEASE_BASED}
_BOOTSTRAP_OPTIONS = ("voters", "learners", "index", "content")
_UNLIMITED_MESSAGES = 2**31 - 1


class ScriptStorage(MemoryStorage):
    """Offers the newest snapshot of the state machine, wherever the log was compacted."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []

    def snapshot(self) -> Snapshot:
        return self.history[-1]

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.history[-1].metadata.conf_state


@dataclass
class ScriptNode:
    """One node, and the work that waits for its two threads."""

    raw: RawNode
    config: RaftConfig
    storage: ScriptStorage
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    def append(self, hard_state: HardState | None, entries: tuple[Entry, ...], snap: Snapshot | None) -> None:
        if hard_state is not None:
            self.storage.hard_state = hard_state
        if snap is not None:
            if entries:
                raise CommandError("can't apply snapshot and entries at the same time")
            self.storage.apply_snapshot(snap)
            self.storage.history.append(snap)
        else:
            self.storage.append(entries)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            last = self.storage.history[-1]
            members, update = last.metadata.conf_state, entry.data
            if entry.kind is not EntryKind.NORMAL:
                change = decode_conf_change(entry)
                update = change.context
                members = self.raw.apply_conf_change(change)
            metadata = SnapshotMetadata(members, entry.index, entry.term)
            self.storage.history.append(Snapshot(last.data + update, metadata))

    def restart(self) -> None:
        """Start anew from what is durable."""
        self.append_work.clear()
        self.apply_work.clear()
        self.config = replace(self.config, applied=self.storage.history[-1].metadata.index)
        self.raw = RawNode(self.config)


def new_nodes(arguments: Arguments, first_id: int) -> list[ScriptNode]:
    """What `add-nodes` adds: nodes of consecutive ids that all start from the same snapshot."""
    members = ConfState(
        voters=tuple(int(value) for value in arguments.values("voters")),
        learners=tuple(int(value) for value in arguments.values("learners")),
    )
    index = int(arguments.value("index", "0"))
    start = Snapshot(arguments.value("content").encode(), SnapshotMetadata(members, index, 1))
    bootstraps = any(arguments.value(key) for key in _BOOTSTRAP_OPTIONS)
    if bootstraps and index <= 1:
        raise CommandError("index must be specified as > 1 due to bootstrap")
    nodes = []
    for node_id in range(first_id, first_id + arguments.numbers()[0]):
        storage = ScriptStorage()
        if bootstraps:
            storage.apply_snapshot(start)
        storage.history.append(start if bootstraps else Snapshot())
        config = _config(arguments, node_id, storage, index)
        nodes.append(ScriptNode(RawNode(config), config, storage))
    return nodes


def _config(arguments: Arguments, node_id: int, storage: ScriptStorage, applied: int) -> RaftConfig:
    read_only = arguments.value("read-only", "safe")
    if read_only not in _READ_ONLY:
        raise CommandError(f'invalid read-only option "{read_only}"')
    return RaftConfig(
        node_id=node_id,
        storage=storage,
        rng=random.Random(node_id),
        election_ticks=3,
        heartbeat_ticks=1,
        applied=applied,
        async_storage_writes=arguments.flag("async-storage-writes"),
        max_message_bytes=NO_LIMIT,
        max_committed_bytes_per_ready=int(arguments.value("max-committed-size-per-ready", str(NO_LIMIT))),
        max_uncommitted_bytes=NO_LIMIT,
        max_inflight_messages=int(arguments.value("inflight", str(_UNLIMITED_MESSAGES))),
        max_inflight_bytes=NO_LIMIT,
        check_quorum=arguments.flag("checkquorum"),
        pre_vote=arguments.flag("prevote"),
        read_only_option=_READ_ONLY[read_only],
        disable_conf_change_validation=arguments.flag("disable-conf-change-validation"),
        step_down_on_removal=arguments.flag("step-down-on-removal"),
    )
