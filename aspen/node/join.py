"""A new node on its way in: from a ticket to a vote.

Before anything of the node runs, a `Newcomer` asks the nodes that the ticket names, whoever answers first, to
be let in (`aspen.discovery.join`). What it is told is on disk before the node starts (`aspen.config.joined`),
so a crash at any point is made good by the same command: either the node asks again and hears that it is a
member already, or it has it in writing. Then the node starts as a learner like any other, and `Ascent`
asks for its vote once it has caught up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from aspen.config import ClusterBootstrapConfig, format_address
from aspen.config.joined import Joined
from aspen.discovery.join import (
    FINAL_CODES,
    OUTCOME_UNKNOWN,
    Admitted,
    Declined,
    JoinRequest,
    decode_answer,
    encode,
)
from aspen.discovery.service import TOPIC_CONTEXT
from aspen.discovery.ticket import SignedTicket, Ticket, parse_ticket
from aspen.errors import ConfigError, ControlPlaneError, InputError, JoinError, TicketError
from aspen.identity import Cookie, Cookies, Identity, verify
from aspen.limits import JOIN_PAUSE_MS, JOIN_REPORT_MS, JOIN_SERVE_MS, JOIN_TRY_MS, NET_DIAL_MS
from aspen.net.endpoint import (
    ALPN_JOIN,
    ALPN_TICKET,
    AddressBook,
    Channel,
    Endpoint,
    FrameStream,
    Hello,
    Peer,
    Service,
)
from aspen.net.handshake import INCARNATION_BYTES
from aspen.net.reachable import reachable_addresses
from aspen.net.refusals import Refusals
from aspen.node.relay import given_pool
from aspen.raft.cluster import Consensus
from aspen.raft.roster import NO_CLUSTER
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.join")

Report = Callable[[str], None]
"""Hears how far a newcomer has come, a line at a time."""


def log_report(line: str) -> None:
    """A `Report` into the node's log."""
    log.info("joining", says=line)


@asynccontextmanager
async def one_service(
    config: ClusterBootstrapConfig, identity: Identity, service: Service, book: AddressBook
) -> AsyncIterator[tuple[Channel, tuple[str, int]]]:
    """One protocol spoken from the port where the node will listen, and the address that is bound.

    Raises `ConfigError` if it can't be bound.
    """
    async with given_pool(config, identity) as relays:
        endpoint = Endpoint(
            identity=identity,
            cookies=None if service.open_to_strangers else Cookies.of(config.all_cookies),
            services=[service],
            address_book=book,
            relays=relays,
            # A member may dial already what is to be here in a moment: that is nothing to tell of.
            refusals=Refusals(time.monotonic, logged=False),
        )
        try:
            bound = await endpoint.start(config.quic_host, config.quic_port)
        except OSError as error:
            raise ConfigError(f"QUIC can't bind {config.quic_host}:{config.quic_port}: {error}") from None
        relays.feed(endpoint)
        try:
            yield endpoint.channel(service.alpn), bound
        finally:
            await endpoint.close()


