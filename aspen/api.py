"""The Python face of a cluster: what programs that embed Aspen import.

`ClusterController` and `KeyValueStore` are Protocols; `RaftControlClient` and `KvClient`
implement them over a node started by `aspen.node.bootstrap_node`. Every error is a kind of
`ControlPlaneError` or `KeyValueStoreError`.
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
from aspen.limits import KV_SCAN_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX
from aspen.node import Node
from aspen.state.commands import KvDelete, KvResult, KvSet
from aspen.state.kv import KvEntry, KvPage
from aspen.state.ports import Consistency
from aspen.z32 import encode_key

# --- requests and answers ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A member as the caller names it; `endpoint_id` in z-base-32 or hexadecimal."""

    node_id: int
    address: str
    """`host:port` of its QUIC endpoint."""
    endpoint_id: str | None = None
    """May be left out for the node that is asked."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    initial_members: list[ClusterNode] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The membership as this node has applied it."""

    node_id: int
    leader_id: int
    term: int
    members: tuple[int, ...]
    nodes: tuple[ClusterNode, ...]


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
    """Control of membership."""

    async def init(self, request: InitRequest) -> ClusterState: ...

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


# --- over a node in this process ---------------------------------------------------------------


class RaftControlClient:
    """`ClusterController` over a node in this process."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def init(self, request: InitRequest) -> ClusterState:
        """Found a cluster and wait until it has a leader.

        Raises `ControlPlaneError.InvalidRequest` or `.Timeout`.
        """
        node = self._node
        members = []
        for member in request.initial_members:
            endpoint_id = node.identity.endpoint_id
            if member.endpoint_id is not None:
                try:
                    endpoint_id = parse_endpoint_id(member.endpoint_id)
                except IdentityError as error:
                    raise ControlPlaneError.InvalidRequest(f"member {member.node_id}: {error}") from None
            elif member.node_id != node.node_id:
                raise ControlPlaneError.InvalidRequest(f"member {member.node_id} needs an endpoint id")
            members.append((member.node_id, endpoint_id, (_split_address(member.address),)))
        node.consensus.initialise(members)
        try:
            await node.consensus.driver.read_barrier()
        except ProposalError as error:
            raise ControlPlaneError.Timeout(
                f"the cluster was founded, but has no leader yet: {error}"
            ) from None
        return await self.current_state()

    async def current_state(self) -> ClusterState:
        """Raises `ControlPlaneError.NotInitialized`."""
        consensus = self._node.consensus
        if not consensus.roster.members:
            raise ControlPlaneError.NotInitialized("this node belongs to no cluster yet")
        nodes = tuple(
            ClusterNode(
                m.node_id, ",".join(f"{host}:{port}" for host, port in m.addresses), encode_key(m.endpoint_id)
            )
            for m in consensus.roster.members
        )
        return ClusterState(
            node_id=self._node.node_id,
            leader_id=consensus.driver.leader_id,
            term=consensus.driver.raw.term,
            members=tuple(sorted(consensus.roster.conf_state.voters)),
            nodes=nodes,
        )


class KvClient:
    """`KeyValueStore` over a node in this process."""

    def __init__(self, node: Node) -> None:
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


def _split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ControlPlaneError.InvalidRequest(f"not a host:port address: {text!r}")
    return host.strip("[]"), int(port)
