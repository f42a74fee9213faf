"""Who the members are: node id → endpoint id and addresses, as the log's membership entries say.

The Raft core deals in node ids alone. Each configuration-change entry carries a `Member` as its
context; applying the entry binds the node id to that member's key. The transport admits a peer
under a node id only if its proven key is the one bound here.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aspen.errors import RaftWireError
from aspen.raft.messages import ConfChangeType, ConfChangeV2, ConfState

CLUSTER_ID_BYTES: Final = 16
NO_CLUSTER: Final = bytes(CLUSTER_ID_BYTES)


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One member. `addresses` are the (host, port) pairs it was added with; discovery may know newer."""

    node_id: int
    endpoint_id: bytes
    addresses: tuple[tuple[str, int], ...]
    cluster_id: bytes


class Roster(msgspec.Struct, frozen=True, array_like=True):
    """The membership as applied: the core's configuration and each member's identity."""

    cluster_id: bytes = NO_CLUSTER
    conf_state: ConfState = ConfState()
    members: tuple[Member, ...] = ()

    def member(self, node_id: int) -> Member | None:
        for member in self.members:
            if member.node_id == node_id:
                return member
        return None

    def by_endpoint(self, endpoint_id: bytes) -> Member | None:
        for member in self.members:
            if member.endpoint_id == endpoint_id:
                return member
        return None

    def changed(self, change: ConfChangeV2, conf_state: ConfState) -> Roster:
        """The roster after an applied change, of which `conf_state` is the core's answer."""
        members = {member.node_id: member for member in self.members}
        contexts = {member.node_id: member for member in decode_members(change.context)}
        cluster_id = self.cluster_id
        for single in change.changes:
            if single.type is ConfChangeType.REMOVE_NODE:
                continue
            if (member := contexts.get(single.node_id)) is not None:
                members[single.node_id] = member
                if cluster_id == NO_CLUSTER:
                    cluster_id = member.cluster_id
        # A removed voter stays in the outgoing half of a joint configuration until it is left.
        present = {
            *conf_state.voters,
            *conf_state.learners,
            *conf_state.voters_outgoing,
            *conf_state.learners_next,
        }
        kept = tuple(members[node_id] for node_id in sorted(members) if node_id in present)
        return Roster(cluster_id, conf_state, kept)


_ENCODER: Final = msgspec.msgpack.Encoder()
_MEMBERS: Final = msgspec.msgpack.Decoder(tuple[Member, ...])
_ROSTER: Final = msgspec.msgpack.Decoder(Roster)


def encode_members(members: tuple[Member, ...]) -> bytes:
    return _ENCODER.encode(members)


def decode_members(context: bytes) -> tuple[Member, ...]:
    """Raises `RaftWireError`."""
    if not context:
        return ()
    try:
        return _MEMBERS.decode(context)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RaftWireError(f"not a membership context: {error}") from None


def encode_roster(roster: Roster) -> bytes:
    return _ENCODER.encode(roster)


def decode_roster(data: bytes) -> Roster:
    """Raises `RaftWireError`."""
    try:
        return _ROSTER.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RaftWireError(f"not a roster: {error}") from None