class Newcomer:
    """Asks to be let in."""

    def __init__(
        self, config: ClusterBootstrapConfig, identity: Identity, protocol_version: int, report: Report
    ) -> None:
        self._config = config
        self._identity = identity
        self._protocol_version = protocol_version
        self._report = report
        self._asking = asyncio.Lock()
        self._unanswered = False
        """Whether one was asked and has said nothing, or can't say: it may have let this node in."""
        self._in_the_way: dict[bytes, str] = {}
        """By node, what was last."""

    async def join(self, text_untrusted: str) -> tuple[Joined, int]:
        """Become a member of a ticket's cluster; and the port that its address names. Raises `JoinError`."""
        ticket, shown = self._read(text_untrusted)
        book = AddressBook()
        for node in ticket.nodes:
            for address in node.addresses:
                book.add(node.endpoint_id, address, "ticket")
        nodes = [node.endpoint_id for node in ticket.nodes if node.endpoint_id != self._identity.endpoint_id]
        self._report(
            f"asking the cluster {ticket.cluster_id.hex()}, at {len(nodes)} of its nodes, "
            f"by {'the ticket' if shown else 'the cookie'}"
        )
        service = self._service(ticket.cluster_id, by_ticket=bool(shown))
        async with one_service(self._config, self._identity, service, book) as (channel, bound):
            request = JoinRequest(shown, self._config.node_id, reachable_addresses(bound))
            admitted = await self._admission(channel, nodes, request)
        self._report(f"let in as node {admitted.node_id}")
        return self._joined(admitted), bound[1]

    def _read(self, text_untrusted: str) -> tuple[Ticket, str]:
        """The ticket, and what of it to show: nothing if this node has the cookie."""
        config = self._config
        try:
            read = parse_ticket(text_untrusted)
            ticket = read.ticket if isinstance(read, SignedTicket) else read
            if config.cookie:
                if ticket.topic not in [Cookie(text).derive(TOPIC_CONTEXT) for text in config.all_cookies]:
                    raise TicketError("foreign", "it is of a cluster with another cookie than this node's")
                return ticket, ""
            if not isinstance(read, SignedTicket):
                raise ConfigError(
                    "a plain ticket only tells where the cluster is: set its cookie (ASPEN_COOKIE), or use a "
                    "signed ticket (aspen cluster ticket --signed)"
                )
            read.check(verify, int(time.time()))
        except TicketError as error:
            raise JoinError(error.code, f"ticket: {error}") from None
        return ticket, text_untrusted

    def _service(self, cluster_id: bytes, *, by_ticket: bool) -> Service:
        hello = Hello(self._protocol_version, NO_CLUSTER, 0, os.urandom(INCARNATION_BYTES))

        def admit(peer: Peer) -> str | None:
            if peer.cluster_id == cluster_id:
                return None
            self._in_the_way[peer.endpoint_id] = "it belongs to no cluster, or to another than the ticket's"
            return "foreign_cluster"

        return Service(
            alpn=ALPN_TICKET if by_ticket else ALPN_JOIN,
            hello=lambda: hello,
            admit=admit,
            open_to_strangers=by_ticket,
            on_refused=self._refused,
        )

    def _refused(self, endpoint_id: bytes, code: str) -> None:
        self._in_the_way[endpoint_id] = code

    async def _admission(self, channel: Channel, nodes: Sequence[bytes], request: JoinRequest) -> Admitted:
        """Ask them all until one lets this node in, or says why none will."""
        deadline = time.monotonic() + JOIN_TRY_MS / 1000
        while nodes:
            tries = [asyncio.create_task(self._try(channel, node, request)) for node in nodes]
            try:
                for done in asyncio.as_completed(tries):
                    if (admitted := await done) is not None:
                        return admitted
            finally:
                for each in tries:
                    each.cancel()
                await asyncio.gather(*tries, return_exceptions=True)
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(JOIN_PAUSE_MS / 1000)
        said = "; ".join(f"{encode_key(node)[:8]}…: {text}" for node, text in self._in_the_way.items())
        raise JoinError(
            "unanswered" if self._unanswered else "unreachable",
            f"none of the {len(nodes)} nodes that the ticket names let this one in ({said or 'none to ask'})",
        )

    async def _try(self, channel: Channel, node: bytes, request: JoinRequest) -> Admitted | None:
        """Ask one; they are dialled at the same time, and asked one after the other."""
        try:
            stream = await channel.open_stream(node)
        except ConnectionError as error:
            if self._in_the_way.get(node) == "wrong_cookie":
                raise JoinError(
                    "wrong_cookie", "the cluster has another cookie than this node (ASPEN_COOKIE)"
                ) from None
            self._in_the_way.setdefault(node, str(error))
            return None
        try:
            async with self._asking:
                answer = await self._ask(stream, request)
        except (ConnectionError, TimeoutError, InputError) as error:
            self._in_the_way[node] = str(error) or "it did not answer in time"
            self._unanswered = True
            return None
        finally:
            stream.close()
        if isinstance(answer, Admitted):
            return answer
        if answer.code in FINAL_CODES:
            raise JoinError(answer.code, answer.reason)
        self._unanswered |= answer.code == OUTCOME_UNKNOWN
        self._in_the_way[node] = answer.reason
        self._report(f"node {encode_key(node)[:8]}… can't let this one in now: {answer.reason}")
        return None

    async def _ask(self, stream: FrameStream, request: JoinRequest) -> Admitted | Declined:
        await stream.send(encode(request))
        frame = await asyncio.wait_for(stream.receive(), (JOIN_SERVE_MS + NET_DIAL_MS) / 1000)
        if frame is None:
            raise ConnectionError("it ended the conversation")
        return decode_answer(frame)

    def _joined(self, admitted: Admitted) -> Joined:
        own_id = self._identity.endpoint_id
        return Joined(
            cluster_id=admitted.cluster_id.hex(),
            node_id=admitted.node_id,
            cookie=admitted.cookie,
            peers=tuple(
                as_peer(member.node_id, member.endpoint_id, member.addresses)
                for member in admitted.members
                if member.endpoint_id != own_id
            ),
            learner=self._config.learner,
        )


