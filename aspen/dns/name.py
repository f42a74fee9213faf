"""Domain names on the wire (RFC 1035 §3.1, §4.1.4; case RFC 4343).

A name here is `bytes` in uncompressed wire form: length octet and label, repeated, up to the
root's zero octet. Folding a whole wire name with `bytes.lower()` is safe, because length octets
are at most 63 and so never look like the letters A–Z.

A *relative* name is the leading labels of a name without what comes below it in the tree (the
origin or the key's label): the same bytes, without a closing zero octet; `b""` is the apex.
"""

from __future__ import annotations

from typing import Final

from aspen.errors import DnsWireError
from aspen.limits import DNS_LABEL_BYTES, DNS_NAME_BYTES, DNS_NAME_POINTERS

ROOT: Final = b"\x00"
HEADER_BYTES: Final = 12
"""Names begin after the message header, so no pointer may lead into it."""

_POINTER_MARK: Final = 0xC0


def read_name(message_untrusted: bytes, offset: int) -> tuple[bytes, int]:
    """The uncompressed name at `offset`, and the offset after it. Case is kept.

    Every pointer must lead to before the run of labels it ends: so the runs' starts fall strictly
    and reading ends, whatever the bytes. Raises `DnsWireError`.
    """
    message = message_untrusted
    run, after, pointers = offset, -1, 0
    name = b""
    try:
        while (length := message[offset]) != 0:
            if length <= DNS_LABEL_BYTES:
                offset += 1 + length
                continue
            if length < _POINTER_MARK:
                raise DnsWireError("a label of a reserved type")
            name += message[run:offset]
            target = (length & 0x3F) << 8 | message[offset + 1]
            if after < 0:
                after = offset + 2
            pointers += 1
            if not HEADER_BYTES <= target < run or pointers > DNS_NAME_POINTERS:
                raise DnsWireError("a compression pointer that doesn't lead strictly backwards")
            if len(name) >= DNS_NAME_BYTES:
                raise DnsWireError("a name longer than 255 octets")
            run = offset = target
    except IndexError:
        raise DnsWireError("a name runs past the end of the message") from None
    name += message[run : offset + 1]
    if len(name) > DNS_NAME_BYTES:
        raise DnsWireError("a name longer than 255 octets")
    return name, after if after >= 0 else offset + 1


def skip_name(message_untrusted: bytes, offset: int) -> int:
    """The offset after the name at `offset`, checked like `read_name`."""
    return read_name(message_untrusted, offset)[1]


def label_offsets(name: bytes) -> list[int]:
    """Where each label of a wire name begins, the root's zero octet included."""
    offsets = [0]
    offset = 0
    while name[offset]:
        offset += 1 + name[offset]
        offsets.append(offset)
    return offsets


def relative_to(name: bytes, origin: bytes) -> bytes | None:
    """The labels of `name` before `origin`, both wire names of one case; None if it isn't below it.

    Comparing ends alone won't do: the octets of an origin may also end a longer label, whose text
    happens to hold them (a label's length of 52 is the character "4").
    """
    if not name.endswith(origin):
        return None
    boundary = len(name) - len(origin)
    offset = 0
    while offset < boundary:
        offset += 1 + name[offset]
    return name[:boundary] if offset == boundary else None


def parents(relative: bytes) -> list[bytes]:
    """The relative names above a relative name, nearest first, the apex `b""` last."""
    above = []
    offset = 0
    while offset < len(relative):
        offset += 1 + relative[offset]
        above.append(relative[offset:])
    return above


def name_from_text(text: str) -> bytes:
    """The wire name for a name in master-file spelling (RFC 1035 §5.1), always taken as absolute.

    Raises `DnsWireError`.
    """
    if text in (".", ""):
        return ROOT
    if "\\" not in text:
        return _plain_from_text(text)
    wire = bytearray()
    label = bytearray()
    body = text.encode("utf-8", "surrogateescape")
    position = 0
    while position < len(body):
        octet = body[position]
        if octet == 0x2E:  # "."
            _close_label(wire, label, text)
            label.clear()
        elif octet == 0x5C:  # "\": \DDD is an octet in decimal, \X is X itself
            digits = body[position + 1 : position + 4]
            if len(digits) == 3 and digits.isdigit() and int(digits) < 256:
                label.append(int(digits))
                position += 3
            elif digits and not digits[:1].isdigit():
                label.append(digits[0])
                position += 1
            else:
                raise DnsWireError(f"a bad escape in the name {text!r}")
        else:
            label.append(octet)
        position += 1
    if label:
        _close_label(wire, label, text)
    wire.append(0)
    if len(wire) > DNS_NAME_BYTES:
        raise DnsWireError(f"the name {text!r} is longer than 255 octets")
    return bytes(wire)


def _plain_from_text(text: str) -> bytes:
    """`name_from_text` of a text without escapes."""
    labels = text.removesuffix(".").encode("utf-8", "surrogateescape").split(b".")
    if not all(0 < len(label) <= DNS_LABEL_BYTES for label in labels):
        raise DnsWireError(f"the name {text!r} has a label that is empty or longer than 63 octets")
    wire = b"".join([bytes((len(label),)) + label for label in labels]) + ROOT
    if len(wire) > DNS_NAME_BYTES:
        raise DnsWireError(f"the name {text!r} is longer than 255 octets")
    return wire


def _close_label(wire: bytearray, label: bytearray, text: str) -> None:
    if not 1 <= len(label) <= DNS_LABEL_BYTES:
        raise DnsWireError(f"the name {text!r} has a label that is empty or longer than 63 octets")
    wire.append(len(label))
    wire += label


def name_to_text(name: bytes) -> str:
    """The master-file spelling of a wire name, with its final dot."""
    if name == ROOT:
        return "."
    text = []
    for start in label_offsets(name)[:-1]:
        for octet in name[start + 1 : start + 1 + name[start]]:
            if octet in b'."\\();@$':
                text.append("\\" + chr(octet))
            elif 0x20 < octet < 0x7F:
                text.append(chr(octet))
            else:
                text.append(f"\\{octet:03d}")
        text.append(".")
    return "".join(text)
