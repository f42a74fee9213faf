"""Records as dig prints them ⇄ the DNS message of a packet.

A record is one line: `owner [TTL] [IN] type rdata`. Owners are relative to the key: `_iroh`,
`foo.bar`, `@` for the key itself; in the message they stand under the key's z-base-32 label as
top-level domain. A line pasted from dig, with the whole name that was asked, works as well: what
follows the key's label (the origin of the server asked) is left off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from aspen.dns.message import read_record, section_counts, skip_questions, validate_message
from aspen.dns.name import ROOT, label_offsets, name_to_text
from aspen.dns.presentation import (
    CompressibleName,
    RdataPart,
    Word,
    format_rdata,
    parse_name,
    parse_rdata,
    split_words,
    type_name,
    type_number,
)
from aspen.dns.rdata import read_rdata
from aspen.errors import DnsWireError, InputError
from aspen.limits import DNS_LABEL_BYTES, PKARR_PACKET_BYTES
from aspen.z32 import encode_key

DEFAULT_TTL: Final = 30
TTL_MAX: Final = 2**31 - 1
"""RFC 2181 §8."""

_HEADER: Final = struct.Struct(">HHHHHH")
_RR_FIXED: Final = struct.Struct(">HHI")
_RESPONSE_AUTHORITATIVE: Final = 0x8400
_IN: Final = 1
_CNAME: Final = 5
_OPT: Final = 41
_POINTER_MARK: Final = 0xC000
_POINTER_REACH: Final = 0x3FFF
_CLASSES: Final = {1: "IN", 3: "CH", 4: "HS"}


class Record(NamedTuple):
    """A record ready to be written into a message."""

    owner: bytes
    rrtype: int
    ttl: int
    rdata: tuple[RdataPart, ...]


def build_message(public_key: bytes, records: Iterable[str], *, default_ttl: int = DEFAULT_TTL) -> bytes:
    """The DNS message that publishes `records` under a key.

    Raises `InputError` that names the record and what is wrong with it.
    """
    zone_label = encode_key(public_key).encode()
    zone = bytes((len(zone_label),)) + zone_label + ROOT
    unique: dict[tuple[bytes, int, tuple[RdataPart, ...]], Record] = {}
    for text in records:
        try:
            record = parse_record(text, zone, default_ttl)
        except InputError as error:
            raise InputError(f"in the record {text!r}: {error}") from None
        unique.setdefault((record.owner, record.rrtype, record.rdata), record)
    answers = list(unique.values())
    _refuse_cname_conflicts(answers)
    message = _Writer().write(answers)
    if len(message) > PKARR_PACKET_BYTES:
        raise InputError(
            f"the records take {len(message)} bytes; at most {PKARR_PACKET_BYTES} fit into a packet"
        )
    try:
        validate_message(message)
    except DnsWireError as error:
        raise InputError(f"the records make no valid DNS message: {error}") from None
    return message


def parse_record(text: str, zone: bytes, default_ttl: int) -> Record:
    """Read one line. `zone` is the wire name that owners are relative to. Raises `InputError`."""
    words = split_words(text)
    if len(words) < 2:
        raise InputError("a record is: owner [TTL] [IN] type rdata")
    owner = _owner(words[0].raw, zone)
    position = 1
    ttl = None
    has_class = False
    while position < len(words):  # TTL and class may stand in either order
        word = words[position].raw
        if ttl is None and word.isascii() and word.isdigit():
            ttl = int(word)
        elif not has_class and word.upper() == "IN":
            has_class = True
        elif word.upper() in ("CH", "HS", "CS"):
            raise InputError(f"the class {word.upper()} can't be published; leave it out, or write IN")
        else:
            break
        position += 1
    if position == len(words):
        raise InputError("the type is missing")
    ttl = default_ttl if ttl is None else ttl
    if not 0 <= ttl <= TTL_MAX:
        raise InputError(f"a TTL is 0 to {TTL_MAX} seconds, not {ttl}")
    rrtype = type_number(_unquoted(words[position]))
    rdata = parse_rdata(rrtype, words[position + 1 :], zone)
    return Record(owner, rrtype, ttl, tuple(rdata))


def format_message(message: bytes) -> list[str]:
    """The records of a valid DNS message, one line each, as dig prints them.

    Raises `DnsWireError` if it isn't one.
    """
    validate_message(message)
    questions, *others = section_counts(message)
    offset = skip_questions(message, questions)
    lines = []
    for _ in range(sum(others)):
        record = read_record(message, offset)
        offset = record.rdata_end
        if record.rrtype == _OPT:
            continue
        fields = read_rdata(message, record.rrtype, record.rdata_start, record.rdata_end)
        rdata = format_rdata(record.rrtype, b"".join(octets for _, octets in fields))
        rrclass = _CLASSES.get(record.rrclass, f"CLASS{record.rrclass}")
        owner, kind = name_to_text(record.owner), type_name(record.rrtype)
        lines.append(f"{owner}\t{record.ttl}\t{rrclass}\t{kind}\t{rdata}")
    return lines


def _owner(text: str, zone: bytes) -> bytes:
    absolute = parse_name(text if text == "@" or text.endswith(".") else text + ".", zone)
    folded = absolute.lower()
    zone_label = zone[:-1]
    for start in label_offsets(folded)[:-1]:
        if folded[start : start + len(zone_label)] == zone_label:
            return folded[:start] + zone
    if text.endswith("."):
        raise InputError(f"the name {text} is not under the key; without its final dot it will be put there")
    return parse_name(text, zone).lower()


def _unquoted(word: Word) -> str:
    if word.raw.startswith('"'):
        raise InputError(f"the type is missing before {word.raw}")
    return word.raw


def _refuse_cname_conflicts(records: list[Record]) -> None:
    """An alias has no data of its own (RFC 1034 §3.6.2)."""
    for alias in (record for record in records if record.rrtype == _CNAME):
        if sum(record.owner == alias.owner for record in records) > 1:
            raise InputError(
                f"{name_to_text(alias.owner)} has a CNAME and other records; an alias stands alone"
            )


class _Writer:
    """Writes a message, names compressed (RFC 1035 §4.1.4): a packet has room for 1000 bytes."""

    def __init__(self) -> None:
        self._message = bytearray()
        self._places: dict[bytes, int] = {}

    def write(self, records: list[Record]) -> bytes:
        message = self._message
        message += _HEADER.pack(0, _RESPONSE_AUTHORITATIVE, 0, len(records) & 0xFFFF, 0, 0)
        for record in records:
            self._name(record.owner)
            message += _RR_FIXED.pack(record.rrtype, _IN, record.ttl)
            length_at = len(message)
            message += b"\0\0"
            for part in record.rdata:
                if isinstance(part, CompressibleName):
                    self._name(part)
                else:
                    message += part
            length = len(message) - length_at - 2
            if length > 0xFFFF:
                raise InputError(f"a {type_name(record.rrtype)} record of {length} bytes")
            message[length_at : length_at + 2] = length.to_bytes(2, "big")
        return bytes(message)

    def _name(self, name: bytes) -> None:
        offset = 0
        while name[offset]:
            suffix = name[offset:].lower()
            place = self._places.get(suffix)
            if place is not None:
                self._message += (_POINTER_MARK | place).to_bytes(2, "big")
                return
            if len(self._message) <= _POINTER_REACH:
                self._places[suffix] = len(self._message)
            end = offset + 1 + name[offset]
            self._message += name[offset:end]
            offset = end
        self._message += ROOT


assert len(encode_key(bytes(32))) <= DNS_LABEL_BYTES  # a key fits into one label
