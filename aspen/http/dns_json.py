"""A DNS message as JSON, in the form that public resolvers made common (and RFC 8427 did not).

`{"Status": 0, "TC": false, …, "Question": [{"name": "a.example.", "type": 1}], "Answer": [{"name":
"a.example.", "type": 1, "TTL": 60, "data": "192.0.2.1"}]}`: names are absolute, with their final
dot, also inside `data`, which is what a master file would say.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aspen.dns.message import RecordView, read_record, section_counts
from aspen.dns.name import HEADER_BYTES, name_to_text, read_name
from aspen.dns.presentation import format_rdata
from aspen.dns.rdata import read_rdata
from aspen.dns.wire import EDE_OPTION, OPT
from aspen.errors import DnsWireError

_FIXED_BYTES: Final = 4  # QTYPE and QCLASS
_SECTIONS: Final = ("Answer", "Authority", "Additional")
_OPTION_HEAD_BYTES: Final = 4


class _Record(msgspec.Struct):
    name: str
    type: int
    TTL: int
    data: str


def json_of(message: bytes) -> dict[str, Any]:
    """What a reply says. `message` is our own, so it is whole."""
    questions, *counts = section_counts(message)
    first, second = message[2], message[3]
    said: dict[str, Any] = {
        "Status": second & 0x0F,
        "TC": bool(first & 0x02),
        "RD": bool(first & 0x01),
        "RA": bool(second & 0x80),
        "AA": bool(first & 0x04),
        "AD": bool(second & 0x20),
        "CD": bool(second & 0x10),
        "Question": [],
    }
    offset = HEADER_BYTES
    for _ in range(questions):
        name, offset = read_name(message, offset)
        number = int.from_bytes(message[offset : offset + 2], "big")
        said["Question"].append({"name": name_to_text(name), "type": number})
        offset += _FIXED_BYTES
    comments: list[str] = []
    for section, count in zip(_SECTIONS, counts, strict=True):
        records = []
        for _ in range(count):
            record = read_record(message, offset)
            offset = record.rdata_end
            if record.rrtype == OPT:
                said["Status"] |= record.ttl >> 24 << 4
                comments += _extended_errors(message[record.rdata_start : record.rdata_end])
            else:
                records.append(_shown(message, record))
        if records:
            said[section] = records
    if comments:
        said["Comment"] = "; ".join(comments)
    return said


def _shown(message: bytes, record: RecordView) -> _Record:
    try:
        fields = read_rdata(message, record.rrtype, record.rdata_start, record.rdata_end)
    except DnsWireError:
        rdata = message[record.rdata_start : record.rdata_end]
    else:
        rdata = b"".join(octets for _, octets in fields)
    data = format_rdata(record.rrtype, rdata)
    return _Record(name_to_text(record.owner), record.rrtype, record.ttl, data)


def _extended_errors(options: bytes) -> list[str]:
    """Those of RFC 8914, in words."""
    found = []
    offset = 0
    while offset + _OPTION_HEAD_BYTES <= len(options):
        code = int.from_bytes(options[offset : offset + 2], "big")
        end = offset + _OPTION_HEAD_BYTES + int.from_bytes(options[offset + 2 : offset + 4], "big")
        body = options[offset + _OPTION_HEAD_BYTES : end]
        offset = end
        if code == EDE_OPTION and len(body) >= 2:
            number = int.from_bytes(body[:2], "big")
            text = body[2:].decode("utf-8", "replace")
            found.append(f"EDE {number}: {text}" if text else f"EDE {number}")
    return found
