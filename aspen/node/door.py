"""A member's door: where newcomers ask to be let in (`aspen.discovery.join` says how and why).

Two protocols lead here. On `ALPN_JOIN` a newcomer has proven the cookie; on `ALPN_TICKET` it is a stranger
with a signed ticket, so strangers are few at a time, short of time, and heard no more for a while when too
many had nothing to show. A member that doesn't lead is as good as one that does: the change of the
membership finds its way (`aspen.raft.control`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from aspen.discovery import founding
from aspen.discovery.join import (
    OUTCOME_UNKNOWN,
    Admitted,
    Declined,
    JoinMember,
    JoinRequest,
    check_issuer,
    check_nodes,
    check_term,
    decode_request,
    encode,
    free_node_id,
    is_full,
)
from aspen.errors import ControlPlaneError, InputError, Overloaded, ProposalError, TicketError
from aspen.identity import verify
from aspen.limits import (
    JOIN_ASK_MS,
    JOIN_LOGGED_A_MINUTE,
    JOIN_PAUSE_MS,
    JOIN_REFUSED_A_MINUTE,
    JOIN_SERVE_MS,
    JOIN_STRANGERS,
    JOIN_TRY_MS,
)
from aspen.net.endpoint import (
    ALPN_FOUND,
    ALPN_JOIN,
    ALPN_TICKET,
    AddressBook,
    Endpoint,
    FrameStream,
    Hello,
    Peer,
    Service,
)
from aspen.raft.cluster import Consensus
from aspen.raft.roster import Roster
from aspen.ratelimit import Rate, RateLimiter
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.join")

_TRIES: Final = 8
"""Node ids tried, when others are given away at the same time."""


@dataclass(slots=True)
class _Guest:
    """A stranger, by the event loop's clock."""

    goes_at: float
    """When it will have tried for long enough."""
    ending: asyncio.TimerHandle
    """Of its time to ask, or to hear its answer."""


