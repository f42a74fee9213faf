"""A relay payload field by field: where each stands, what it says, and what is wrong with it.

`SignedPacket.parse` stops at the first thing that is wrong. This goes on for as long as the next field can
be found, for people who want to know why their packet was refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aspen.dns.message import read_record
from aspen.dns.name import HEADER_BYTES, name_to_text, read_name
from aspen.dns.presentation import format_rdata, type_name
from aspen.dns.rdata import read_rdata
from aspen.errors import DnsWireError, IdentityError
from aspen.identity import verify
from aspen.limits import PKARR_PACKET_BYTES
from aspen.pkarr.packet import MESSAGE_START, SIGNATURE_BYTES, TIMESTAMP_MAX_US, signable
from aspen.z32 import KEY_CHARS, decode_key

_QUESTION_BYTES: Final = 4
_SECTIONS: Final = ("answer", "authority", "additional")
_CLASSES: Final = {1: "IN", 3: "CH", 4: "HS"}


class Field(NamedTuple):
    """One field of a payload."""

    offset: int
    """In the payload, in octets."""
    size: int
    name: str
    value: str
    problem: str = ""
    """What is wrong with it; empty if nothing is."""


def explain(payload_untrusted: bytes, public_key: bytes | None = None) -> list[Field]:
    """Every field that can be found, in order. Without a key, the one that the records stand under is tried.

    Never raises for any payload.
    """
    payload = payload_untrusted
    fields: list[Field] = []
    if len(payload) < MESSAGE_START:
        missing = "signature" if len(payload) < SIGNATURE_BYTES else "timestamp"
        reason = f"the payload ends at octet {len(payload)}, inside the {missing}"
        return [Field(0, len(payload), "payload", f"{len(payload)} octets", reason)]
    timestamp_us = int.from_bytes(payload[SIGNATURE_BYTES:MESSAGE_START], "big")
    message = payload[MESSAGE_START:]
    message_fields, names = _message(message)
    fields.append(_signature(payload, timestamp_us, message, public_key, names))
    problem = "" if 0 < timestamp_us <= TIMESTAMP_MAX_US else "a timestamp is 1 to 2^63 - 1"
    fields.append(Field(SIGNATURE_BYTES, 8, "timestamp", f"{timestamp_us} microseconds since 1970", problem))
    problem = ""
    if len(message) > PKARR_PACKET_BYTES:
        problem = f"{len(message) - PKARR_PACKET_BYTES} octets more than the {PKARR_PACKET_BYTES} allowed"
    fields.append(Field(MESSAGE_START, len(message), "message", f"{len(message)} octets", problem))
    return fields + message_fields


def _signature(
    payload: bytes, timestamp_us: int, message: bytes, public_key: bytes | None, names: list[str]
) -> Field:
    signature = payload[:SIGNATURE_BYTES]
    value, problem = signature.hex(), ""
    guessed = _key_of(names) if public_key is None else None
    key = public_key if public_key is not None else guessed
    if key is None:
        problem = "not verified: no key was given, and the records name none"
    elif not verify(key, signable(timestamp_us, message), signature):
        whose = "the key that the records stand under" if guessed else "the key"
        problem = f"not a signature by {whose} over this timestamp and message"
    return Field(0, SIGNATURE_BYTES, "signature", value, problem)


def _key_of(names: list[str]) -> bytes | None:
    """The key that all names stand directly or further below."""
    labels = {name.rstrip(".").rpartition(".")[2] for name in names}
    if len(labels) != 1:
        return None
    label = labels.pop()
    try:
        return decode_key(label) if len(label) == KEY_CHARS else None
    except IdentityError:
        return None


def _message(message: bytes) -> tuple[list[Field], list[str]]:
    """The fields of a DNS message, and the owners of its records; ends at the first that can't be read."""
    if len(message) < HEADER_BYTES:
        reason = f"the message ends at octet {len(message)}, inside its header of {HEADER_BYTES}"
        return [Field(MESSAGE_START, len(message), "header", message.hex(), reason)], []
    number = [int.from_bytes(message[at : at + 2], "big") for at in range(0, HEADER_BYTES, 2)]
    value = f"id {number[0]}, flags 0x{number[1]:04x}, " + ", ".join(
        f"{name} {count}" for name, count in zip(("QD", "AN", "NS", "AR"), number[2:], strict=True)
    )
    fields = [Field(MESSAGE_START, HEADER_BYTES, "header", value)]
    names: list[str] = []
    offset = HEADER_BYTES
    plan = [("question", number[2]), *zip(_SECTIONS, number[3:], strict=True)]
    for section, count in plan:
        for position in range(count):
            title = f"{section} {position + 1} of {count}"
            try:
                field, after, owner = _entry(message, offset, title, question=section == "question")
            except DnsWireError as error:
                rest = len(message) - offset
                reason = str(error) if rest else "the message ends here"
                fields.append(Field(MESSAGE_START + offset, rest, title, f"{rest} octets left", reason))
                return fields, names
            fields.append(field)
            offset = after
            if owner:
                names.append(owner)
    if offset != len(message):
        rest = len(message) - offset
        reason = "octets after the end of the message"
        fields.append(Field(MESSAGE_START + offset, rest, "rest", message[offset:].hex(), reason))
    return fields, names


def _entry(message: bytes, offset: int, title: str, *, question: bool) -> tuple[Field, int, str]:
    """A question or a record; the offset after it, and its owner if it is an answer's.

    Raises `DnsWireError`.
    """
    if question:
        name, after = read_name(message, offset)
        end = after + _QUESTION_BYTES
        if end > len(message):
            raise DnsWireError("a question runs past the end of the message")
        rrtype = type_name(int.from_bytes(message[after : after + 2], "big"))
        value = f"{name_to_text(name)} {rrtype}"
        return Field(MESSAGE_START + offset, end - offset, title, value), end, ""
    record = read_record(message, offset)
    kind = type_name(record.rrtype)
    owner = name_to_text(record.owner)
    rrclass = _CLASSES.get(record.rrclass, f"CLASS{record.rrclass}")
    head = f"{owner} {record.ttl} {rrclass} {kind}"
    size = record.rdata_end - offset
    where = MESSAGE_START + offset
    try:
        parts = read_rdata(message, record.rrtype, record.rdata_start, record.rdata_end)
    except DnsWireError as error:
        rdata = f"\\# {record.rdata_end - record.rdata_start} …"
        problem = f"{error} (RDATA at octet {MESSAGE_START + record.rdata_start})"
        return Field(where, size, title, f"{head} {rdata}", problem), record.rdata_end, owner
    rdata = format_rdata(record.rrtype, b"".join(octets for _, octets in parts))
    answer = title.startswith("answer")
    return Field(where, size, title, f"{head} {rdata}"), record.rdata_end, owner if answer else ""
