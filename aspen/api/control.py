"""Control of the membership: requests, the Protocol, and its implementation over a member in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from aspen.errors import ControlPlaneError, IdentityError
from aspen.identity import parse_endpoint_id
from aspen.limits import CONTROL_MS
from aspen.raft.control import MembershipControl
from aspen.z32 import encode_key

# --- requests and answers ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A member as the caller names it; `endpoint_id` in z-base-32 or hexadecimal."""

    node_id: int
    address: str
    """`host:port` of its QUIC endpoint; several may be given, separated by commas."""
    endpoint_id: str | None = None
    """May be left out for the node that is asked."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    initial_members: list[ClusterNode] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AddLearnerRequest:
    learner: ClusterNode
    timeout_ms: int = CONTROL_MS


@dataclass(frozen=True, slots=True)
class ChangeMembershipRequest:
    members: list[int]
    """Node ids of all who are to vote. Each is a member already; voters left out leave the cluster."""
    timeout_ms: int = CONTROL_MS
    """Learners among them must catch up within it."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The membership as this node has applied it."""

    node_id: int
    leader_id: int
    term: int
    members: tuple[int, ...]
    """Node ids of the voters."""
    nodes: tuple[ClusterNode, ...]
    """All members, learners too."""
    learners: tuple[int, ...] = ()


class ClusterController(Protocol):
    """Control of membership, through any member. Each returns the state once it is as asked.

    Raises `ControlPlaneError.InvalidRequest`, `.NotInitialized`, `.Failed` or `.Timeout` when
    nothing was changed, and `.OutcomeUnknown` when that can't be known from here.
    """

    async def init(self, request: InitRequest) -> ClusterState:
        """Found a cluster of the initial members."""
        ...

    async def add_learner(self, request: AddLearnerRequest) -> ClusterState:
        """Add a member that gets the log but has no vote; for one that is a member, its new address."""
        ...

    async def change_membership(self, request: ChangeMembershipRequest) -> ClusterState:
        """Make these members the voters, all at once."""
        ...

    async def promote(self, node_id: int) -> ClusterState:
        """Give a learner its vote, once it has caught up."""
        ...

    async def remove(self, node_id: int) -> ClusterState:
        """Take a member out of the cluster."""
        ...

    async def transfer_leader(self, node_id: int) -> ClusterState:
        """Have another voter lead."""
        ...

    async def current_state(self) -> ClusterState: ...


class Handle(Protocol):
    """A member in this process: a `Node`, or one of a `DeterministicCluster`."""

    @property
    def control(self) -> MembershipControl: ...


class RaftControlClient:
    """`ClusterController` over a member in this process."""

    def __init__(self, node: Handle) -> None:
        self._control = node.control

    async def init(self, request: InitRequest) -> ClusterState:
        """See `ClusterController.init`. `.Timeout`: it is founded, but nobody leads yet."""
        await self._control.found([self._identified(member) for member in request.initial_members])
        return await self.current_state()

    async def add_learner(self, request: AddLearnerRequest) -> ClusterState:
        await self._control.add_learner(*self._identified(request.learner), request.timeout_ms)
        return await self.current_state()

    async def change_membership(self, request: ChangeMembershipRequest) -> ClusterState:
        await self._control.change_membership(frozenset(request.members), request.timeout_ms)
        return await self.current_state()

    async def promote(self, node_id: int) -> ClusterState:
        await self._control.promote(node_id)
        return await self.current_state()

    async def remove(self, node_id: int) -> ClusterState:
        await self._control.remove(node_id)
        return await self.current_state()

    async def transfer_leader(self, node_id: int) -> ClusterState:
        await self._control.transfer_leader(node_id)
        return await self.current_state()

    async def current_state(self) -> ClusterState:
        """The membership as this node has applied it."""
        member = self._control.ground
        roster = member.roster
        if not roster.members:
            raise ControlPlaneError.NotInitialized("this node belongs to no cluster yet")
        nodes = tuple(
            ClusterNode(m.node_id, ",".join(map(_join_address, m.addresses)), encode_key(m.endpoint_id))
            for m in roster.members
        )
        return ClusterState(
            node_id=member.node_id,
            leader_id=member.leader_id,
            term=member.term,
            members=tuple(sorted(roster.conf_state.voters)),
            nodes=nodes,
            learners=tuple(sorted({*roster.conf_state.learners, *roster.conf_state.learners_next})),
        )

    def _identified(self, node: ClusterNode) -> tuple[int, bytes, tuple[tuple[str, int], ...]]:
        """(node id, endpoint id, addresses). Raises `ControlPlaneError.InvalidRequest`."""
        own = self._control.ground
        if node.endpoint_id is not None:
            try:
                endpoint_id = parse_endpoint_id(node.endpoint_id)
            except IdentityError as error:
                raise ControlPlaneError.InvalidRequest(f"member {node.node_id}: {error}") from None
        elif node.node_id == own.node_id:
            endpoint_id = own.endpoint_id
        else:
            raise ControlPlaneError.InvalidRequest(f"member {node.node_id} needs an endpoint id")
        return node.node_id, endpoint_id, tuple(map(_split_address, node.address.split(",")))


def _join_address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ControlPlaneError.InvalidRequest(f"not a host:port address: {text!r}")
    return host.strip("[]"), int(port)
