"""A run as people read it: one line an event, messages in the notation of Raft transcripts."""

from __future__ import annotations

from raft_sim.machine import request_id_of

from aspen.raft.messages import Entry, EntryKind, Message, MessageType, decode_conf_change


def _entry(entry: Entry) -> str:
    if entry.kind is not EntryKind.NORMAL:
        change = decode_conf_change(entry)
        what = " ".join(f"{single.type.name}:{single.node_id}" for single in change.changes) or "LEAVE_JOINT"
    else:
        what = f"#{request_id_of(entry.data)}" if entry.data else "-"
    return f"{entry.term}/{entry.index} {what}"


def describe_message(message: Message) -> str:
    parts = [f"{message.sender}->{message.to} {message.type.name} term {message.term}"]
    if message.log_term or message.index:
        parts.append(f"log {message.log_term}/{message.index}")
    if message.commit:
        parts.append(f"commit {message.commit}")
    if message.reject:
        parts.append(f"REJECT hint {message.reject_hint}")
    if message.type in (MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESP):
        parts.append(f"round {int.from_bytes(message.context, 'big')}")
    elif message.context:
        parts.append(f"context {message.context.hex()}")
    if message.entries:
        parts.append(f"[{', '.join(_entry(entry) for entry in message.entries)}]")
    if message.snapshot is not None:
        metadata = message.snapshot.metadata
        parts.append(f"snapshot {metadata.term}/{metadata.index} {metadata.conf_state}")
    return " ".join(parts)
