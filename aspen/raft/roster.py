"""Who the members are: node id → endpoint id and addresses, as the log's membership entries say.

The Raft core deals in node ids alone. Each configuration-change entry carries a `ChangeContext`;
applying the entry binds the node ids in it to their members' keys. The transport admits a peer
under a node id only if its proven key is the one bound here. Keys that were removed are remembered
for a while, so that a member who was cut off can be told. A member changes its key in two steps: the
next one is announced and may be used beside the old one, then it takes the old one's place.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import RaftWireError
from aspen.limits import RAFT_REMOVED_MEMBERS
from aspen.raft.messages import ConfChangeType, ConfChangeV2, ConfState

CLUSTER_ID_BYTES: Final = 16
NO_CLUSTER: Final = bytes(CLUSTER_ID_BYTES)
_ROLES: Final = ("voters", "learners", "voters_outgoing", "learners_next")


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One member. `addresses` are the (host, port) pairs it was added with; discovery may know newer."""

    node_id: int
    endpoint_id: bytes
    addresses: tuple[tuple[str, int], ...]
    cluster_id: bytes


class FormerMember(msgspec.Struct, frozen=True, array_like=True):
    """A key that was a member's, and the node id it had."""

    node_id: int
    endpoint_id: bytes


class NextKey(msgspec.Struct, frozen=True, array_like=True):
    """A key that a member is about to take up in place of its own: until it has, it may speak by either."""

    node_id: int
    endpoint_id: bytes


class ChangeContext(msgspec.Struct, frozen=True, array_like=True):
    """What a configuration-change entry carries beside the change."""

    members: tuple[Member, ...] = ()
    """The identities of those whom the change adds, or whose addresses it updates."""
    request_id: bytes = b""
    """By which the node that proposed it recognises it when it is applied."""
    voters: tuple[int, ...] = ()
    """Who the voters are to be after it, as its proposer meant it; empty if nobody cared."""
    next_keys: tuple[NextKey, ...] = ()
    """Of members that are about to change their keys."""


class Roster(msgspec.Struct, frozen=True, array_like=True):
    """The membership as applied: the core's configuration and each member's identity."""

    cluster_id: bytes = NO_CLUSTER
    conf_state: ConfState = ConfState()
    members: tuple[Member, ...] = ()
    removed: tuple[FormerMember, ...] = ()
    """The keys removed last, oldest first, without those that are members again."""
    version: int = 0
    """Changes that made it: of two rosters of a cluster, the newer has the higher one."""
    former_clusters: tuple[bytes, ...] = ()
    """Ids of clusters that this one was made of when they had lost their majority (`recovered`)."""
    next_keys: tuple[NextKey, ...] = ()
    """Keys announced and not taken up yet."""

    @property
    def joint(self) -> bool:
        """Whether a change of voters is half done (Raft §6)."""
        return bool(self.conf_state.voters_outgoing)

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """Who is what, for people: `voters`, and others if there are any."""
        roles = {name: getattr(self.conf_state, name) for name in _ROLES}
        return {name: node_ids for name, node_ids in roles.items() if node_ids or name == "voters"}

    def has_removed(self, endpoint_id: bytes) -> bool:
        return any(former.endpoint_id == endpoint_id for former in self.removed)

    def member(self, node_id: int) -> Member | None:
        for member in self.members:
            if member.node_id == node_id:
                return member
        return None

    def next_key(self, node_id: int) -> bytes | None:
        """The key that a member is about to take up."""
        return next((key.endpoint_id for key in self.next_keys if key.node_id == node_id), None)

    def by_endpoint(self, endpoint_id: bytes) -> Member | None:
        """The member with that key, be it its own or the one it is about to take up."""
        for member in self.members:
            if member.endpoint_id == endpoint_id:
                return member
        for key in self.next_keys:
            if key.endpoint_id == endpoint_id:
                return self.member(key.node_id)
        return None

    def changed(self, change: ConfChangeV2, conf_state: ConfState) -> Roster:
        """The roster after an applied change, of which `conf_state` is the core's answer."""
        members = {member.node_id: member for member in self.members}
        context = decode_context(change.context)
        contexts = {member.node_id: member for member in context.members}
        next_keys = {key.node_id: key for key in (*self.next_keys, *context.next_keys)}
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
        removed, version = self._removed_after(kept), self.version + 1
        own = {member.node_id: member.endpoint_id for member in kept}
        waiting = tuple(
            key
            for node_id, key in sorted(next_keys.items())
            if own.get(node_id) not in (None, key.endpoint_id)
        )
        return Roster(cluster_id, conf_state, kept, removed, version, self.former_clusters, waiting)

    def recovered(self, node_id: int, endpoint_id: bytes, cluster_id: bytes) -> Roster:
        """A new cluster of one member, of this one that has lost its majority. All others are removed, and
        are told so if they come back: they name a former cluster's id.

        `endpoint_id` is the key that the member runs under: of one that was changing its key, perhaps not
        the one here yet."""
        kept = tuple(
            msgspec.structs.replace(member, endpoint_id=endpoint_id, cluster_id=cluster_id)
            for member in self.members
            if member.node_id == node_id
        )
        former = (*self.former_clusters, self.cluster_id)[-RAFT_REMOVED_MEMBERS:]
        removed, version = self._removed_after(kept), self.version + 1
        return Roster(cluster_id, ConfState(voters=(node_id,)), kept, removed, version, former)

    def _removed_after(self, kept: tuple[Member, ...]) -> tuple[FormerMember, ...]:
        here = {member.endpoint_id for member in kept}
        gone = (FormerMember(member.node_id, member.endpoint_id) for member in self.members)
        removed = [former for former in (*self.removed, *gone) if former.endpoint_id not in here]
        return tuple(removed[-RAFT_REMOVED_MEMBERS:])


def roster_of_one(member: Member) -> Roster:
    """The membership of a cluster that has just this voter."""
    return Roster(member.cluster_id, ConfState(voters=(member.node_id,)), (member,), version=1)


_ENCODER: Final = msgspec.msgpack.Encoder()
_CONTEXT: Final = msgspec.msgpack.Decoder(ChangeContext)
_ROSTER: Final = msgspec.msgpack.Decoder(Roster)
_NO_CONTEXT: Final = ChangeContext()


def encode_context(context: ChangeContext) -> bytes:
    return _ENCODER.encode(context)


def decode_context(data: bytes) -> ChangeContext:
    """Raises `RaftWireError`."""
    if not data:
        return _NO_CONTEXT
    try:
        return _CONTEXT.decode(data)
    except UNDECODABLE as error:
        raise RaftWireError(f"not the context of a membership change: {error}") from None


def encode_roster(roster: Roster) -> bytes:
    return _ENCODER.encode(roster)


def decode_roster(data: bytes) -> Roster:
    """Raises `RaftWireError`."""
    try:
        return _ROSTER.decode(data)
    except UNDECODABLE as error:
        raise RaftWireError(f"not a roster: {error}") from None
