"""How transcripts write messages, entries, readies, configurations and progress."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from raft_scripts.datadriven import CommandError

from aspen.raft.membership import Configuration
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode_conf_change,
)
from aspen.raft.progress import ProgressView, ReplicationState
from aspen.raft.rawnode import Ready, Role, SoftState
from aspen.raft.reads import ReadState

MESSAGE_NAMES = {
    kind: "Msg" + "".join(part.capitalize() for part in kind.name.split("_")) for kind in MessageType
}
ROLE_NAMES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}
_STATE_NAMES = {
    ReplicationState.PROBE: "StateProbe",
    ReplicationState.REPLICATE: "StateReplicate",
    ReplicationState.SNAPSHOT: "StateSnapshot",
}
_ENTRY_NAMES = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CONF_CHANGE: "EntryConfChange",
    EntryKind.CONF_CHANGE_V2: "EntryConfChangeV2",
}
_CHANGE_LETTERS = {
    "v": ConfChangeType.ADD_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
}
_LETTERS = {kind: letter for letter, kind in _CHANGE_LETTERS.items()}
_THREADS = {0: "None", LOCAL_APPEND_THREAD: "AppendThread", LOCAL_APPLY_THREAD: "ApplyThread"}
_ESCAPES = {
    "\\": "\\\\",
    '"': '\\"',
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """`v1 l2 r3 u4`. Raises `CommandError`."""
    singles = []
    for word in text.split():
        if len(word) < 2:
            raise CommandError(f"unknown token {word}")
        if word[0] not in _CHANGE_LETTERS:
            raise CommandError(f"unknown input: {word}")
        singles.append(ConfChangeSingle(_CHANGE_LETTERS[word[0]], int(word[1:])))
    return tuple(singles)


def changes(singles: Iterable[ConfChangeSingle]) -> str:
    return " ".join(f"{_LETTERS[single.type]}{single.node_id}" for single in singles)


def node(node_id: int) -> str:
    return _THREADS.get(node_id, f"{node_id:x}")


def quoted(data: bytes) -> str:
    """Text between quotes; what can't be printed is escaped."""
    return '"' + "".join(map(_escaped, data.decode("utf-8", "surrogateescape"))) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def entry(item: Entry) -> str:
    if item.kind is EntryKind.NORMAL:
        content = quoted(item.data)
    else:
        content = changes(decode_conf_change(item).changes)
    return f"{item.term}/{item.index} {_ENTRY_NAMES[item.kind]}" + (f" {content}" if content else "")


def ids(node_ids: Iterable[int]) -> str:
    return "[" + " ".join(str(node_id) for node_id in node_ids) + "]"


def boolean(value: bool) -> str:
    return str(value).lower()


def conf_state(state: ConfState) -> str:
    return (
        f"Voters:{ids(state.voters)} VotersOutgoing:{ids(state.voters_outgoing)} "
        f"Learners:{ids(state.learners)} LearnersNext:{ids(state.learners_next)} "
        f"AutoLeave:{boolean(state.auto_leave)}"
    )


def snapshot(item: Snapshot) -> str:
    metadata = item.metadata
    return f"Index:{metadata.index} Term:{metadata.term} ConfState:{conf_state(metadata.conf_state)}"


def message(item: Message, indent: str = "") -> str:
    text = (
        f"{indent}{node(item.sender)}->{node(item.to)} {MESSAGE_NAMES[item.type]} "
        f"Term:{item.term} Log:{item.log_term}/{item.index}"
    )
    if item.reject:
        text += f" Rejected (Hint: {item.reject_hint})"
    if item.commit:
        text += f" Commit:{item.commit}"
    if item.vote:
        text += f" Vote:{item.vote}"
    if len(item.entries) == 1:
        text += f" Entries:[{entry(item.entries[0])}]"
    elif item.entries:
        text += " Entries:["
        text += "".join(f"\n{indent}  {entry(one)}" for one in item.entries)
        text += f"\n{indent}]"
    if item.snapshot is not None:
        text += f"\n{indent}  Snapshot: {snapshot(item.snapshot)}"
    if item.responses:
        text += " Responses:["
        text += "".join("\n" + message(one, indent + "  ") for one in item.responses)
        text += f"\n{indent}]"
    return text


def soft_state(state: SoftState) -> str:
    return f"Lead:{state.leader_id} State:{ROLE_NAMES[state.role]}"


def hard_state(state: HardState) -> str:
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"HardState Term:{state.term}{vote} Commit:{state.commit}"


def read_states(states: Iterable[ReadState]) -> str:
    return "ReadStates [" + " ".join(f"{{{one.index} {quoted(one.context)}}}" for one in states) + "]"


def ready(item: Ready) -> list[str]:
    lines: list[str] = []
    if item.soft_state is not None:
        lines.append(soft_state(item.soft_state))
    if item.hard_state is not None:
        lines.append(hard_state(item.hard_state))
    if item.read_states:
        lines.append(read_states(item.read_states))
    if item.entries:
        lines += ["Entries:", *map(entry, item.entries)]
    if item.snapshot is not None:
        lines.append(f"Snapshot {snapshot(item.snapshot)}")
    if item.committed_entries:
        lines += ["CommittedEntries:", *map(entry, item.committed_entries)]
    sent = (*item.messages, *item.messages_after_persist)
    if sent:
        lines += ["Messages:", *(line for one in sent for line in message(one).split("\n"))]
    return [f"Ready MustSync={boolean(item.must_sync)}:", *lines] if lines else []


def majority(voters: Collection[int]) -> str:
    return "(" + " ".join(str(voter) for voter in sorted(voters)) + ")"


def configuration(item: Configuration) -> str:
    text = f"voters={majority(item.voters)}"
    if item.voters_outgoing:
        text += f"&&{majority(item.voters_outgoing)}"
    if item.learners:
        text += f" learners={majority(item.learners)}"
    if item.learners_next:
        text += f" learners_next={majority(item.learners_next)}"
    return text + (" autoleave" if item.auto_leave else "")


def progress(item: ProgressView) -> str:
    text = f"{_STATE_NAMES[item.state]} match={item.match} next={item.next}"
    if item.is_learner:
        text += " learner"
    if item.paused:
        text += " paused"
    if item.pending_snapshot:
        text += f" pendingSnap={item.pending_snapshot}"
    if not item.recent_active:
        text += " inactive"
    if item.inflight_messages:
        text += f" inflight={item.inflight_messages}" + ("[full]" if item.window_full else "")
    return text


def entries(items: Sequence[Entry]) -> list[str]:
    return [entry(item) for item in items]
