"""A cluster under a script's control: nothing moves unless a command says so.

The lines of a command's input are commands too, run after it; those of `propose-conf-change` are
the change. Besides the reference's commands there are some of our own, for what it has none for:

    read-index <id> <context>            ask for an index to read at
    report-snapshot <id> <to> failed=B   say what became of a snapshot that was sent
    restart <id>                         crash: all that is not durable is lost; what was sent is on its way
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raft_scripts import describe
from raft_scripts.datadriven import Arguments, Case, CommandError, ScriptError, parse_command
from raft_scripts.nodes import ScriptNode, new_nodes

from aspen.raft.log import LogCompacted, LogUnavailable
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_TYPES,
    RESPONSE_TYPES,
    ConfChange,
    ConfChangeTransition,
    ConfChangeV2,
    HardState,
    Message,
    MessageType,
)
from aspen.raft.progress import NO_LIMIT
from aspen.raft.rawnode import ProposalDropped, RawNode

_THREADS = (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)
_TYPES = {name: kind for kind, name in describe.MESSAGE_NAMES.items()}
_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}
_PROPOSAL_DROPPED = "raft proposal dropped"
_REPORTED = {
    ProposalDropped: _PROPOSAL_DROPPED,
    LogCompacted: "requested index is unavailable due to compaction",
    LogUnavailable: "requested entry at index is unavailable",
}
"""Failures that belong to the story: the node's answer, not the end of the script."""


