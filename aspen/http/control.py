"""Changing the cluster: `POST /v1/cluster/…`, admin routes all.

Bodies are JSON objects; an answer is the cluster's status after the change, as this node sees it. Any
member takes any of these, whether it leads or not. Errors say what became of the change: with
`outcome_unknown` it may have been made, with every other code it was not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from aspen.decoding import UNDECODABLE
from aspen.errors import ControlPlaneError, HttpError, IdentityError
from aspen.http.cluster import ClusterStatus, ClusterView
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Body, Operation
from aspen.http.request import query_of, read_body
from aspen.http.routing import Handler, Request, Router
from aspen.identity import parse_endpoint_id
from aspen.limits import CHECKPOINT_MS, CONTROL_MAX_MS, CONTROL_MS, HTTP_CONTROL_BYTES, RAFT_NODE_ID

PATH: Final = "/v1/cluster"
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()

T = TypeVar("T")
NodeId = Annotated[int, msgspec.Meta(ge=1, le=RAFT_NODE_ID)]
TimeoutMs = Annotated[int, msgspec.Meta(ge=0, le=CONTROL_MAX_MS)]
Address = tuple[str, int]
Founder = tuple[int, bytes, tuple[Address, ...]]
"""Node id, endpoint id and addresses."""


class MemberCheck(msgspec.Struct, frozen=True):
    node_id: int
    state: str
    """`alike`, `differs` or `silent`."""
    hash: str | None
    """Hexadecimal; None if the member did not answer in time."""
    reached: bool = True
    """Whether the node asked has a connection with it."""


class CheckReport(msgspec.Struct, frozen=True):
    """What the members' states hashed to at one log index."""

    index: int
    alike: bool
    """Whether all members answered, and all the same."""
    members: tuple[MemberCheck, ...]


class ClusterControl(Protocol):
    """Where changes are made. Each raises a kind of `ControlPlaneError`."""

    async def found(self, members: Sequence[Founder]) -> None: ...

    async def add_learner(
        self, node_id: int, endpoint_id: bytes, addresses: tuple[Address, ...], timeout_ms: int = ...
    ) -> None: ...

    async def promote(self, node_id: int, timeout_ms: int = ...) -> None: ...

    async def remove(self, node_id: int, timeout_ms: int = ...) -> None: ...

    async def change_membership(self, voters: frozenset[int], timeout_ms: int = ...) -> None: ...

    async def transfer_leader(self, to: int, timeout_ms: int = ...) -> None: ...


class LocalNode(Protocol):
    """What concerns the node asked, rather than the cluster."""

    def founder(self) -> Founder:
        """This node, as a member of a cluster that it founds."""
        ...

    async def compact(self) -> int:
        """Cut the log short now; the oldest index it still has."""
        ...

    async def check(self, timeout_ms: int, index: int = 0) -> CheckReport:
        """Compare the state of all members, at an index where that has begun already, or anew."""
        ...


class _Member(msgspec.Struct, forbid_unknown_fields=True):
    node_id: NodeId
    endpoint_id: str
    """z-base-32 or hexadecimal."""
    addresses: list[str] = []
    """`host:port`, of its QUIC endpoint."""

    def read(self) -> Founder:
        try:
            endpoint_id = parse_endpoint_id(self.endpoint_id)
        except IdentityError as error:
            raise HttpError(400, "invalid_request", f"node {self.node_id}: {error}") from None
        return self.node_id, endpoint_id, tuple(map(_address, self.addresses))


class _Init(msgspec.Struct, forbid_unknown_fields=True):
    members: list[_Member] = []
    """The other founders."""


class _AddLearner(_Member, forbid_unknown_fields=True):
    timeout_ms: TimeoutMs = CONTROL_MS


class _OneNode(msgspec.Struct, forbid_unknown_fields=True):
    node_id: NodeId
    timeout_ms: TimeoutMs = CONTROL_MS


class _Voters(msgspec.Struct, forbid_unknown_fields=True):
    members: list[NodeId]
    timeout_ms: TimeoutMs = CONTROL_MS


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    timeout_ms: TimeoutMs = CHECKPOINT_MS


