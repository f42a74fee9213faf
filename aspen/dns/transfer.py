"""Zone transfer out: AXFR (RFC 5936) and IXFR (RFC 1995), as a run of messages.

An AXFR is the SOA, every other record, the SOA again. An IXFR to somebody who has an earlier serial
is the new SOA, then for each step (SOA before, records gone, SOA after, records new), then the new
SOA again; where the steps aren't known any more it is the whole zone, in AXFR's form (RFC 1995 §4).
Who has the current serial, or a later one, or asks by datagram, gets the SOA alone.

The messages are made one by one, as they are taken: of a large zone only one is ever in memory. They
are filled to about 16 KiB, as far as compression pointers reach, so that signing and sending a zone
leave the event loop room between messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

from aspen.dns.message import read_record, section_counts
from aspen.dns.name import HEADER_BYTES
from aspen.dns.respond import Transport
from aspen.dns.wire import (
    FLAG_AA,
    IXFR,
    SOA,
    Query,
    Rcode,
    opt_record,
    reply_header,
)
from aspen.dns.writer import Records, Writer
from aspen.dns.zone import ZoneReader, soa_serial
from aspen.errors import DnsWireError, InvariantViolation, invariant
from aspen.limits import DNS_TCP_MESSAGE_BYTES, DNS_TRANSFER_MESSAGE_BYTES

_SOA_NUMBERS_BYTES: Final = 20
_SERIAL_MASK: Final = (1 << 32) - 1
_SERIAL_HALF: Final = 1 << 31


class Record(NamedTuple):
    """One record of a zone."""

    owner: bytes
    rrtype: int
    ttl: int
    rdata: bytes


class RecordLike(Protocol):
    @property
    def owner(self) -> bytes: ...
    @property
    def rrtype(self) -> int: ...
    @property
    def ttl(self) -> int: ...
    @property
    def rdata(self) -> bytes: ...


class Difference(Protocol):
    """From one serial to the next; the SOA records are among the records."""

    @property
    def removed(self) -> Sequence[RecordLike]: ...
    @property
    def added(self) -> Sequence[RecordLike]: ...


class TransferZone(ZoneReader, Protocol):
    """A zone that remembers what changed."""

    def differences(self, serial: int) -> Sequence[Difference] | None:
        """What led from `serial` to the current one, oldest first; None if that isn't known."""
        ...


def ixfr_serial(message: bytes, query: Query) -> int:
    """The serial that the sender of an IXFR query has (RFC 1995 §3): of the SOA in its authority section.

    Raises `DnsWireError` carrying FORMERR.
    """
    _, answers, authority, _ = section_counts(message)
    offset = query.question_end
    for index in range(answers + authority):
        record = read_record(message, offset)
        offset = record.rdata_end
        if index >= answers and record.rrtype == SOA and record.owner.lower() == query.name:
            if record.rdata_end - record.rdata_start < _SOA_NUMBERS_BYTES:
                raise DnsWireError("an SOA that is too short")
            return soa_serial(message[record.rdata_start : record.rdata_end])
    raise DnsWireError("an IXFR query without the SOA that its sender has")


def is_newer(serial: int, than: int) -> bool:
    """RFC 1982 §3.2. Serials exactly half the circle apart count as newer: a transfer then settles it."""
    return 0 < (serial - than) & _SERIAL_MASK <= _SERIAL_HALF


class Form(Enum):
    """What an answer to a transfer query holds."""

    SOA = "SOA"
    """The SOA alone."""
    AXFR = "AXFR"
    """The whole zone."""
    IXFR = "IXFR"
    """Steps from one serial to another."""


class Transfer(NamedTuple):
    form: Form
    records: Iterator[RecordLike]


def plan_transfer(zone: TransferZone, query: Query, serial: int | None, transport: Transport) -> Transfer:
    """The answer to an AXFR or IXFR query; `serial` is what an IXFR's sender has."""
    soa = soa_of(zone)
    if query.qtype == IXFR and serial is not None:
        if transport is Transport.UDP or not is_newer(zone.serial, serial):
            return Transfer(Form.SOA, iter((soa,)))
        steps = zone.differences(serial)
        if steps is not None:
            return Transfer(Form.IXFR, _incremental(soa, steps))
    return Transfer(Form.AXFR, _whole(zone, soa))


def soa_of(zone: ZoneReader) -> Record:
    """The SOA record of a zone."""
    rrset = (zone.node(zone.apex) or {}).get(SOA)
    if rrset is None:
        raise InvariantViolation("a zone without SOA")
    return Record(zone.apex, SOA, rrset.ttl, rrset.rdatas[0])


def _whole(zone: ZoneReader, soa: Record) -> Iterator[RecordLike]:
    """RFC 5936 §2.2."""
    yield soa
    for owner, node in zone.walk():
        for rrtype, rrset in node.items():
            if rrtype != SOA:
                for rdata in rrset.rdatas:
                    yield Record(owner, rrtype, rrset.ttl, rdata)
    yield soa


def _incremental(soa: Record, steps: Sequence[Difference]) -> Iterator[RecordLike]:
    """RFC 1995 §4."""
    yield soa
    for step in steps:
        for records in (step.removed, step.added):
            yield next(record for record in records if record.rrtype == SOA)
            yield from (record for record in records if record.rrtype != SOA)
    yield soa


def transfer_messages(
    message: bytes, query: Query, records: Iterable[RecordLike], room: int = 0
) -> Iterator[bytes]:
    """The records in reply messages to a query; each leaves `room` octets for a signature.

    The question and OPT stand in the first message alone (RFC 5936 §2.2.1, §2.2.5).
    """
    limit = DNS_TCP_MESSAGE_BYTES - room
    question = message[HEADER_BYTES : query.question_end]
    opt = b"" if query.edns is None else opt_record(query.edns)
    soft = min(DNS_TRANSFER_MESSAGE_BYTES, limit)
    writer, count = Writer(question, soft - len(opt)), 0
    for record in records:
        entry = Records(record.owner, record.rrtype, record.ttl, (record.rdata,), 1)
        if not writer.add(entry):
            if count:
                yield _message(message, question, writer, count, opt)
                question = opt = b""
                writer, count = Writer(b"", soft), 0
            if not writer.add(entry):
                writer = Writer(question, limit - len(opt))  # one large record, alone
                invariant(writer.add(entry), "a record larger than a message")
        count += 1
    yield _message(message, question, writer, count, opt)


def _message(message: bytes, question: bytes, writer: Writer, count: int, opt: bytes) -> bytes:
    counts = (1 if question else 0, count, 0, 1 if opt else 0)
    return reply_header(message, Rcode.NOERROR, FLAG_AA, counts) + writer.finish() + opt
