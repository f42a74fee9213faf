"""A cluster under a script's control: nothing moves unless a command says so.

Each node is a `RawNode` over memory, with an "appender" as its state machine: its state is the
concatenation of all that was applied, and there is a snapshot of it at every index.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raft_scripts import describe
from raft_scripts.datadriven import Case, ScriptError

from aspen.raft.log import LogCompacted
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_TYPES,
    ConfChange,
    ConfChangeTransition,
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
from aspen.raft.rawnode import ProposalDropped, RaftConfig, RawNode, ReadOnlyOption

_THREADS = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)
_TYPES = {name: kind for kind, name in describe.MESSAGE_NAMES.items()}
_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")


class _Storage(MemoryStorage):
    """Offers the newest snapshot of the state machine, wherever the log was compacted."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@dataclass
class _Node:
    raw: RawNode
    config: RaftConfig
    storage: _Storage
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    def append(self, hard_state: HardState | None, entries: tuple[Entry, ...], snap: Snapshot | None) -> None:
        if hard_state is not None:
            self.storage.hard_state = hard_state
        if snap is not None:
            if entries:
                raise ScriptError("a snapshot and entries in one write")
            self.storage.apply_snapshot(snap)
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


class Interaction:
    """The environment of one script. `handle` returns what a command prints, log lines left out."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.messages: list[Message] = []
        self._output: list[str] = []
        self._indent = ""
        self._quiet = False
        self._commands: dict[str, Callable[[Case], None]] = {
            "_breakpoint": lambda case: None,
            "add-nodes": self._add_nodes,
            "campaign": lambda case: self._raw(case).campaign(),
            "compact": self._compact,
            "deliver-msgs": self._deliver_messages,
            "forget-leader": lambda case: self._raw(case).forget_leader(),
            "log-level": self._log_level,
            "process-append-thread": self._per_node("processing append thread", self._append_thread),
            "process-apply-thread": self._per_node("processing apply thread", self._apply_thread),
            "process-ready": self._per_node("handling Ready", self._process_ready),
            "propose": lambda case: self._raw(case).propose(case.words[1].encode()),
            "propose-conf-change": self._propose_conf_change,
            "raft-log": lambda case: self._print_log(self._node(case.numbers()[0])),
            "raft-state": self._raft_state,
            "report-unreachable": lambda case: self._raw(case).report_unreachable(case.numbers()[1]),
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_randomized_timeout,
            "stabilize": self._stabilize,
            "status": self._status,
            "tick-election": lambda case: self._tick(case, election=True),
            "tick-heartbeat": lambda case: self._tick(case, election=False),
            "transfer-leadership": self._transfer_leadership,
        }

    def handle(self, case: Case) -> str:
        if case.command not in self._commands:
            raise ScriptError(f"{case}: unknown command")
        self._output = []
        errors: list[str] = []
        try:
            self._commands[case.command](case)
        except ProposalDropped:
            errors = ["raft proposal dropped"]
        except LogCompacted:
            errors = ["requested index is unavailable due to compaction"]
        # With logging off only errors are shown.
        lines = errors if self._quiet else self._output + errors
        return "\n".join(lines) or "ok"

    def _print(self, *lines: str) -> None:
        self._output += [self._indent + line for line in lines]

    @contextmanager
    def _under(self, heading: str) -> Iterator[None]:
        self._print(heading)
        outer, self._indent = self._indent, self._indent + "  "
        yield
        self._indent = outer

    def _node(self, node_id: int) -> _Node:
        return self.nodes[node_id - 1]

    def _raw(self, case: Case) -> RawNode:
        return self._node(int(case.words[0])).raw

    def _per_node(self, title: str, action: Callable[[int], None]) -> Callable[[Case], None]:
        def run(case: Case) -> None:
            node_ids = case.numbers()
            for node_id in node_ids:
                if len(node_ids) == 1:
                    action(node_id)
                else:
                    with self._under(f"> {node_id} {title}"):
                        action(node_id)

        return run

    # --- nodes --------------------------------------------------------------------------------

    def _add_nodes(self, case: Case) -> None:
        members = ConfState(
            voters=tuple(int(value) for value in case.values("voters")),
            learners=tuple(int(value) for value in case.values("learners")),
        )
        index = int(case.value("index", "0"))
        start = Snapshot(case.value("content").encode(), SnapshotMetadata(members, index, 1))
        bootstraps = any(case.value(key) for key in ("voters", "learners", "index", "content"))
        if bootstraps and index <= 1:
            raise ScriptError(f"{case}: index must be above 1 to bootstrap")
        for _ in range(case.numbers()[0]):
            storage = _Storage()
            if bootstraps:
                storage.apply_snapshot(start)
                storage.history.append(start)
            else:
                storage.history.append(Snapshot())
            config = self._config(case, len(self.nodes) + 1, storage, index)
            self.nodes.append(_Node(RawNode(config), config, storage))

    @staticmethod
    def _config(case: Case, node_id: int, storage: _Storage, applied: int) -> RaftConfig:
        lease = case.value("read-only") == "lease-based"
        return RaftConfig(
            node_id=node_id,
            storage=storage,
            rng=random.Random(node_id),
            election_ticks=3,
            heartbeat_ticks=1,
            applied=applied,
            async_storage_writes=case.flag("async-storage-writes"),
            max_message_bytes=NO_LIMIT,
            max_committed_bytes_per_ready=int(case.value("max-committed-size-per-ready", str(NO_LIMIT))),
            max_uncommitted_bytes=NO_LIMIT,
            max_inflight_messages=int(case.value("inflight", str(2**31 - 1))),
            max_inflight_bytes=NO_LIMIT,
            check_quorum=case.flag("checkquorum"),
            pre_vote=case.flag("prevote"),
            read_only_option=ReadOnlyOption.LEASE_BASED if lease else ReadOnlyOption.SAFE,
            disable_conf_change_validation=case.flag("disable-conf-change-validation"),
            step_down_on_removal=case.flag("step-down-on-removal"),
        )

    def _set_randomized_timeout(self, case: Case) -> None:
        self._raw(case).raft.randomized_timeout = int(case.value("timeout"))

    def _tick(self, case: Case, *, election: bool) -> None:
        node = self._node(case.numbers()[0])
        for _ in range(node.config.election_ticks if election else node.config.heartbeat_ticks):
            node.raw.tick()

    def _log_level(self, case: Case) -> None:
        level = case.words[0].lower()
        if level not in _LEVELS:
            raise ScriptError(f"{case}: log levels are {', '.join(_LEVELS)}")
        self._quiet = level == "none"

    # --- requests -----------------------------------------------------------------------------

    def _propose_conf_change(self, case: Case) -> None:
        singles = describe.parse_changes(" ".join(case.input))
        transition = {
            "": ConfChangeTransition.AUTO,
            "auto": ConfChangeTransition.AUTO,
            "implicit": ConfChangeTransition.JOINT_IMPLICIT,
            "explicit": ConfChangeTransition.JOINT_EXPLICIT,
        }[case.value("transition")]
        change: ConfChange | ConfChangeV2 = ConfChangeV2(singles, transition)
        if case.flag("v1"):
            if len(singles) != 1 or transition is not ConfChangeTransition.AUTO:
                raise ScriptError(f"{case}: v1 takes one change and no transition")
            change = ConfChange(singles[0].type, singles[0].node_id)
        self._raw(case).propose_conf_change(change)

    def _transfer_leadership(self, case: Case) -> None:
        self._node(int(case.value("from"))).raw.transfer_leader(int(case.value("to")))

    def _send_snapshot(self, case: Case) -> None:
        sender, to = case.numbers()
        node = self._node(sender)
        message = Message(
            MessageType.SNAP, to=to, sender=sender, term=node.raw.term, snapshot=node.storage.snapshot()
        )
        self.messages.append(message)
        self._print(*describe.message(message).split("\n"))

    def _compact(self, case: Case) -> None:
        node = self._node(case.numbers()[0])
        node.storage.compact(case.numbers()[1])
        self._print_log(node)

    # --- what nodes do ------------------------------------------------------------------------

    def _process_ready(self, node_id: int) -> None:
        node = self._node(node_id)
        ready = node.raw.ready()
        self._print(*describe.ready(ready))
        if node.config.async_storage_writes:
            for message in ready.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    node.append_work.append(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    node.apply_work.append(message)
                else:
                    self.messages.append(message)
            return
        node.append(ready.hard_state, ready.entries, ready.snapshot)
        if ready.snapshot is not None:
            node.storage.history.append(ready.snapshot)
        node.apply(ready.committed_entries)
        self.messages += [*ready.messages, *ready.messages_after_persist]
        node.raw.advance()

    def _append_thread(self, node_id: int) -> None:
        node = self._node(node_id)
        if not node.append_work:
            self._print("no append work to perform")
            return
        work = node.append_work.pop(0)
        self._begin_work(work)
        hard_state = HardState(work.term, work.vote, work.commit)
        node.append(hard_state if hard_state != HardState() else None, work.entries, work.snapshot)
        if work.snapshot is not None:
            node.storage.history.append(work.snapshot)
        self._end_work(work)

    def _apply_thread(self, node_id: int) -> None:
        node = self._node(node_id)
        if not node.apply_work:
            self._print("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        self._begin_work(work)
        node.apply(work.entries)
        self._end_work(work)

    def _begin_work(self, work: Message) -> None:
        bare = Message(
            work.type,
            to=work.to,
            sender=work.sender,
            term=work.term,
            entries=work.entries,
            commit=work.commit,
            vote=work.vote,
            snapshot=work.snapshot,
        )
        self._print("Processing:", *describe.message(bare).split("\n"))

    def _end_work(self, work: Message) -> None:
        self._print("Responses:")
        for response in work.responses:
            self._print(*describe.message(response).split("\n"))
        self.messages += work.responses

    # --- delivery -----------------------------------------------------------------------------

    def _deliver_messages(self, case: Case) -> None:
        kind = _TYPES[case.value("type")] if case.value("type") else None
        recipients: list[tuple[int, bool]] = []
        for key, values in case.arguments:
            if key == "drop":
                recipients += [(int(value), True) for value in values]
            elif key != "type":
                recipients.append((int(key), False))
        count = sum(self._deliver(node_id, kind, drop=drop) for node_id, drop in recipients)
        if not count:
            self._print("no messages")

    def _addressed(self, node_id: int, kind: MessageType | None, *, drop: bool) -> list[Message]:
        return [
            message
            for message in self.messages
            if message.to == node_id and kind in (None, message.type) and not (drop and _stays_local(message))
        ]

    def _deliver(self, node_id: int, kind: MessageType | None = None, *, drop: bool = False) -> int:
        taken = self._addressed(node_id, kind, drop=drop)
        chosen = {id(message) for message in taken}
        self.messages = [message for message in self.messages if id(message) not in chosen]
        for message in taken:
            first, *rest = describe.message(message).split("\n")
            self._print(f"dropped: {first}" if drop else first, *rest)
            if drop:
                continue
            raw = self._node(node_id).raw
            if not raw.knows(message):
                local = message.type in LOCAL_TYPES
                self._print("raft: cannot step " + ("raft local message" if local else "as peer not found"))
                continue
            try:
                raw.step(message)
            except ProposalDropped:
                self._print("raft proposal dropped")
        return len(taken)

    def _stabilize(self, case: Case) -> None:
        was_quiet = self._quiet
        if case.value("log-level"):
            self._quiet = case.value("log-level").lower() == "none"
        start = len(self._output)
        node_ids = case.numbers() or range(1, len(self.nodes) + 1)
        while self._stabilize_once(list(node_ids)):
            pass
        if self._quiet:
            del self._output[start:]
        self._quiet = was_quiet

    def _stabilize_once(self, node_ids: list[int]) -> bool:
        busy = False
        for node_id in node_ids:
            if self._node(node_id).raw.has_ready():
                with self._under(f"> {node_id} handling Ready"):
                    self._process_ready(node_id)
                busy = True
        for node_id in node_ids:
            if self._addressed(node_id, None, drop=False):
                with self._under(f"> {node_id} receiving messages"):
                    self._deliver(node_id)
                busy = True
        for node_id in node_ids:
            if self._node(node_id).append_work:
                with self._under(f"> {node_id} processing append thread"):
                    while self._node(node_id).append_work:
                        self._append_thread(node_id)
                busy = True
        for node_id in node_ids:
            if self._node(node_id).apply_work:
                with self._under(f"> {node_id} processing apply thread"):
                    while self._node(node_id).apply_work:
                        self._apply_thread(node_id)
                busy = True
        return busy

    # --- looking ------------------------------------------------------------------------------

    def _print_log(self, node: _Node) -> None:
        first, last = node.storage.first_index(), node.storage.last_index()
        if last < first:
            self._print(f"log is empty: first index={first}, last index={last}")
        else:
            self._print(*describe.entries(node.storage.entries(first, last + 1, NO_LIMIT)))

    def _raft_state(self, case: Case) -> None:
        for node in self.nodes:
            status = node.raw.status()
            soft = status.soft_state
            votes = "Voter" if status.node_id in status.configuration.all_voters else "Non-Voter"
            self._print(
                f"{status.node_id}: {describe.ROLE_NAMES[soft.role]} ({votes}) "
                f"Term:{status.hard_state.term} Lead:{soft.leader_id}"
            )

    def _status(self, case: Case) -> None:
        for node_id, progress in self._raw(case).status().progress.items():
            self._print(f"{node_id}: {describe.progress(progress)}")


def _stays_local(message: Message) -> bool:
    """What a node says to itself or its threads is never lost."""
    return message.sender == message.to or message.sender in _THREADS or message.to in _THREADS
