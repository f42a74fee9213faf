"""The vocabulary of Raft: entries, messages, durable state, configuration changes.

Frozen values, shared by the core, the wire and the store: whoever gets one may keep it, nobody
may change it. Numbers follow etcd-raft's protocol so that its transcripts read as ours. `sender`
and `to` are node ids (0 is nobody); the two local ids at the top of the range address the
threads that append to and apply the log (see "async storage writes" in rawnode).

Raft paper: figure 2. Configuration changes: §6 and thesis §4.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import RaftWireError

LOCAL_APPEND_THREAD: Final = 2**64 - 1
LOCAL_APPLY_THREAD: Final = 2**64 - 2

NO_NODE: Final = 0

U64 = Annotated[int, msgspec.Meta(ge=0)]


class EntryKind(IntEnum):
    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One log entry. `data` is empty for the entry by which a new leader opens its term."""

    term: U64 = 0
    index: U64 = 0
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""


class MessageType(IntEnum):
    """What a message asks or says. Local ones never cross the wire (see `LOCAL_TYPES`)."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23


LOCAL_TYPES: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
        MessageType.FORGET_LEADER,
    }
)
"""Said by a node to itself; refused when they come from another."""

RESPONSE_TYPES: Final = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.UNREACHABLE,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY_RESP,
    }
)
"""Only heeded when their sender is a known member (or a local thread)."""


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What must be on disk before any message that depends on it leaves (figure 2, §5.1)."""

    term: U64 = 0
    vote: U64 = 0
    commit: U64 = 0


class ConfState(msgspec.Struct, frozen=True, array_like=True):
    """A configuration as it is stored: joint while `voters_outgoing` is not empty (§6)."""

    voters: tuple[U64, ...] = ()
    learners: tuple[U64, ...] = ()
    voters_outgoing: tuple[U64, ...] = ()
    learners_next: tuple[U64, ...] = ()
    auto_leave: bool = False


class SnapshotMetadata(msgspec.Struct, frozen=True, array_like=True):
    """Where in the log a snapshot stands, and who the members were there."""

    conf_state: ConfState = ConfState()
    index: U64 = 0
    term: U64 = 0


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state machine at one index. `data` is opaque: the state itself or a way to fetch it."""

    data: bytes = b""
    metadata: SnapshotMetadata = SnapshotMetadata()


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Any message; which fields mean something depends on `type`.

    `term` 0 marks a local or forwarded message, which is outside the order of terms. `index` and
    `log_term` are the entry before `entries` in an append, the last entry in a vote request and
    the acknowledged (or refused) one in a response.
    """

    type: MessageType
    to: U64 = 0
    sender: U64 = 0
    term: U64 = 0
    log_term: U64 = 0
    index: U64 = 0
    entries: tuple[Entry, ...] = ()
    commit: U64 = 0
    vote: U64 = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: U64 = 0
    context: bytes = b""
    responses: tuple[Message, ...] = ()


class ConfChangeType(IntEnum):
    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How to pass to the new configuration. AUTO uses a joint one only where it is needed."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ConfChangeSingle(msgspec.Struct, frozen=True, array_like=True, gc=False):
    type: ConfChangeType
    node_id: U64


class ConfChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The one-member change of thesis §4.1."""

    type: ConfChangeType
    node_id: U64
    context: bytes = b""

    def as_v2(self) -> ConfChangeV2:
        return ConfChangeV2((ConfChangeSingle(self.type, self.node_id),), context=self.context)


class ConfChangeV2(msgspec.Struct, frozen=True, array_like=True):
    """Any number of changes at once. With no change and no transition it leaves a joint configuration."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""

    def as_v2(self) -> ConfChangeV2:
        return self

    @property
    def leaves_joint(self) -> bool:
        return not self.changes and self.transition is ConfChangeTransition.AUTO

    @property
    def enters_joint(self) -> bool:
        """Two changes can't be made safely in one step, unless through a joint configuration."""
        return self.transition is not ConfChangeTransition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        return self.transition is not ConfChangeTransition.JOINT_EXPLICIT


_LEAVE_JOINT: Final = ConfChangeV2()
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_v1: Final = msgspec.msgpack.Decoder(ConfChange).decode
_decode_v2: Final = msgspec.msgpack.Decoder(ConfChangeV2).decode


def conf_change_kind(change: ConfChange | ConfChangeV2) -> EntryKind:
    return EntryKind.CONF_CHANGE if isinstance(change, ConfChange) else EntryKind.CONF_CHANGE_V2


def encode_conf_change(change: ConfChange | ConfChangeV2) -> bytes:
    """The entry data of a change. Leaving a joint configuration is the empty one: it must fit always."""
    return b"" if change == _LEAVE_JOINT else _encode(change)


def decode_conf_change(entry: Entry) -> ConfChangeV2:
    """The change an entry holds. Raises `RaftWireError` if it holds none."""
    if entry.kind is EntryKind.NORMAL:
        raise RaftWireError("a normal entry holds no configuration change")
    try:
        if entry.kind is EntryKind.CONF_CHANGE:
            return _decode_v1(entry.data).as_v2()
        return _decode_v2(entry.data) if entry.data else _LEAVE_JOINT
    except UNDECODABLE as error:
        raise RaftWireError(f"not a configuration change: {error}") from None
