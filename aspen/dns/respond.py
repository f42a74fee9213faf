"""The one answer pipeline, whatever transport the query came by (RFC 1034 §4.3.1, in RFC order).

header → opcode → question → EDNS → class → type → lookup → sections → fit to size. Pure: bytes and
a view in, bytes or silence out. Total: for no input does it raise, answer an answer, or exceed the
size the client can take.

A reply may come with a condition (`Reply`): that it holds for this client only, or that a read
barrier passes before a reply made after it may be sent. `respond` is for callers who have neither.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from aspen.dns.lookup import Found, KeySource, Outcome, View, find_in_packet, locate
from aspen.dns.name import HEADER_BYTES
from aspen.dns.networks import UNKNOWN
from aspen.dns.policy import Staleness
from aspen.dns.resolve import Resolution, resolve
from aspen.dns.wire import (
    ANY,
    AXFR,
    CLASS_ANY,
    CLASS_CHAOS,
    CLASS_IN,
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_NOT_AUTHORITATIVE,
    EDE_PROHIBITED,
    EDE_STALE_ANSWER,
    EDE_STALE_NXDOMAIN,
    FLAG_AA,
    FLAG_QR,
    FLAG_TC,
    IXFR,
    META_QTYPES,
    NSID_OPTION,
    OPCODE_MASK,
    TXT,
    Edns,
    Query,
    Rcode,
    extended_error,
    opt_record,
    option,
    parse_edns,
    parse_query,
    reply_header,
)
from aspen.dns.writer import Records, Writer
from aspen.dns.zone import Consistency
from aspen.errors import DnsWireError
from aspen.limits import DNS_TCP_MESSAGE_BYTES, DNS_UDP_EDNS_BYTES, DNS_UDP_PLAIN_BYTES

__all__ = ["Reply", "Transport", "View", "answer", "respond", "servfail", "size_limit"]


class Transport(Enum):
    """How a query came, as far as the answer depends on it: by datagram or by stream."""

    UDP = 1
    TCP = 2


class Reply(NamedTuple):
    """A reply and the conditions it may be sent under."""

    message: bytes
    consistency: Consistency = "stale"
    """Unless stale: pass a barrier of this kind, then answer again and send that."""
    shared: bool = True
    """Whether it may be kept for whoever asks the same."""


_RCODES: Final = {
    Outcome.SUCCESS: Rcode.NOERROR,
    Outcome.CNAME: Rcode.NOERROR,
    Outcome.DELEGATION: Rcode.NOERROR,
    Outcome.NODATA: Rcode.NOERROR,
    Outcome.NXDOMAIN: Rcode.NXDOMAIN,
    Outcome.REFUSED: Rcode.REFUSED,
}
_EDE_PROHIBITED: Final = extended_error(EDE_PROHIBITED)
_EDE_NOT_OURS: Final = extended_error(EDE_NOT_AUTHORITATIVE)
_EDE_STALE: Final = extended_error(EDE_STALE_ANSWER)
_EDE_STALE_NXDOMAIN: Final = extended_error(EDE_STALE_NXDOMAIN)
_EDE_OUT_OF_TOUCH: Final = extended_error(EDE_NO_REACHABLE_AUTHORITY)


def respond(
    query_untrusted: bytes, view: View, transport: Transport, client: bytes = UNKNOWN
) -> bytes | None:
    """The reply to a message, or None for what must not be answered. `client` is a packed address."""
    reply = answer(query_untrusted, view, transport, client)
    return None if reply is None else reply.message


def answer(query_untrusted: bytes, view: View, transport: Transport, client: bytes = UNKNOWN) -> Reply | None:
    """As `respond`, with the conditions of the reply."""
    if not _is_answerable(query_untrusted):
        return None
    if query_untrusted[2] & OPCODE_MASK:
        return Reply(not_implemented(query_untrusted), shared=False)
    try:
        query = parse_query(query_untrusted)
    except DnsWireError as error:
        return Reply(reply_header(query_untrusted, error.rcode))
    edns = query.edns
    if edns is not None and edns.version:
        # Not kept: of what is kept the header alone tells the response code, to the counters.
        return Reply(bare_reply(query_untrusted, query, Rcode.BADVERS), shared=False)
    if view.policy.clients is not None:
        if client not in view.policy.clients:
            return Reply(bare_reply(query_untrusted, query, Rcode.REFUSED, _EDE_PROHIBITED), shared=False)
        return _answer_query(query_untrusted, query, view, transport, client)._replace(shared=False)
    return _answer_query(query_untrusted, query, view, transport, client)


def _answer_query(
    query_untrusted: bytes, query: Query, view: View, transport: Transport, client: bytes
) -> Reply:
    """Answer a well-formed query of somebody who may ask: class, type, data."""
    if query.qclass == CLASS_CHAOS:
        return Reply(_chaos(query_untrusted, query, view))
    if query.qclass not in (CLASS_IN, CLASS_ANY) or query.qtype in (AXFR, IXFR):
        return Reply(bare_reply(query_untrusted, query, Rcode.REFUSED))
    if query.qtype in META_QTYPES:
        return Reply(bare_reply(query_untrusted, query, Rcode.NOTIMP))
    return _look_up(query_untrusted, query, view, size_limit(query.edns, transport), client)


def servfail(query_untrusted: bytes) -> bytes | None:
    """The reply when the replica can't be read; None for what must not be answered."""
    return reply_header(query_untrusted, Rcode.SERVFAIL) if _is_answerable(query_untrusted) else None