class _Check(_Nothing, forbid_unknown_fields=True):
    index: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Of an earlier answer: wait for the members whose hash of the state there is still to come."""


class _Cut(msgspec.Struct):
    node_id: int
    applied_index: int
    first_index: int
    """The oldest index the log still has."""


def _operation(summary: str, body: type, answer: type) -> Operation:
    errors = {409: "The cluster refuses: `reason` says why."}
    needed = any(field.required for field in msgspec.structs.fields(body))
    return Operation(
        summary,
        {200: Answer("Done.", {JSON: answer})},
        errors,
        body=Body({JSON: body}, needed),
        tag="cluster",
    )


def _change(summary: str, body: type) -> Operation:
    """A change of the membership, answered with the status after it."""
    return _operation(summary, body, ClusterStatus)


def _change_of(summary: str, body: type) -> Operation:
    """A change that concerns members that there are."""
    operation = _change(summary, body)
    return replace(operation, errors={**operation.errors, 404: "A node that is named is no member."})


class ControlRoutes:
    """The handlers."""

    def __init__(self, control: ClusterControl, node: LocalNode, view: ClusterView) -> None:
        self._control = control
        self._node = node
        self._view = view

    def add_routes(self, admin: Router) -> None:
        handlers: dict[str, tuple[Handler, Operation]] = {
            "init": (self.init, _change("Found a cluster of this node and the members named", _Init)),
            "add-learner": (self.add_learner, _change("Add a member that doesn't vote", _AddLearner)),
            "promote": (self.promote, _change_of("Make a learner a voter", _OneNode)),
            "remove": (self.remove, _change_of("Remove a member", _OneNode)),
            "change-membership": (self.change_membership, _change_of("Say who votes", _Voters)),
            "transfer-leader": (self.transfer_leader, _change_of("Hand the lead to a voter", _OneNode)),
            "snapshot": (self.snapshot, _operation("Cut this node's log short", _Nothing, _Cut)),
            "check": (self.check, _operation("Compare the state of all members", _Check, CheckReport)),
        }
        for name, (handler, operation) in handlers.items():
            path = f"{PATH}/{name}"
            admin.add(path, {"POST": handler}, public=False, operations={"POST": operation})

    async def init(self, request: Request, _rest: str) -> web.StreamResponse:
        """Found a cluster of this node and the `members` named, if any."""
        body = await read_request(request, _Init)
        others = [member.read() for member in body.members]
        own = self._node.founder()
        try:
            await self._control.found([own, *(member for member in others if member[:2] != own[:2])])
        except ControlPlaneError.Timeout as error:
            raise ControlPlaneError.OutcomeUnknown(str(error)) from None  # it is founded all the same
        return self._state()

    async def add_learner(self, request: Request, _rest: str) -> web.StreamResponse:
        body = await read_request(request, _AddLearner)
        return await self._done(self._control.add_learner(*body.read(), body.timeout_ms))

    async def promote(self, request: Request, _rest: str) -> web.StreamResponse:
        return await self._with_node(request, self._control.promote)

    async def remove(self, request: Request, _rest: str) -> web.StreamResponse:
        return await self._with_node(request, self._control.remove)

    async def transfer_leader(self, request: Request, _rest: str) -> web.StreamResponse:
        return await self._with_node(request, self._control.transfer_leader)

    async def change_membership(self, request: Request, _rest: str) -> web.StreamResponse:
        body = await read_request(request, _Voters)
        return await self._done(self._control.change_membership(frozenset(body.members), body.timeout_ms))

    async def snapshot(self, request: Request, _rest: str) -> web.StreamResponse:
        """Cut this node's log down to its newest entries; its state stands for the rest."""
        await read_request(request, _Nothing)
        first_index = await self._node.compact()
        status = self._view.status()
        return json_response(_Cut(status.node_id, status.applied_index, first_index))

    async def check(self, request: Request, _rest: str) -> web.StreamResponse:
        body = await read_request(request, _Check)
        return json_response(await self._node.check(body.timeout_ms, body.index))

    async def _with_node(
        self, request: Request, act: Callable[[int, int], Awaitable[None]]
    ) -> web.StreamResponse:
        body = await read_request(request, _OneNode)
        return await self._done(act(body.node_id, body.timeout_ms))

    async def _done(self, change: Awaitable[None]) -> web.StreamResponse:
        await change
        return self._state()

    def _state(self) -> web.StreamResponse:
        return json_response(self._view.status(), headers={"Cache-Control": "no-store"})


async def read_request(request: Request, kind: type[T]) -> T:
    """The JSON body. Raises `HttpError`."""
    query_of(request, _NO_PARAMETERS)
    body = await read_body(request, HTTP_CONTROL_BYTES)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except UNDECODABLE as error:
        raise HttpError(400, "bad_json", f"not what this route takes: {error}") from None


def _address(text_untrusted: str) -> Address:
    host, _, port = text_untrusted.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise HttpError(400, "invalid_request", f"not a host:port address: {text_untrusted[:80]!r}")
    return host.strip("[]"), int(port)