def as_peer(node_id: int, endpoint_id: bytes, addresses: Sequence[tuple[str, int]]) -> str:
    """As the setting `peers` has it."""
    return "@".join([str(node_id), encode_key(endpoint_id), *map(format_address, addresses[:1])])


class Ascent:
    """The rest of the way: sees the log come in, and asks for the vote that the node is to have."""

    def __init__(self, consensus: Consensus, *, wants_vote: Callable[[int], bool], report: Report) -> None:
        """`wants_vote` is asked with the number of voters there are."""
        self._consensus = consensus
        self._wants_vote = wants_vote
        self._report = report
        self._asked = False
        self._said = ""

    async def run(self) -> None:
        """Return when there is nothing left to do."""
        reporting = asyncio.create_task(self._report_progress())
        try:
            while not await self._arrived():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(JOIN_REPORT_MS / 1000)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _arrived(self) -> bool:
        consensus = self._consensus
        if consensus.removed:
            self._say("this node was removed from the cluster")
            return True
        if consensus.roster.member(consensus.node_id) is None:
            return False  # the log that names it is yet to come
        voters = len(consensus.roster.conf_state.voters)
        if not self._votes and self._wants_vote(voters):
            self._asked = True
            try:
                await consensus.control.promote(consensus.node_id)
            except ControlPlaneError as error:
                log.info("no vote yet", reason=str(error))
                return False
        elif not self._votes and self._behind:
            return False
        voters = len(consensus.roster.conf_state.voters)
        if self._votes:
            promoted = "promoted: " if self._asked else ""
            self._say(f"{promoted}node {consensus.node_id} is one of {voters} voters")
        else:
            self._say(f"caught up: node {consensus.node_id} is a learner beside {voters} voters")
        return True

    @property
    def _votes(self) -> bool:
        return self._consensus.node_id in self._consensus.roster.conf_state.voters

    @property
    def _behind(self) -> int:
        driver = self._consensus.driver
        return max(0, driver.raw.commit_index - driver.applied_index)

    async def _report_progress(self) -> None:
        while True:
            self._say(self._progress())
            await asyncio.sleep(JOIN_REPORT_MS / 1000)

    def _progress(self) -> str:
        consensus, driver = self._consensus, self._consensus.driver
        incoming = driver.catch_up.intake.incoming
        if incoming is not None:
            return f"receiving the state: {incoming.pairs} of {incoming.pairs_total or '?'} pairs"
        if not consensus.roster.members:
            return "waiting for the leader to send the log"
        return f"learner: {driver.applied_index} of {driver.raw.commit_index} entries applied"

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._report(line)