def size_limit(edns: Edns | None, transport: Transport) -> int:
    """The largest reply allowed: by datagram 512 octets, or what EDNS offers up to our own bound
    (RFC 6891 §6.2.3; sizes below 512 count as 512)."""
    if transport is Transport.TCP:
        return DNS_TCP_MESSAGE_BYTES
    if edns is None:
        return DNS_UDP_PLAIN_BYTES
    return min(max(edns.udp_bytes, DNS_UDP_PLAIN_BYTES), DNS_UDP_EDNS_BYTES)


def not_implemented(query_bytes: bytes) -> bytes:
    """The reply to an opcode we don't serve: no sections, for what they mean isn't known, but an OPT
    for an OPT (RFC 6891 §7)."""
    try:
        edns = parse_edns(query_bytes)
    except DnsWireError:
        edns = None
    if edns is None:
        return reply_header(query_bytes, Rcode.NOTIMP)
    rcode = Rcode.BADVERS if edns.version else Rcode.NOTIMP
    return reply_header(query_bytes, rcode, counts=(0, 0, 0, 1)) + opt_record(edns, rcode)


def bare_reply(query_bytes: bytes, query: Query, rcode: Rcode, options: bytes = b"") -> bytes:
    """The question echoed with a response code and, under EDNS, an OPT record."""
    question = query_bytes[HEADER_BYTES : query.question_end]
    if query.edns is None:
        return reply_header(query_bytes, rcode, counts=(1, 0, 0, 0)) + question
    opt = opt_record(query.edns, rcode, options)
    return reply_header(query_bytes, rcode, counts=(1, 0, 0, 1)) + question + opt


def _is_answerable(query_untrusted: bytes) -> bool:
    """Too short to have an id and flags, or itself an answer: silence, lest two servers loop."""
    return len(query_untrusted) >= HEADER_BYTES and not query_untrusted[2] & FLAG_QR


def _chaos(query_bytes: bytes, query: Query, view: View) -> bytes:
    """What this server says of itself (RFC 4892); REFUSED for what it doesn't."""
    text = view.policy.chaos.get(query.name)
    if text is None:
        return bare_reply(query_bytes, query, Rcode.REFUSED)
    resolution = Resolution()
    if query.qtype in (TXT, ANY):
        name = query_bytes[HEADER_BYTES : query.question_end - 4]
        resolution.answer.append(Records(name, TXT, 0, (text,), CLASS_CHAOS))
    return _write(query_bytes, query, resolution, b"", DNS_UDP_PLAIN_BYTES)


