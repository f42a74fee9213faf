"""What to propose so that the membership becomes what was asked for.

A plan is a goal, not a step: looked at again after the membership has moved, it says what is left
to do, or that nothing is. So it can be carried out again after a refusal, and after an outcome
that is unknown the roster itself tells whether the goal is reached.

One voter more or less is a simple change (thesis §4.1); more go through a joint configuration that
is left by itself (Raft §6, thesis §4.3). Whoever loses its vote here leaves the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from aspen.errors import ControlPlaneError
from aspen.limits import RAFT_MEMBERS
from aspen.raft.messages import ConfChangeSingle, ConfChangeType, ConfChangeV2
from aspen.raft.roster import ChangeContext, Member, NextKey, Roster, encode_context

Address = tuple[str, int]
Founder = tuple[int, bytes, tuple[Address, ...]]
"""Node id, endpoint id and addresses of an initial member."""


class Plan(Protocol):
    def change(self, roster: Roster) -> ConfChangeV2 | None:
        """What is left to do; None if the goal is reached.

        Raises `ControlPlaneError.InvalidRequest` if it can't be reached from this membership.
        """
        ...

    def is_removal_of(self, node_id: int) -> bool:
        """Whether it is reached once `node_id` is no member."""
        ...


class _KeepsMembers:
    def is_removal_of(self, _node_id: int) -> bool:
        return False


class AddLearner(_KeepsMembers):
    """A node is a member, at these addresses; a learner, unless it votes already."""

    def __init__(self, node_id: int, endpoint_id: bytes, addresses: tuple[Address, ...]) -> None:
        if node_id <= 0:
            raise ControlPlaneError.InvalidRequest("node ids start at 1")
        self._node_id, self._endpoint_id, self._addresses = node_id, endpoint_id, addresses

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        node_id, endpoint_id = self._node_id, self._endpoint_id
        member = Member(node_id, endpoint_id, self._addresses, roster.cluster_id)
        present = roster.member(node_id)
        if present is not None:
            if present.endpoint_id != endpoint_id:
                raise ControlPlaneError.InvalidRequest(
                    f"node id {node_id} is bound to another key; remove that node first"
                )
            if present == member or not self._addresses:
                return None
            return _change(roster, [(ConfChangeType.UPDATE_NODE, node_id)], (member,))
        holder = roster.by_endpoint(endpoint_id)
        if holder is not None:
            raise ControlPlaneError.InvalidRequest(f"that key is bound to node {holder.node_id}")
        if len(roster.members) >= RAFT_MEMBERS:
            raise ControlPlaneError.InvalidRequest(f"a cluster has at most {RAFT_MEMBERS} members")
        return _change(roster, [(ConfChangeType.ADD_LEARNER_NODE, node_id)], (member,))


class AnnounceKey(_KeepsMembers):
    """A member may speak by another key beside its own, which it is about to take up."""

    def __init__(self, node_id: int, endpoint_id: bytes) -> None:
        self._node_id, self._endpoint_id = node_id, endpoint_id

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        member = _member(roster, self._node_id)
        holder = roster.by_endpoint(self._endpoint_id)
        if holder is not None and holder.node_id != self._node_id:
            raise ControlPlaneError.InvalidRequest(f"that key is bound to node {holder.node_id}")
        if self._endpoint_id in (member.endpoint_id, roster.next_key(self._node_id)):
            return None
        next_keys = (NextKey(self._node_id, self._endpoint_id),)
        return _change(roster, [(ConfChangeType.UPDATE_NODE, self._node_id)], next_keys=next_keys)


class AdoptKey(_KeepsMembers):
    """A member has the key that it announced, and its old one counts no more."""

    def __init__(self, node_id: int, endpoint_id: bytes) -> None:
        self._node_id, self._endpoint_id = node_id, endpoint_id

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        member = _member(roster, self._node_id)
        if member.endpoint_id == self._endpoint_id:
            return None
        if roster.next_key(self._node_id) != self._endpoint_id:
            raise ControlPlaneError.InvalidRequest(f"node {self._node_id} has announced no such key")
        changed = Member(self._node_id, self._endpoint_id, member.addresses, roster.cluster_id)
        return _change(roster, [(ConfChangeType.UPDATE_NODE, self._node_id)], (changed,))


class ChangeVoters(_KeepsMembers):
    """The voters are these and no others; each of them must be a member already."""

    def __init__(self, voters: Iterable[int]) -> None:
        self.voters = frozenset(voters)
        if not self.voters:
            raise ControlPlaneError.InvalidRequest("a cluster needs a voter")

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        present = frozenset(roster.conf_state.voters)
        strangers = [node_id for node_id in sorted(self.voters) if roster.member(node_id) is None]
        if strangers:
            raise ControlPlaneError.UnknownNode(
                f"not a member: node {', '.join(map(str, strangers))}; add it as a learner first"
            )
        singles = [(ConfChangeType.ADD_NODE, node_id) for node_id in sorted(self.voters - present)]
        singles += [(ConfChangeType.REMOVE_NODE, node_id) for node_id in sorted(present - self.voters)]
        return _change(roster, singles) if singles else None


class Promote(_KeepsMembers):
    """A learner has a vote."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        return ChangeVoters({*roster.conf_state.voters, self._node_id}).change(roster)


