"""What an authoritative primary does beside answering questions: transfers, updates, signed messages.

Here, in the node process, come the messages that the pipeline `respond` can't answer from one look
at the replica: those with a TSIG record (verified first, whatever they ask, and their answers
signed), AXFR and IXFR, UPDATE (a proposal to the log), NOTIFY. They come by datagram from the UDP workers
(`forward`) and by stream from TCP and TLS connections.

An answer is handed to `send`, message by message; `send` waits while the client doesn't take what
there is. An UPDATE is never answered NOERROR unless a quorum has it: where its fate can't be known
the answer is SERVFAIL, and a retransmission hears the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

import structlog

from aspen.dns.name import HEADER_BYTES, name_to_text
from aspen.dns.networks import networks, packed_address
from aspen.dns.respond import Transport, View, answer, size_limit
from aspen.dns.transfer import Form, TransferZone, ixfr_serial, plan_transfer, transfer_messages
from aspen.dns.tsig import Keys, Refusal, Signer, read_tsig, unsigned_form, verify_request
from aspen.dns.update import parse_update, parse_update_zone
from aspen.dns.wire import (
    AXFR,
    CLASS_IN,
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_NOT_AUTHORITATIVE,
    EDE_OPTION,
    EDE_PROHIBITED,
    FLAG_AA,
    FLAG_QR,
    FLAG_TC,
    IXFR,
    OPCODE_MASK,
    SOA,
    Edns,
    Query,
    Rcode,
    opt_record,
    parse_query,
    reply_header,
)
from aspen.dns.zone import ZoneSettings
from aspen.errors import CommandError, ConfigError, DnsWireError, OutcomeUnknown, ProposalError
from aspen.limits import (
    DNS_TRANSFER_MS,
    DNS_TRANSFER_WAIT_MS,
    DNS_TRANSFERS,
    DNS_UPDATES_REMEMBERED,
    DNS_UPDATES_REMEMBERED_MS,
    DNS_UPDATES_UNSIGNED_MS,
)
from aspen.state.ports import Consistency, Proposer
from aspen.state.zone_commands import ZoneResult

log = structlog.get_logger("aspen.dns.primary")

OPCODE_QUERY: Final = 0
OPCODE_NOTIFY: Final = 4
OPCODE_UPDATE: Final = 5

EDE_OTHER: Final = 0
EDE_NOT_READY: Final = 14

Send = Callable[[bytes], Awaitable[None]]


class TransferZones(Protocol):
    """The zones, as far as they are asked for by their own names."""

    def get(self, apex: bytes) -> TransferZone | None: ...


class Failure(NamedTuple):
    """A response code and why (RFC 8914), for clients that speak EDNS."""

    rcode: Rcode
    info_code: int | None = None
    text: str = ""

    def options(self) -> bytes:
        if self.info_code is None:
            return b""
        data = self.info_code.to_bytes(2, "big") + self.text.encode()
        return EDE_OPTION.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


_NOT_OURS: Final = Failure(Rcode.NOTAUTH, EDE_NOT_AUTHORITATIVE)
_BUSY: Final = Failure(Rcode.SERVFAIL, EDE_NOT_READY, "too many transfers are under way")


class _Asked(NamedTuple):
    """A message, verified if it was signed, on its way to an answer."""

    message: bytes
    """Without its TSIG record."""
    client: Any
    transport: Transport
    signer: Signer | None

    @property
    def opcode(self) -> int:
        return (self.message[2] & OPCODE_MASK) >> 3

    def allowed(self, acl: tuple[str, ...], keys: tuple[str, ...]) -> bool:
        """By its address alone, or by the key that it is signed with."""
        signer = self.signer
        if signer is not None and name_to_text(signer.key.name) in (_dotted(key) for key in keys):
            return True
        try:
            return packed_address(self.client) in networks(acl)
        except ConfigError:  # an entry that an earlier version let in: nobody's
            return False


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
        self._updates: OrderedDict[bytes, tuple[float, asyncio.Task[Failure]]] = OrderedDict()
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
                    await send(self._refusal(message, verdict))
                    return
                signer = verdict
        except DnsWireError as error:
            await send(reply_header(message, error.rcode))
            return
        asked = _Asked(message, client, transport, signer)
        if signer is None:
            await self._answer(asked, send)
            return

        async def send_signed(reply: bytes) -> None:
            await send(signer.sign(self._fitted(asked, reply, signer.room), int(self._now_s())))

        await self._answer(asked, send_signed)

    def _refusal(self, message: bytes, refusal: Refusal) -> bytes:
        log.info("tsig_refused", key=name_to_text(refusal.tsig.name), error=refusal.error.name)
        try:
            query = parse_query(message)
            reply = _bare(message, query.question_end, None, Failure(refusal.rcode))
        except DnsWireError:  # an UPDATE of some length, say
            reply = reply_header(message, refusal.rcode)
        return refusal.reply(reply, int(self._now_s()))

    def _fitted(self, asked: _Asked, reply: bytes, room: int) -> bytes:
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
        return _bare(asked.message, query.question_end, query.edns, Failure(Rcode(reply[3] & 0x0F)), flags)

    # --- by opcode ----------------------------------------------------------------------------

    async def _answer(self, asked: _Asked, send: Send) -> None:
        try:
            if asked.opcode == OPCODE_UPDATE:
                await send(await self._update(asked))
            elif asked.opcode == OPCODE_NOTIFY:
                await send(self._notify(asked))
            elif asked.opcode == OPCODE_QUERY:
                await self._query(asked, send)
            else:
                await send(reply_header(asked.message, Rcode.NOTIMP))
        except DnsWireError as error:
            await send(reply_header(asked.message, error.rcode))

    async def _query(self, asked: _Asked, send: Send) -> None:
        query = parse_query(asked.message)
        if query.qtype in (AXFR, IXFR) and not (query.edns is not None and query.edns.version):
            await self._transfer(asked, query, send)
            return
        reply = await self._respond(asked)
        if reply is not None:
            await send(reply)

    async def _respond(self, asked: _Asked) -> bytes | None:
        """What the pipeline says, once the replica is as fresh as the zone wants it."""
        client = packed_address(asked.client)
        reply = answer(asked.message, self._view(), asked.transport, client)
        if reply is not None and reply.consistency != "stale":
            try:
                await self._proposer.barrier(Consistency(reply.consistency))
            except ProposalError as error:
                query = parse_query(asked.message)
                failure = Failure(Rcode.SERVFAIL, EDE_NO_REACHABLE_AUTHORITY, error.code)
                return _bare(asked.message, query.question_end, query.edns, failure)
            reply = answer(asked.message, self._view(), asked.transport, client)
        return None if reply is None else reply.message

    def _notify(self, asked: _Asked) -> bytes:
        """RFC 1996 §3.10: every zone here is authored here, so nobody else's word counts."""
        query = parse_query(asked.message)
        if query.qtype != SOA:
            return _bare(asked.message, query.question_end, query.edns, Failure(Rcode.FORMERR))
        zone = self._zones.get(query.name) if query.qclass == CLASS_IN else None
        ours = zone is not None and zone.settings.enabled
        failure = Failure(Rcode.REFUSED, EDE_PROHIBITED, "this server is the primary") if ours else _NOT_OURS
        return _bare(asked.message, query.question_end, query.edns, failure)

    # --- transfers ----------------------------------------------------------------------------

    async def _transfer(self, asked: _Asked, query: Query, send: Send) -> None:
        if query.qtype == AXFR and asked.transport is Transport.UDP:
            raise DnsWireError("an AXFR by datagram (RFC 5936 §4.2)")
        try:
            async with asyncio.timeout(DNS_TRANSFER_WAIT_MS / 1_000):
                await self._slots.acquire()
        except TimeoutError:
            await send(_bare(asked.message, query.question_end, query.edns, _BUSY))
            return
        try:
            await self._transfer_now(asked, query, send)
        finally:
            self._slots.release()

    async def _transfer_now(self, asked: _Asked, query: Query, send: Send) -> None:
        """The reader of the zone, and so a moment of the store, lives until this returns."""
        serial = ixfr_serial(asked.message, query) if query.qtype == IXFR else None
        zone = self._zones.get(query.name) if query.qclass == CLASS_IN else None
        failure = _transfer_failure(asked, zone)
        if zone is not None and failure is None and zone.settings.consistency != "stale":
            try:
                await self._proposer.barrier(Consistency(zone.settings.consistency))
            except ProposalError as error:
                failure = Failure(Rcode.SERVFAIL, EDE_NO_REACHABLE_AUTHORITY, error.code)
            zone = self._zones.get(query.name)  # as it is after the barrier
        if zone is None or failure is not None:
            await send(_bare(asked.message, query.question_end, query.edns, failure or _NOT_OURS))
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
                client=_client_text(asked.client),
            )

    # --- updates ------------------------------------------------------------------------------

    async def _update(self, asked: _Asked) -> bytes:
        message = asked.message
        zone = parse_update_zone(message)
        if zone.edns is not None and zone.edns.version:
            return _bare(message, zone.end, zone.edns, Failure(Rcode.BADVERS))
        failure = self._update_failure(asked, zone.apex, zone.zclass)
        if failure is None:
            try:
                failure = await self._once(asked, lambda: self._propose(asked, zone.apex))
            except DnsWireError as error:
                failure = Failure(Rcode(error.rcode))
        return _bare(message, zone.end, zone.edns, failure)

    def _update_failure(self, asked: _Asked, apex: bytes, zclass: int) -> Failure | None:
        """RFC 2136 §3.1, §3.3: who may not update learns nothing of prerequisites."""
        zone = self._zones.get(apex) if zclass == CLASS_IN else None
        if zone is None or not zone.settings.enabled:
            return _NOT_OURS
        settings = zone.settings
        if not asked.allowed(settings.update_acl, settings.update_keys):
            log.info("update_refused", zone=name_to_text(apex), client=_client_text(asked.client))
            return Failure(Rcode.REFUSED, EDE_PROHIBITED)
        return None

    async def _once(self, asked: _Asked, do: Callable[[], Awaitable[Failure]]) -> Failure:
        """Do what a datagram asks for once, however often it comes: later ones hear what came of it.

        A signed message is known by all its octets, MAC included, wherever it comes from: so one that
        somebody recorded isn't carried out again by this node either, as long as it would be believed.
        """
        if asked.signer is not None:
            origin, lifetime_ms = asked.signer.mac, DNS_UPDATES_REMEMBERED_MS
        elif asked.transport is Transport.UDP:
            origin, lifetime_ms = repr(asked.client).encode(), DNS_UPDATES_UNSIGNED_MS
        else:
            return await do()
        known_as = hashlib.sha256(origin + b"\0" + asked.message).digest()
        now_s = self._now_s()
        while self._updates:
            oldest, (until_s, _) = next(iter(self._updates.items()))
            if until_s > now_s and len(self._updates) < DNS_UPDATES_REMEMBERED:
                break
            del self._updates[oldest]
        known = self._updates.get(known_as)
        if known is None or known[0] < now_s:
            task = asyncio.ensure_future(do())
            known = self._updates[known_as] = (now_s + lifetime_ms / 1_000, task)
        # What was begun is finished, also if this client goes away meanwhile.
        return await asyncio.shield(known[1])

    async def _propose(self, asked: _Asked, apex: bytes) -> Failure:
        command = parse_update(asked.message, parse_update_zone(asked.message))
        try:
            result = await self._proposer.propose(command)
        except OutcomeUnknown:
            log.warning("update_outcome_unknown", zone=name_to_text(apex))
            return Failure(Rcode.SERVFAIL, EDE_OTHER, "it is not known whether the update was made")
        except ProposalError as error:
            return Failure(Rcode.SERVFAIL, EDE_NOT_READY, f"nothing was changed: {error.code}")
        except CommandError as error:
            return Failure(Rcode.REFUSED, EDE_OTHER, str(error))
        if not isinstance(result, ZoneResult):
            return Failure(Rcode.SERVFAIL)
        log.info(
            "zone_updated",
            zone=name_to_text(apex),
            serial=result.serial,
            status=result.status.value,
            client=_client_text(asked.client),
        )
        return Failure(Rcode(result.rcode), EDE_OTHER if result.reason else None, result.reason)


def _transfer_failure(asked: _Asked, zone: TransferZone | None) -> Failure | None:
    """RFC 5936 §2.2.1."""
    if zone is None or not zone.settings.enabled:
        return _NOT_OURS
    settings: ZoneSettings = zone.settings
    if not asked.allowed(settings.transfer_acl, settings.transfer_keys):
        log.info("transfer_refused", zone=name_to_text(zone.apex), client=_client_text(asked.client))
        return Failure(Rcode.REFUSED, EDE_PROHIBITED)
    return None


def _bare(message: bytes, question_end: int, edns: Edns | None, failure: Failure, flags: int = 0) -> bytes:
    """The question (or zone section) echoed with a response code and, under EDNS, an OPT record."""
    question = message[HEADER_BYTES:question_end]
    opt = b"" if edns is None else opt_record(edns, failure.rcode, failure.options())
    counts = (1, 0, 0, 1 if opt else 0)
    return reply_header(message, failure.rcode, flags, counts) + question + opt


def _client_text(client: Any) -> str:
    try:
        return f"{client[0]}:{client[1]}"
    except (TypeError, IndexError):
        return "unknown"


def _dotted(name: str) -> str:
    return name.lower().rstrip(".") + "."