class Door:
    """See the module's docstring."""

    def __init__(self, consensus: Consensus, cookie: Callable[[], str], address_book: AddressBook) -> None:
        self.answered: Counter[str] = Counter()
        """Requests by what became of them: `admitted`, or why not."""
        self._consensus = consensus
        self._cookie = cookie
        self._address_book = address_book
        self._endpoint: Endpoint | None = None
        self._serving: set[bytes] = set()
        self._guests: dict[bytes, _Guest] = {}
        """Strangers that are connected, or were a moment ago."""
        self._one_by_one = asyncio.Lock()
        self._wrong_tickets = RateLimiter(Rate(JOIN_REFUSED_A_MINUTE / 60, JOIN_REFUSED_A_MINUTE))
        self._noted = RateLimiter(Rate(JOIN_LOGGED_A_MINUTE / 60, JOIN_LOGGED_A_MINUTE))
        self._deaf_until_s = 0.0

    def services(self, hello: Callable[[], Hello]) -> list[Service]:
        """For the endpoint."""
        return [
            Service(alpn=ALPN_JOIN, hello=hello, admit=self._admit, on_stream=self._by_cookie),
            Service(alpn=ALPN_FOUND, hello=hello, admit=lambda peer: None, on_frame=self._somebody_waits),
            Service(
                alpn=ALPN_TICKET,
                hello=hello,
                admit=self._admit_stranger,
                open_to_strangers=True,
                on_connected=lambda peer: self._welcome(peer.endpoint_id),
                on_stream=self._by_ticket,
            ),
        ]

    def start(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    # --- who may speak ------------------------------------------------------------------------

    def _admit(self, _peer: Peer) -> str | None:
        return None if self._consensus.roster.members else "not_admitted"

    def _admit_stranger(self, peer: Peer) -> str | None:
        endpoint = self._endpoint
        if endpoint is None or endpoint.channel(ALPN_TICKET).accepted_peers >= JOIN_STRANGERS:
            return "too_many"
        return self._admit(peer)

    def _welcome(self, stranger: bytes) -> None:
        """It is connected: it has its time to ask, whoever else is there."""
        loop = asyncio.get_running_loop()
        if (guest := self._guests.get(stranger)) is not None:
            guest.ending.cancel()
        ending = loop.call_later(JOIN_ASK_MS / 1000, self._end, stranger)
        self._guests[stranger] = _Guest(loop.time() + JOIN_TRY_MS / 1000, ending)

    def _answered(self, stranger: bytes) -> None:
        """It may hear its answer and ask again, for as long as a newcomer tries."""
        loop = asyncio.get_running_loop()
        guest = self._guests.get(stranger)
        if guest is not None:
            guest.ending.cancel()
            until = max(
                loop.time() + JOIN_PAUSE_MS / 1000, min(loop.time() + JOIN_ASK_MS / 1000, guest.goes_at)
            )
            guest.ending = loop.call_at(until, self._end, stranger)

    def _has_time(self, stranger: bytes) -> bool:
        guest = self._guests.get(stranger)
        return guest is not None and asyncio.get_running_loop().time() < guest.goes_at

    def _end(self, stranger: bytes) -> None:
        """Its time is up: end what connections it has, unless its question is being seen to."""
        if self._endpoint is not None and stranger not in self._serving:
            del self._guests[stranger]
            self._endpoint.channel(ALPN_TICKET).recheck(
                lambda peer: "timeout" if peer.endpoint_id == stranger else None
            )

    def _somebody_waits(self, peer: Peer, frame_untrusted: bytes) -> None:
        """A node without a cluster speaks (`aspen.discovery.founding`): tell it of this one."""
        roster, endpoint = self._consensus.roster, self._endpoint
        if endpoint is None or not roster.members:
            return
        seats = tuple(founding.Seat(member.node_id, member.endpoint_id) for member in roster.members)
        try:
            message = founding.decode(frame_untrusted)
        except InputError:
            return
        if isinstance(message, founding.Here | founding.Promise):
            belongs = founding.encode(founding.Belongs(roster.cluster_id, seats))
            endpoint.channel(ALPN_FOUND).send(peer.endpoint_id, [belongs])

    # --- one request --------------------------------------------------------------------------

    async def _by_cookie(self, peer: Peer, stream: FrameStream) -> None:
        await self._serve(peer, stream, stranger=False)

    async def _by_ticket(self, peer: Peer, stream: FrameStream) -> None:
        await self._serve(peer, stream, stranger=True)

    async def _serve(self, peer: Peer, stream: FrameStream, *, stranger: bool) -> None:
        if peer.endpoint_id in self._serving:
            raise ConnectionError("it asks already")
        if stranger and not self._has_time(peer.endpoint_id):
            raise ConnectionError("its time is up")
        self._serving.add(peer.endpoint_id)
        try:
            frame = await asyncio.wait_for(stream.receive(), JOIN_ASK_MS / 1000)
            if frame is None:
                raise ConnectionError("it asks nothing")
            request = decode_request(frame)
            async with asyncio.timeout(JOIN_SERVE_MS / 1000):
                answer = await self._answer(peer, request, stranger)
        except InputError as error:
            answer = Declined("malformed", str(error))
        except TimeoutError:
            answer = Declined(OUTCOME_UNKNOWN, "this member could not see to it in time")
        finally:
            self._serving.discard(peer.endpoint_id)
            self._answered(peer.endpoint_id)
        self._note(peer, answer, stranger)
        await stream.send(encode(answer))

    def _note(self, peer: Peer, answer: Admitted | Declined, stranger: bool) -> None:
        code = answer.code if isinstance(answer, Declined) else "admitted"
        self.answered[code] += 1
        says = {"by": "ticket" if stranger else "cookie", "endpoint_id": encode_key(peer.endpoint_id)}
        if isinstance(answer, Admitted):
            log.info("a node was let in", node_id=answer.node_id, **says)
        elif not self._noted.take("", time.monotonic()):
            log.warning("a node was not let in", code=code, reason=answer.reason, **says)

    async def _answer(self, peer: Peer, request: JoinRequest, stranger: bool) -> Admitted | Declined:
        try:
            if stranger:
                await self._check_ticket(request)
            else:
                await self._consensus.read_barrier()
            async with self._one_by_one:
                return await self._let_in(peer.endpoint_id, request, stranger)
        except TicketError as error:
            return Declined(error.code, str(error))
        except ProposalError as error:
            return Declined("unavailable", str(error))

    async def _check_ticket(self, request: JoinRequest) -> None:
        """Raises `TicketError`, `NoLeader` or `Overloaded`."""
        now_s = time.monotonic()
        if now_s < self._deaf_until_s:
            raise Overloaded("too many asked here lately by tickets that didn't hold")
        consensus = self._consensus
        try:
            ticket = check_term(request.ticket, consensus.cluster_id, verify, int(time.time()))
            await consensus.read_barrier()  # the issuer may be a member since a moment ago
            check_issuer(ticket, {member.endpoint_id for member in consensus.roster.members})
            check_nodes(ticket, consensus.roster.has_removed)
        except TicketError:
            self._deaf_until_s = now_s + self._wrong_tickets.take("", now_s)
            raise

    async def _let_in(self, endpoint_id: bytes, request: JoinRequest, stranger: bool) -> Admitted | Declined:
        """Have it be a member."""
        refusal = ""
        for _ in range(_TRIES):
            roster = self._consensus.roster
            node_id = _node_id(roster, endpoint_id, request.node_id)
            if isinstance(node_id, Declined):
                return node_id
            try:
                await self._consensus.control.add_learner(
                    node_id, endpoint_id, request.addresses, JOIN_SERVE_MS
                )
            except ControlPlaneError.InvalidRequest as error:
                refusal = str(error)
                await self._consensus.read_barrier()  # another newcomer may have been quicker: look again
                continue
            except ControlPlaneError.OutcomeUnknown as error:
                return Declined(OUTCOME_UNKNOWN, str(error))
            except ControlPlaneError as error:
                return Declined("unavailable", str(error))
            return self._admitted(node_id, stranger)
        return Declined("unavailable", refusal)

    def _admitted(self, node_id: int, stranger: bool) -> Admitted:
        roster, book = self._consensus.roster, self._address_book
        members = tuple(
            JoinMember(
                member.node_id,
                member.endpoint_id,
                tuple(book.addresses(member.endpoint_id)) or member.addresses,
            )
            for member in roster.members
        )
        return Admitted(roster.cluster_id, node_id, self._cookie() if stranger else "", members)


def _node_id(roster: Roster, endpoint_id: bytes, wanted: int) -> int | Declined:
    """The node id that a newcomer gets: its own if it is a member already."""
    member = roster.by_endpoint(endpoint_id)
    if member is not None:
        if member.node_id in roster.conf_state.voters:
            # It asks before it starts, so its log is gone, and with it what it promised as a voter.
            return Declined(
                "node_id_taken",
                f"this key is a voter already, as node {member.node_id}, whose data is not here: remove that "
                "node from the cluster, and join with an empty data directory, identity included",
            )
        if wanted in (0, member.node_id):
            return member.node_id
        return Declined("node_id_taken", f"this key is a member already, as node {member.node_id}")
    if roster.has_removed(endpoint_id):
        return Declined(
            "removed",
            "this node's key was removed from the cluster: wipe its data directory, identity included, "
            "and join as a new one",
        )
    holder = roster.member(wanted)
    if holder is not None:
        return Declined(
            "node_id_taken", f"node id {wanted} is another member's: leave it out, or choose another"
        )
    if is_full(len(roster.members)):
        return Declined("full", f"the cluster has {len(roster.members)} members, as many as it may have")
    return wanted or free_node_id(
        [*(m.node_id for m in roster.members), *(m.node_id for m in roster.removed)]
    )