class Remove:
    """A node is no member, voter or learner."""

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id

    def change(self, roster: Roster) -> ConfChangeV2 | None:
        if roster.member(self._node_id) is None:
            return None
        if roster.conf_state.voters == (self._node_id,):
            raise ControlPlaneError.InvalidRequest("the last voter can't be removed")
        return _change(roster, [(ConfChangeType.REMOVE_NODE, self._node_id)])

    def is_removal_of(self, node_id: int) -> bool:
        return node_id == self._node_id


def voters_after(roster: Roster, change: ConfChangeV2) -> frozenset[int]:
    """Who votes once `change` is made (and a joint configuration left)."""
    voters = set(roster.conf_state.voters)
    for single in change.changes:
        if single.type is ConfChangeType.ADD_NODE:
            voters.add(single.node_id)
        elif single.type is not ConfChangeType.UPDATE_NODE:
            voters.discard(single.node_id)
    return frozenset(voters)


def _member(roster: Roster, node_id: int) -> Member:
    member = roster.member(node_id)
    if member is None:
        raise ControlPlaneError.UnknownNode(f"node {node_id} is not a member")
    return member


def _change(
    roster: Roster,
    singles: list[tuple[ConfChangeType, int]],
    members: tuple[Member, ...] = (),
    next_keys: tuple[NextKey, ...] = (),
) -> ConfChangeV2:
    change = ConfChangeV2(tuple(ConfChangeSingle(kind, node_id) for kind, node_id in singles))
    voters = tuple(sorted(voters_after(roster, change)))
    context = ChangeContext(members, voters=voters, next_keys=next_keys)
    return ConfChangeV2(change.changes, change.transition, encode_context(context))


def check_founders(members: Sequence[Founder], node_id: int, endpoint_id: bytes) -> None:
    """Raises `ControlPlaneError.InvalidRequest` unless the node may found a cluster of these."""
    refuse = ControlPlaneError.InvalidRequest
    if not 1 <= len(members) <= RAFT_MEMBERS:
        raise refuse(f"a cluster starts with 1 to {RAFT_MEMBERS} members, not {len(members)}")
    if len({m[0] for m in members}) != len(members):
        raise refuse("two of the initial members have the same node id")
    if len({m[1] for m in members}) != len(members):
        raise refuse("two of the initial members have the same endpoint id")
    if any(m[0] <= 0 for m in members):
        raise refuse("node ids start at 1")
    if (node_id, endpoint_id) not in {(m[0], m[1]) for m in members}:
        raise refuse(f"this node ({node_id}) must be one of the initial members")
