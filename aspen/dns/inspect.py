"""A question as a client asks it, and a reply as people read it (RFC 1035 §4.1, the layout of dig)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from aspen.dns.message import read_record, section_counts
from aspen.dns.name import HEADER_BYTES, name_to_text, read_name
from aspen.dns.presentation import format_rdata, type_name
from aspen.dns.rdata import read_rdata
from aspen.errors import DnsWireError
from aspen.limits import DNS_UDP_EDNS_BYTES

_HEADER: Final = struct.Struct(">HHHHHH")
_QUESTION: Final = struct.Struct(">HH")
_OPT_RECORD: Final = struct.Struct(">BHHIH")
_RECURSION_DESIRED: Final = 0x0100
_OPT: Final = 41
_IN: Final = 1
_SECTIONS: Final = ("answer", "authority", "additional")
_FLAGS: Final = (
    (0x8000, "qr"),
    (0x0400, "aa"),
    (0x0200, "tc"),
    (0x0100, "rd"),
    (0x0080, "ra"),
    (0x0020, "ad"),
)
_RCODES: Final = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
    9: "NOTAUTH",
    16: "BADVERS",
}
_CLASSES: Final = {1: "IN", 3: "CH", 4: "HS"}
_EDE: Final = 15
_EXTENDED: Final = {
    3: "stale answer",
    18: "prohibited",
    19: "stale NXDOMAIN answer",
    20: "not authoritative",
    22: "no reachable authority",
}
"""RFC 8914 §4, those that a node of ours says."""


class Reply(NamedTuple):
    message_id: int
    rcode: str
    flags: tuple[str, ...]
    question: str
    sections: dict[str, list[str]]
    """`answer`, `authority`, `additional` → records, as dig prints them."""
    notes: list[str]
    """Extended errors (RFC 8914)."""

    @property
    def truncated(self) -> bool:
        return "tc" in self.flags

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.rcode,
            "flags": list(self.flags),
            "question": self.question,
            **self.sections,
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        yield f";; status: {self.rcode}, flags: {' '.join(self.flags)}"
        for note in self.notes:
            yield f";; {note}"
        yield f";{self.question}"
        for section in _SECTIONS:
            if self.sections[section]:
                yield f";; {section.upper()}:"
                yield from self.sections[section]


def build_query(message_id: int, name: bytes, qtype: int, *, recursion: bool = False) -> bytes:
    """One question with EDNS. `name` is a wire name."""
    flags = _RECURSION_DESIRED if recursion else 0
    opt = _OPT_RECORD.pack(0, _OPT, DNS_UDP_EDNS_BYTES, 0, 0)
    return _HEADER.pack(message_id, flags, 1, 0, 0, 1) + name + _QUESTION.pack(qtype, _IN) + opt


def read_reply(reply_untrusted: bytes) -> Reply:
    """Raises `DnsWireError`."""
    questions, *counts = section_counts(reply_untrusted)
    message_id, flags = struct.unpack_from(">HH", reply_untrusted)
    offset = HEADER_BYTES
    question = ""
    for _ in range(questions):
        name, offset = read_name(reply_untrusted, offset)
        if offset + _QUESTION.size > len(reply_untrusted):
            raise DnsWireError("the question runs past the end of the message")
        qtype, qclass = _QUESTION.unpack_from(reply_untrusted, offset)
        offset += _QUESTION.size
        question = f"{name_to_text(name)} {_class(qclass)} {_type(qtype)}"
    rcode = flags & 0x0F
    sections: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    notes: list[str] = []
    for section, count in zip(_SECTIONS, counts, strict=True):
        for _ in range(count):
            record = read_record(reply_untrusted, offset)
            fields = read_rdata(reply_untrusted, record.rrtype, record.rdata_start, record.rdata_end)
            rdata = b"".join(octets for _, octets in fields)
            offset = record.rdata_end
            if record.rrtype == _OPT:
                rcode |= record.ttl >> 24 << 4
                notes += _extended_errors(rdata)
                continue
            owner, text = name_to_text(record.owner), format_rdata(record.rrtype, rdata)
            sections[section].append(
                f"{owner} {record.ttl} {_class(record.rrclass)} {type_name(record.rrtype)} {text}"
            )
    shown = tuple(name for bit, name in _FLAGS if flags & bit)
    return Reply(message_id, _RCODES.get(rcode, f"RCODE{rcode}"), shown, question, sections, notes)


def _extended_errors(options: bytes) -> Iterator[str]:
    offset = 0
    while offset + 4 <= len(options):
        code, length = _QUESTION.unpack_from(options, offset)
        data = options[offset + 4 : offset + 4 + length]
        offset += 4 + length
        if code == _EDE and len(data) >= 2:
            text = data[2:].decode("utf-8", "replace")
            number = int.from_bytes(data[:2], "big")
            named = f" ({_EXTENDED[number]})" if number in _EXTENDED else ""
            yield f"extended error {number}{named}" + (f": {text}" if text else "")


def _class(number: int) -> str:
    return _CLASSES.get(number, f"CLASS{number}")


def _type(number: int) -> str:
    return {251: "IXFR", 252: "AXFR", 255: "ANY"}.get(number) or type_name(number)
