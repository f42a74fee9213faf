"""What an authoritative primary does beside answering questions: transfers, updates, signed messages.

Here, in the node process, come the messages that the pipeline `respond` can't answer from one look
at the replica: those with a TSIG record (verified first, whatever they ask, and their answers
signed), AXFR and IXFR, UPDATE (a proposal to the log), NOTIFY. They come by datagram from the UDP workers
(`forward`) and by stream from TCP and TLS connections.

An answer is handed to `send`, message by message; `send` waits while the client doesn't take what
there is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog

from aspen.dns.asked import EDE_NOT_READY, NOT_OURS, Asked, Failure, bare_reply
from aspen.dns.name import HEADER_BYTES, name_to_text
from aspen.dns.networks import packed_address
from aspen.dns.respond import Transport, View, answer, size_limit
from aspen.dns.transfer import Form, TransferZone, ixfr_serial, plan_transfer, transfer_messages
from aspen.dns.tsig import Keys, Refusal, read_tsig, unsigned_form, verify_request
from aspen.dns.updates import Refusals, Updates
from aspen.dns.wire import (
    AXFR,
    CLASS_IN,
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_PROHIBITED,
    FLAG_AA,
    FLAG_QR,
    FLAG_TC,
    IXFR,
    SOA,
    Query,
    Rcode,
    parse_query,
    reply_header,
)
from aspen.errors import DnsWireError, ProposalError
from aspen.limits import (
    DNS_TRANSFER_MS,
    DNS_TRANSFER_WAIT_MS,
    DNS_TRANSFERS,
)
from aspen.state.ports import Consistency, Proposer

log = structlog.get_logger("aspen.dns.primary")

OPCODE_QUERY: Final = 0
OPCODE_NOTIFY: Final = 4
OPCODE_UPDATE: Final = 5


Send = Callable[[bytes], Awaitable[None]]


class TransferZones(Protocol):
    """The zones, as far as they are asked for by their own names."""

    def get(self, apex: bytes) -> TransferZone | None: ...


_BUSY: Final = Failure(Rcode.SERVFAIL, EDE_NOT_READY, "too many transfers are under way")


class Primary:
    """Answers what needs more than the replica. Times are seconds since 1970 by `now_s`."""

    def __init__(
        self,
        zones: TransferZones,
        keys: Keys,
        proposer: Proposer,
        view: Callable[[], View],
        now_s: Callable[[], float],
        *,
        transfers_max: int = DNS_TRANSFERS,
        transfer_ms: int = DNS_TRANSFER_MS,
    ) -> None:
        self._zones = zones
        self._keys = keys
        self._proposer = proposer
        self._view = view
        self._now_s = now_s
        self._slots = asyncio.Semaphore(transfers_max)
        self._transfer_s = transfer_ms / 1_000
        self._refusals = Refusals(now_s)
        self._updates = Updates(zones, proposer, now_s, self._refusals)
        self.transfers: Counter[Form] = Counter()
        """Completed, by what went out."""

    async def datagram(self, message_untrusted: bytes, client: Any) -> bytes | None:
        """The reply to a datagram (`forward.Answer`)."""
        reply: bytes | None = None

        async def send(message: bytes) -> None:
            nonlocal reply
            reply = message

        await self._serve(message_untrusted, client, Transport.UDP, send)
        return reply

    async def stream(self, message_untrusted: bytes, client: Any, send: Send) -> None:
        """Answer a message that came by a connection. Any exception means: cut it off."""
        await self._serve(message_untrusted, client, Transport.TCP, send)

    # --- signatures ---------------------------------------------------------------------------

    async def _serve(self, message: bytes, client: Any, transport: Transport, send: Send) -> None:
        if len(message) < HEADER_BYTES or message[2] & FLAG_QR:
            return
        signer = None
        try:
            tsig = read_tsig(message)
            if tsig is not None:
                verdict = verify_request(message, tsig, self._keys, int(self._now_s()))
                message = message[:2] + unsigned_form(message, tsig)[2:]
                if isinstance(verdict, Refusal):
                    await send(self._refusal(Asked(message, client, transport, None), verdict))
                    return
                signer = verdict
        except DnsWireError as error:
            await send(reply_header(message, error.rcode))
            return
        asked = Asked(message, client, transport, signer)
        if signer is None:
            await self._answer(asked, send)
            return

        async def send_signed(reply: bytes) -> None:
            await send(signer.sign(self._fitted(asked, reply, signer.room), int(self._now_s())))

        await self._answer(asked, send_signed)

    def _refusal(self, asked: Asked, refusal: Refusal) -> bytes:
        key = name_to_text(refusal.tsig.name)
        self._refusals.note(f"tsig_{refusal.error.name.lower()}", key=key, client=asked.client_text)
        try:
            query = parse_query(asked.message)
            reply = bare_reply(asked.message, query.question_end, None, Failure(refusal.rcode))
        except DnsWireError:  # an UPDATE of some length, say
            reply = reply_header(asked.message, refusal.rcode)
        return refusal.reply(reply, int(self._now_s()))

    def _fitted(self, asked: Asked, reply: bytes, room: int) -> bytes:
        """The reply, or one that sends the client to TCP, if the signature doesn't fit beside it."""
        if asked.transport is Transport.TCP:
            return reply
        try:
            query = parse_query(asked.message)
        except DnsWireError:
            return reply
        if len(reply) + room <= size_limit(query.edns, Transport.UDP):
            return reply
        flags = reply[2] & FLAG_AA | FLAG_TC
        return bare_reply(
            asked.message, query.question_end, query.edns, Failure(Rcode(reply[3] & 0x0F)), flags
        )

    # --- by opcode ----------------------------------------------------------------------------

    async def _answer(self, asked: Asked, send: Send) -> None:
        try:
            if asked.opcode == OPCODE_UPDATE:
                await send(await self._updates.answer(asked))
            elif asked.opcode == OPCODE_NOTIFY:
                await send(self._notify(asked))
            elif asked.opcode == OPCODE_QUERY:
                await self._query(asked, send)
            else:
                await send(reply_header(asked.message, Rcode.NOTIMP))
        except DnsWireError as error:
            await send(reply_header(asked.message, error.rcode))

    async def _query(self, asked: Asked, send: Send) -> None:
        query = parse_query(asked.message)
        if query.qtype in (AXFR, IXFR) and not (query.edns is not None and query.edns.version):
            await self._transfer(asked, query, send)
            return
        reply = await self._respond(asked)
        if reply is not None:
            await send(reply)

    async def _respond(self, asked: Asked) -> bytes | None:
        """What the pipeline says, once the replica is as fresh as the zone wants it."""
        client = packed_address(asked.client)
        reply = answer(asked.message, self._view(), asked.transport, client)
        if reply is not None and reply.consistency != "stale":
            try:
                await self._proposer.barrier(Consistency(reply.consistency))
            except ProposalError as error:
                query = parse_query(asked.message)
                failure = Failure(Rcode.SERVFAIL, EDE_NO_REACHABLE_AUTHORITY, error.code)
                return bare_reply(asked.message, query.question_end, query.edns, failure)
            reply = answer(asked.message, self._view(), asked.transport, client)
        return None if reply is None else reply.message

    def _notify(self, asked: Asked) -> bytes:
        """RFC 1996 §3.10: every zone here is authored here, so nobody else's word counts."""
        query = parse_query(asked.message)
        if query.qtype != SOA:
            return bare_reply(asked.message, query.question_end, query.edns, Failure(Rcode.FORMERR))
        zone = self._zones.get(query.name) if query.qclass == CLASS_IN else None
        ours = zone is not None and zone.settings.enabled
        failure = Failure(Rcode.REFUSED, EDE_PROHIBITED, "this server is the primary") if ours else NOT_OURS
        return bare_reply(asked.message, query.question_end, query.edns, failure)

    # --- transfers ----------------------------------------------------------------------------

    async def _transfer(self, asked: Asked, query: Query, send: Send) -> None:
        if query.qtype == AXFR and asked.transport is Transport.UDP:
            raise DnsWireError("an AXFR by datagram (RFC 5936 §4.2)")
        try:
            async with asyncio.timeout(DNS_TRANSFER_WAIT_MS / 1_000):
                await self._slots.acquire()
        except TimeoutError:
            await send(bare_reply(asked.message, query.question_end, query.edns, _BUSY))
            return
        try:
            await self._transfer_now(asked, query, send)
        finally:
            self._slots.release()

    async def _transfer_now(self, asked: Asked, query: Query, send: Send) -> None:
        """The reader of the zone, and so a moment of the store, lives until this returns."""
        serial = ixfr_serial(asked.message, query) if query.qtype == IXFR else None
        zone = self._zones.get(query.name) if query.qclass == CLASS_IN else None
        failure = self._transfer_failure(asked, zone)
        if zone is not None and failure is None and zone.settings.consistency != "stale":
            try:
                await self._proposer.barrier(Consistency(zone.settings.consistency))
            except ProposalError as error:
                failure = Failure(Rcode.SERVFAIL, EDE_NO_REACHABLE_AUTHORITY, error.code)
            zone = self._zones.get(query.name)  # as it is after the barrier
        if zone is None or failure is not None:
            await send(bare_reply(asked.message, query.question_end, query.edns, failure or NOT_OURS))
            return
        transfer = plan_transfer(zone, query, serial, asked.transport)
        room = 0 if asked.signer is None else asked.signer.room
        async with asyncio.timeout(self._transfer_s):
            for message in transfer_messages(asked.message, query, transfer.records, room):
                await send(message)
                await asyncio.sleep(0)  # others have their turn between two messages
        self.transfers[transfer.form] += 1
        if transfer.form is not Form.SOA:
            log.info(
                "zone_transferred",
                zone=name_to_text(zone.apex),
                serial=zone.serial,
                form=transfer.form.value,
                client=asked.client_text,
            )

    def _transfer_failure(self, asked: Asked, zone: TransferZone | None) -> Failure | None:
        """RFC 5936 §2.2.1."""
        if zone is None or not zone.settings.enabled:
            return NOT_OURS
        if not asked.allowed(zone.settings.transfer_acl, zone.settings.transfer_keys):
            self._refusals.note("transfer_refused", zone=name_to_text(zone.apex), client=asked.client_text)
            return Failure(Rcode.REFUSED, EDE_PROHIBITED)
        return None