class Interaction:
    """The environment of one script. `handle` returns what a command prints, log lines left out."""

    def __init__(self) -> None:
        self.nodes: list[ScriptNode] = []
        self.messages: list[Message] = []
        self._output: list[str] = []
        self._quiet = False
        self._commands: dict[str, Callable[[Arguments], None]] = {
            "_breakpoint": lambda _: None,
            "add-nodes": self._add_nodes,
            "campaign": lambda args: self._raw(args).campaign(),
            "compact": self._compact,
            "deliver-msgs": self._deliver_messages,
            "forget-leader": lambda args: self._raw(args).forget_leader(),
            "log-level": lambda args: self._set_level(args.words[0]),
            "process-append-thread": self._per_node("processing append thread", self._append_thread),
            "process-apply-thread": self._per_node("processing apply thread", self._apply_thread),
            "process-ready": self._per_node("handling Ready", self._process_ready),
            "propose": lambda args: self._raw(args).propose(args.words[1].encode()),
            "raft-log": lambda args: self._write_log(self._node(args.numbers()[0])),
            "raft-state": self._raft_state,
            "read-index": lambda args: self._raw(args).read_index(args.words[1].encode()),
            "report-snapshot": self._report_snapshot,
            "report-unreachable": self._report_unreachable,
            "restart": self._restart,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_randomized_timeout,
            "stabilize": self._stabilize,
            "status": self._status,
            "tick-election": lambda args: self._tick(args, election=True),
            "tick-heartbeat": lambda args: self._tick(args, election=False),
            "transfer-leadership": self._transfer_leadership,
        }

    def handle(self, case: Case) -> str:
        self._output = []
        if case.command == "propose-conf-change":
            failure = self._attempt(lambda: self._propose_conf_change(case.arguments, " ".join(case.input)))
        else:
            failure = self._run(case.command, case.arguments)
            for line in case.input:
                # After the first, a failure is shown and the next command runs.
                if failure:
                    break
                if inner := self._run(*parse_command(line)):
                    if self._quiet:
                        failure = inner
                    self._write(inner)
        # With logging off nothing is shown, but that a command failed.
        if failure and self._quiet:
            return failure
        self._write(failure)
        return "".join(self._output) or "ok"

    def _run(self, command: str, arguments: Arguments) -> str:
        """Carry out one command; return how it failed, if it did."""
        if command not in self._commands:
            return "unknown command"
        return self._attempt(lambda: self._commands[command](arguments))

    @staticmethod
    def _attempt(action: Callable[[], None]) -> str:
        try:
            action()
        except CommandError as error:
            return str(error)
        except tuple(_REPORTED) as error:
            return _REPORTED[type(error)]
        return ""

    # --- output -------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._output.append(text)

    def _print(self, *lines: str) -> None:
        self._write("".join(line + "\n" for line in lines))

    @contextmanager
    def _under(self, heading: str) -> Iterator[None]:
        self._print(heading)
        outer, self._output = self._output, []
        try:
            yield
        finally:
            inner, self._output = self._output, outer
            self._print(*("  " + line for line in "".join(inner).splitlines()))

    def _set_level(self, name: str) -> None:
        if name.upper() not in _LEVELS:
            raise CommandError(f"log levels must be either of [{' '.join(_LEVELS)}]")
        self._quiet = name.upper() == "NONE"

    # --- nodes --------------------------------------------------------------------------------

    def _node(self, node_id: int) -> ScriptNode:
        if not 0 < node_id <= len(self.nodes):
            raise ScriptError(f"there is no node {node_id}")
        return self.nodes[node_id - 1]

    def _raw(self, arguments: Arguments) -> RawNode:
        return self._node(int(arguments.words[0])).raw

    def _per_node(self, title: str, action: Callable[[int], None]) -> Callable[[Arguments], None]:
        def run(arguments: Arguments) -> None:
            node_ids = arguments.numbers()
            for node_id in node_ids:
                if len(node_ids) == 1:
                    action(node_id)
                else:
                    with self._under(f"> {node_id} {title}"):
                        action(node_id)

        return run

    def _add_nodes(self, arguments: Arguments) -> None:
        self.nodes += new_nodes(arguments, len(self.nodes) + 1)

    def _restart(self, arguments: Arguments) -> None:
        (node_id,) = arguments.numbers()
        node = self._node(node_id)
        self.messages = [m for m in self.messages if m.to != node_id or not _stays_local(m)]
        node.restart()
        status = node.raw.status()
        self._print(
            f"{describe.hard_state(status.hard_state)} Applied:{status.applied} "
            f"Log:{node.raw.raft.log.last_term}/{status.last_index}"
        )

    def _set_randomized_timeout(self, arguments: Arguments) -> None:
        self._raw(arguments).raft.randomized_timeout = int(arguments.value("timeout"))

    def _tick(self, arguments: Arguments, *, election: bool) -> None:
        node = self._node(arguments.numbers()[0])
        for _ in range(node.config.election_ticks if election else node.config.heartbeat_ticks):
            node.raw.tick()

    # --- requests -----------------------------------------------------------------------------

    def _propose_conf_change(self, arguments: Arguments, text: str) -> None:
        for key, values in arguments.items:
            if values and key not in ("v1", "transition"):
                raise CommandError(f"unknown command {key}")
        if (name := arguments.value("transition", "auto")) not in _TRANSITIONS:
            raise CommandError(f"unknown transition {name}")
        transition = _TRANSITIONS[name]
        singles = describe.parse_changes(text)
        change: ConfChange | ConfChangeV2 = ConfChangeV2(singles, transition)
        if arguments.flag("v1"):
            if len(singles) != 1 or transition is not ConfChangeTransition.AUTO:
                raise CommandError("v1 conf change can only have one operation and no transition")
            change = ConfChange(singles[0].type, singles[0].node_id)
        self._raw(arguments).propose_conf_change(change)

    def _transfer_leadership(self, arguments: Arguments) -> None:
        self._node(int(arguments.value("from"))).raw.transfer_leader(int(arguments.value("to")))

    def _report_unreachable(self, arguments: Arguments) -> None:
        if len(arguments.numbers()) != 2:
            raise CommandError(
                "must specify exactly two node indexes: node on which to report, and reported node"
            )
        self._raw(arguments).report_unreachable(arguments.numbers()[1])

    def _report_snapshot(self, arguments: Arguments) -> None:
        self._raw(arguments).report_snapshot(arguments.numbers()[1], arguments.flag("failed"))

    def _send_snapshot(self, arguments: Arguments) -> None:
        sender, to = arguments.numbers()
        node = self._node(sender)
        message = Message(
            MessageType.SNAP, to=to, sender=sender, term=node.raw.term, snapshot=node.storage.snapshot()
        )
        self.messages.append(message)
        self._write(describe.message(message))

    def _compact(self, arguments: Arguments) -> None:
        node_id, index = arguments.numbers()
        self._node(node_id).storage.compact(index)
        self._write_log(self._node(node_id))

    # --- what nodes do ------------------------------------------------------------------------

    def _process_ready(self, node_id: int) -> None:
        node = self._node(node_id)
        ready = node.raw.ready()
        if lines := describe.ready(ready):
            self._print(*lines)
        else:
            self._write("<empty Ready>")
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
        node.apply(ready.committed_entries)
        self.messages += [*ready.messages, *ready.messages_after_persist]
        node.raw.advance()

    def _append_thread(self, node_id: int) -> None:
        node = self._node(node_id)
        if not node.append_work:
            self._write("no append work to perform")
            return
        work = node.append_work.pop(0)
        self._begin_work(work)
        hard_state = HardState(work.term, work.vote, work.commit)
        node.append(hard_state if hard_state != HardState() else None, work.entries, work.snapshot)
        self._end_work(work)

    def _apply_thread(self, node_id: int) -> None:
        node = self._node(node_id)
        if not node.apply_work:
            self._write("no apply work to perform")
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
        self._print("Processing:", describe.message(bare))

    def _end_work(self, work: Message) -> None:
        self._print("Responses:", *map(describe.message, work.responses))
        self.messages += work.responses

    # --- delivery -----------------------------------------------------------------------------

    def _deliver_messages(self, arguments: Arguments) -> None:
        name = arguments.value("type")
        if name and name not in _TYPES:
            raise ScriptError(f"unknown message type {name}")
        kind = _TYPES.get(name)
        recipients: list[tuple[int, bool]] = []
        for key, values in arguments.items:
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
            self._print(("dropped: " if drop else "") + describe.message(message))
            if not drop and (refusal := _step(self._node(node_id).raw, message)):
                self._print(refusal)
        return len(taken)

    def _stabilize(self, arguments: Arguments) -> None:
        was_quiet = self._quiet
        if arguments.value("log-level"):
            self._set_level(arguments.value("log-level"))
        try:
            node_ids = arguments.numbers() or list(range(1, len(self.nodes) + 1))
            while self._stabilize_once(node_ids):
                pass
        finally:
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

    def _write_log(self, node: ScriptNode) -> None:
        first, last = node.storage.first_index(), node.storage.last_index()
        if last < first:
            self._write(f"log is empty: first index={first}, last index={last}")
        else:
            self._print(*describe.entries(node.storage.entries(first, last + 1, NO_LIMIT)))

    def _raft_state(self, _arguments: Arguments) -> None:
        for node in self.nodes:
            status = node.raw.status()
            soft = status.soft_state
            votes = "Voter" if status.node_id in status.configuration.all_voters else "Non-Voter"
            self._print(
                f"{status.node_id}: {describe.ROLE_NAMES[soft.role]} ({votes}) "
                f"Term:{status.hard_state.term} Lead:{soft.leader_id}"
            )

    def _status(self, arguments: Arguments) -> None:
        for node_id, progress in self._raw(arguments).status().progress.items():
            self._print(f"{node_id}: {describe.progress(progress)}")


def _step(raw: RawNode, message: Message) -> str:
    """Hand a message to its addressee; return how it was refused, if it was."""
    if not raw.knows(message):
        if message.type in LOCAL_TYPES:
            return "raft: cannot step raft local message"
        return "raft: cannot step as peer not found" if message.type in RESPONSE_TYPES else ""
    try:
        raw.step(message)
    except ProposalDropped:
        return _PROPOSAL_DROPPED
    return ""


def _stays_local(message: Message) -> bool:
    """What a node says to itself or its threads is never lost."""
    return message.sender == message.to or message.sender in _THREADS or message.to in _THREADS
