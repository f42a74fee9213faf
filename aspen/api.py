"""The Python face of a cluster: what programs that embed Aspen import.

`ClusterController` and `KeyValueStore` are Protocols; `RaftControlClient` and `KvClient`
implement them over a node in this process: one started by `aspen.node.bootstrap_node`, or a
member of an `aspen.deterministic.DeterministicCluster`, for tests without network, disk and
clock. Every error is a kind of `ControlPlaneError` or `KeyValueStoreError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from aspen.errors import (
    CommandError,
    ControlPlaneError,
    IdentityError,
    KeyValueStoreError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    ProposalError,
)
from aspen.identity import parse_endpoint_id
from aspen.limits import CONTROL_MS, KV_SCAN_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX
from aspen.raft.control import MembershipControl
from aspen.state.kv import KvEntry, KvPage
from aspen.state.kv_commands import KvDelete, KvResult, KvSet, validate_key
from aspen.state.ports import Consistency, Proposer
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


class WriteCommand:
    """What `KeyValueStore.write` takes: `WriteCommand.Set("k", "v")` and its siblings."""

    @dataclass(frozen=True, slots=True)
    class Set:
        key: str | bytes
        value: str | bytes

    @dataclass(frozen=True, slots=True)
    class SetMulti:
        """Several keys, all or none."""

        pairs: Mapping[str, str] | Mapping[bytes, bytes] | tuple[tuple[str | bytes, str | bytes], ...]

    @dataclass(frozen=True, slots=True)
    class Delete:
        key: str | bytes

    @dataclass(frozen=True, slots=True)
    class DeleteMulti:
        keys: tuple[str | bytes, ...]

    Any: ClassVar = Set | SetMulti | Delete | DeleteMulti


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


class KeyValueStore(Protocol):
    """Linearizable key-value operations."""

    async def write(
        self,
        command: WriteCommand.Set | WriteCommand.SetMulti | WriteCommand.Delete | WriteCommand.DeleteMulti,
    ) -> KvResult: ...

    async def read(self, key: str | bytes, consistency: Consistency = Consistency.CONSISTENT) -> KvEntry: ...

    async def scan(
        self,
        prefix: str | bytes = b"",
        *,
        after: str | bytes | None = None,
        limit: int = KV_SCAN_DEFAULT,
        consistency: Consistency = Consistency.CONSISTENT,
    ) -> KvPage: ...


# --- over a member in this process ---------------------------------------------------------------


class KeyValueReader(Protocol):
    def get(self, key: bytes) -> KvEntry | None: ...

    def scan(self, prefix: bytes, after: bytes | None, limit: int, max_bytes: int) -> KvPage: ...


class Handle(Protocol):
    """A member in this process: a `Node`, or one of a `DeterministicCluster`."""

    @property
    def control(self) -> MembershipControl: ...

    @property
    def proposer(self) -> Proposer: ...

    @property
    def kv(self) -> KeyValueReader: ...


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


class KvClient:
    """`KeyValueStore` over a member in this process."""

    def __init__(self, node: Handle) -> None:
        self._node = node

    async def write(
        self,
        command: WriteCommand.Set | WriteCommand.SetMulti | WriteCommand.Delete | WriteCommand.DeleteMulti,
    ) -> KvResult:
        """Raises a kind of `KeyValueStoreError`; `.OutcomeUnknown` means it may have happened."""
        match command:
            case WriteCommand.Set(key, value):
                replicated: KvSet | KvDelete = KvSet(((_bytes(key), _bytes(value)),))
            case WriteCommand.SetMulti(pairs):
                items = pairs.items() if isinstance(pairs, Mapping) else pairs
                replicated = KvSet(tuple((_bytes(key), _bytes(value)) for key, value in items))
            case WriteCommand.Delete(key):
                replicated = KvDelete((_bytes(key),))
            case WriteCommand.DeleteMulti(keys):
                replicated = KvDelete(tuple(_bytes(key) for key in keys))
        try:
            result = await self._node.proposer.propose(replicated)
        except ProposalError as error:
            raise _kv_error(error) from error
        except CommandError as error:
            raise KeyValueStoreError.Failed(str(error)) from error
        if not isinstance(result, KvResult):
            raise KeyValueStoreError.Failed(f"the write was refused: {result}")
        return result

    async def read(self, key: str | bytes, consistency: Consistency = Consistency.CONSISTENT) -> KvEntry:
        """Raises `KeyValueStoreError.NotFound`, or another kind."""
        validate_key(_bytes(key))
        await self._barrier(consistency)
        entry = self._node.kv.get(_bytes(key))
        if entry is None:
            raise KeyValueStoreError.NotFound(f"no such key: {key!r}")
        return entry

    async def scan(
        self,
        prefix: str | bytes = b"",
        *,
        after: str | bytes | None = None,
        limit: int = KV_SCAN_DEFAULT,
        consistency: Consistency = Consistency.CONSISTENT,
    ) -> KvPage:
        """One page of the keys under `prefix`; continue with `after` = the last key."""
        if not 1 <= limit <= KV_SCAN_MAX:
            raise KeyValueStoreError.Failed(f"a scan's limit is 1 to {KV_SCAN_MAX}, not {limit}")
        await self._barrier(consistency)
        start = None if after is None else _bytes(after)
        return self._node.kv.scan(_bytes(prefix), start, limit, KV_SCAN_BYTES)

    async def _barrier(self, consistency: Consistency) -> None:
        try:
            await self._node.proposer.barrier(consistency)
        except ProposalError as error:
            raise _kv_error(error) from error


def _kv_error(error: ProposalError) -> KeyValueStoreError:
    match error:
        case OutcomeUnknown():
            return KeyValueStoreError.OutcomeUnknown(str(error))
        case NotLeader():
            return KeyValueStoreError.NotLeader(str(error))
        case NoLeader():
            return KeyValueStoreError.Timeout(str(error))
        case _:
            return KeyValueStoreError.Failed(str(error))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _join_address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ControlPlaneError.InvalidRequest(f"not a host:port address: {text!r}")
    return host.strip("[]"), int(port)