def _look_up(query_bytes: bytes, query: Query, view: View, limit: int, client: bytes) -> Reply:
    """Answer a question about data."""
    source = locate(view, query.name, query.qtype)
    if source is None:
        return Reply(bare_reply(query_bytes, query, Rcode.REFUSED, _EDE_NOT_OURS))
    if view.staleness is Staleness.SILENT:
        return Reply(bare_reply(query_bytes, query, Rcode.SERVFAIL, _EDE_OUT_OF_TOUCH))
    if isinstance(source, KeySource):
        block = view.records.packet_answers(source.public_key)
        found = find_in_packet(block, source, query.name, query.qtype)
        if found is not None and found.answer.outcome is not Outcome.CNAME:
            options = _options(query, view, _RCODES[found.answer.outcome])
            return Reply(_write_found(query_bytes, query, found, options, limit))
    name = query_bytes[HEADER_BYTES : query.question_end - 4]
    resolution = resolve(view, name, query.qtype, client)
    if resolution.forbidden:
        return Reply(bare_reply(query_bytes, query, Rcode.REFUSED, _EDE_PROHIBITED), shared=False)
    options = _options(query, view, resolution.rcode)
    message = _write(query_bytes, query, resolution, options, limit)
    return Reply(message, resolution.consistency, resolution.shared)


def _options(query: Query, view: View, rcode: Rcode) -> bytes:
    """The EDNS options of an answer about data."""
    edns = query.edns
    if edns is None:
        return b""
    options = b""
    if edns.options and view.policy.nsid and edns.option(NSID_OPTION) is not None:
        options = option(NSID_OPTION, view.policy.nsid)
    if view.staleness is Staleness.MARKED:
        options += _EDE_STALE_NXDOMAIN if rcode is Rcode.NXDOMAIN else _EDE_STALE
    return options


def _flags(query: Query, *, authoritative: bool) -> int:
    """AA, unless the class was ANY: such an answer is never authoritative (RFC 1035 §6.2)."""
    return FLAG_AA if authoritative and query.qclass == CLASS_IN else 0


def _write_found(query_bytes: bytes, query: Query, found: Found, options: bytes, limit: int) -> bytes:
    """A ready-made answer as a reply: nothing to write, only to join. What doesn't fit goes whole,
    under TC (RFC 2181 §9)."""
    ready, origin = found.answer, found.origin
    rcode = _RCODES[ready.outcome]
    flags = _flags(query, authoritative=True)
    question = query_bytes[HEADER_BYTES : query.question_end]
    additional = opt_record(query.edns, rcode, options) if query.edns is not None else b""
    authority = b""
    if ready.outcome in (Outcome.NODATA, Outcome.NXDOMAIN):
        authority = origin.authority(HEADER_BYTES + found.origin_offset)
    counts = (1, ready.record_count, 1 if authority else 0, 1 if additional else 0)
    size = HEADER_BYTES + len(question) + len(ready.records) + len(authority) + len(additional)
    if size > limit:
        counts = (1, 0, 0, counts[3])
        return reply_header(query_bytes, rcode, flags | FLAG_TC, counts) + question + additional
    header = reply_header(query_bytes, rcode, flags, counts)
    return header + question + ready.records + authority + additional


def _write(query_bytes: bytes, query: Query, resolution: Resolution, options: bytes, limit: int) -> bytes:
    """Sections as a reply, as many whole RRsets as fit. TC if one is missing that must not be:
    any but those additional records that are a kindness (RFC 2181 §9, RFC 9471 §3)."""
    question = query_bytes[HEADER_BYTES : query.question_end]
    opt = opt_record(query.edns, resolution.rcode, options) if query.edns is not None else b""
    writer = Writer(question, limit - len(opt))
    flags = _flags(query, authoritative=resolution.authoritative)
    counts = [1, 0, 0, 1 if opt else 0]
    needed = ((1, resolution.answer), (2, resolution.authority), (3, resolution.glue))
    for section, records in ((section, records) for section, sets in needed for records in sets):
        if not writer.add(records):
            flags |= FLAG_TC
            break
        counts[section] += len(records.rdatas)
    else:
        for records in resolution.additional:
            if writer.add(records):
                counts[3] += len(records.rdatas)
    header = reply_header(query_bytes, resolution.rcode, flags, (counts[0], counts[1], counts[2], counts[3]))
    return header + writer.finish() + opt
